"""Run the whole pipeline: generate -> train baselines -> tune -> train the winner -> evaluate -> report -> register."""

from pipelines.cli import main

if __name__ == "__main__":
    main("full", __doc__)
