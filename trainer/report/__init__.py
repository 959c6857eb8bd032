"""What a run's directory says, folded once: the report, the same page live, the terminal view."""
