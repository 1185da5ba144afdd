"""The datasets, as Ray tasks that write Parquet."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from datagen import Task, generate
from datagen.schema import fingerprint
from pipelines.config.experiment import Experiment
from pipelines.engine.stage import Stage, StageContext
from pipelines.runtime.services import FINGERPRINT, Services
from sleepmodel.distributed.progress import SendProgress
from sleepmodel.training.progress import ProgressEvent


def dataset(output: Path) -> Path:
    """The dataset directory that a finished generate stage holds."""
    (found,) = output.glob("*/*/dataset.json")
    return found.parent


def generate_stage(experiment: Experiment, task: Task, services: Services) -> Stage:
    """One dataset with its three splits."""
    data = experiment.data
    rows = {"train": experiment.train_rows(), "validation": data.validation_rows, "test": data.test_rows}

    def run(run: StageContext) -> None:
        tell = SendProgress(run.stage.name)
        for split, count in rows.items():

            def watch(done: int, all_rows: int, split: str = split) -> None:
                tell(ProgressEvent(split, f"{run.stage.name}-{split}", done, all_rows))

            generate(task, split, count, data.seed, run.output, watch=watch)

    name = "generate" if task == experiment.task else f"generate-t{task.max_depth}"
    config = {"task": asdict(task), "rows": rows, "seed": data.seed, FINGERPRINT: fingerprint(task, data.seed)}
    return Stage(name, config, run, slots=None)
