"""What a run found: tested once, exported, summarised, loaded again."""
