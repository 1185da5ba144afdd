"""Register the best model in MLflow; promote it to champion where it beats the standing one."""

from pipelines.script import start

if __name__ == "__main__":
    start("register", __doc__)
