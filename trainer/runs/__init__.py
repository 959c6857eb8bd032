"""A run on disk and in sight: its directory, checkpoints, log lines, signals."""
