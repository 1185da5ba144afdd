"""Run the whole pipeline: generate -> train baselines -> tune -> train the winner -> evaluate -> report -> register."""

from pipelines.script import start

if __name__ == "__main__":
    start("full", __doc__)
