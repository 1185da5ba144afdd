"""Evaluate every trained model on the test split."""

from pipelines.cli import main

if __name__ == "__main__":
    main("evaluate", __doc__)
