"""Steps, presets, and one thin script a step; full.py runs them all."""

import os

# Ray reads this when it is imported: what the workers print is the progress, not noise to be folded away.
os.environ.setdefault("RAY_DEDUP_LOGS", "0")
