"""The datasets, as Ray tasks that write Parquet."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from datagen import Task, generate
from datagen.schema import fingerprint
from pipelines.config.experiment import Experiment
from pipelines.engine.locks import hold_repair
from pipelines.engine.scheduler import StageFailed
from pipelines.engine.stage import Stage, StageContext, State, script_of, state
from pipelines.runtime.services import FINGERPRINT
from sleepmodel.distributed.progress import SendProgress
from sleepmodel.training.progress import ProgressEvent

# the splits that the stages of a script read
READS = {
    "train": {"train", "validation"},
    "tune": {"train", "validation"},
    "evaluate": {"test"},
    "register": {"test"},
}


def dataset(output: Path) -> Path:
    """The dataset directory that a finished generate stage holds."""
    (found,) = output.glob("*/*/dataset.json")
    return found.parent


def generate_stage(experiment: Experiment, task: Task) -> Stage:
    """The stage that generates one dataset with its three splits. Raises ValueError if a task of imported rows has
    fewer of them."""
    data = experiment.data
    rows = {"train": experiment.train_rows(task), "validation": data.validation_rows, "test": data.test_rows}
    for split, count in rows.items():
        task.check_rows(split, count)

    def run(context: StageContext) -> None:
        send = SendProgress(context.stage.name)
        for split, count in rows.items():
            if context.parts is not None and split not in context.parts:
                continue

            def watch(done: int, all_rows: int, split: str = split) -> None:
                send(ProgressEvent(split, f"{context.stage.name}-{split}", done, all_rows))

            wait_minutes = experiment.scale.wait_minutes
            generate(task, split, count, data.seed, context.output, watch=watch, wait_minutes=wait_minutes)

    own = experiment.data_name(task)
    name = f"generate-{own}" if own else "generate"
    config = {"task": task.identity(), "rows": rows, "seed": data.seed, FINGERPRINT: fingerprint(task, data.seed)}
    return Stage(name, config, run, slots=None)


def repair_datasets(stages: Sequence[Stage], root: Path, preset: str, waits: Callable[[str], None]) -> None:
    """Write lost or damaged shards again, in those splits of finished datasets that unfinished `stages` read. Where
    another pipeline does the same, wait for it, and say so by `waits`.

    Raises StageFailed.
    """
    needed: dict[Stage, set[str]] = {}
    for stage in stages:
        if state(stage, root) is not State.DONE:
            for dependency in stage.inputs:
                if script_of(dependency) == "generate":
                    needed.setdefault(dependency, set()).update(READS[script_of(stage)])
    for data, splits in needed.items():
        if state(data, root) is State.DONE:
            try:
                with hold_repair(data, root, preset, waits):
                    data.run(StageContext(data, root, frozenset(splits)))  # keeps each shard whose checksum is right
            except (OSError, ValueError) as error:
                raise StageFailed(data, root, error) from error
