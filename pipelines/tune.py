"""Search over N and the fast-weight learning rate with Ray Tune."""

from pipelines.cli import main

if __name__ == "__main__":
    main("tune", __doc__)
