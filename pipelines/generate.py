"""Step 1: the datasets, as Ray tasks that write Parquet."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from datagen import Rule110, generate
from datagen.schema import fingerprint
from pipelines.context import FINGERPRINT, Context
from pipelines.pipeline import AnyTask, Pipeline
from pipelines.steps import Run, Step


def dataset(output: Path) -> Path:
    """The dataset directory that a finished generate step holds."""
    (found,) = output.glob("*/*/dataset.json")
    return found.parent


def generate_step(pipeline: Pipeline, task: AnyTask, context: Context) -> Step:
    """One dataset with its three splits."""
    data = pipeline.data
    rows = {"train": pipeline.train_rows(), "validation": data.validation_rows, "test": data.test_rows}

    def run(run: Run) -> None:
        for split, count in rows.items():
            generate(task, split, count, data.seed, run.output)

    name = f"generate-t{task.steps}" if isinstance(task, Rule110) and task != pipeline.task else "generate"
    config = {"task": asdict(task), "rows": rows, "seed": data.seed, FINGERPRINT: fingerprint(task, data.seed)}
    return Step(name, config, run, slots=None)


if __name__ == "__main__":
    from pipelines.cli import main

    main("generate", __doc__)
