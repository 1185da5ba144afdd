"""Search over N and the fast-weight learning rate with Ray Tune."""

from pipelines.script import start

if __name__ == "__main__":
    start("tune", __doc__)
