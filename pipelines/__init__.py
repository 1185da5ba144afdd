"""Steps, presets, and one thin script a step; full.py runs them all."""
