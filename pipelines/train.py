"""Train every variant and, after the search, its winner, under Ray Train and DeepSpeed."""

from pipelines.cli import main

if __name__ == "__main__":
    main("train", __doc__)
