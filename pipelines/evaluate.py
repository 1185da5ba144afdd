"""Evaluate every trained model on the test split."""

from pipelines.script import start

if __name__ == "__main__":
    start("evaluate", __doc__)
