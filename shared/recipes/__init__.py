"""Packaged recipes: one TOML file each, by name, and the demo's own data."""
