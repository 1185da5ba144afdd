"""The experiments: stages, presets, and one script for each kind of stage; full.py runs all stages."""
