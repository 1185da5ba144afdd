"""Register the best model in MLflow; promote it to champion where it beats the standing one."""

from pipelines.cli import main

if __name__ == "__main__":
    main("register", __doc__)
