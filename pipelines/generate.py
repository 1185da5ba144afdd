"""Generate the datasets, as Ray tasks that write Parquet."""

from pipelines.script import start

if __name__ == "__main__":
    start("generate", __doc__)
