"""Train every variant and, after the search, its winner, under Ray Train and DeepSpeed."""

from pipelines.script import start

if __name__ == "__main__":
    start("train", __doc__)
