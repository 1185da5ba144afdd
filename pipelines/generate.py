"""Generate the datasets, as Ray tasks that write Parquet."""

from pipelines.cli import main

if __name__ == "__main__":
    main("generate", __doc__)
