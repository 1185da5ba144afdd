"""Experiments: their definition, the presets, and overrides from the command line."""
