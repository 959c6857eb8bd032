"""Comparisons of ways to tune: `scripts/compare`."""
