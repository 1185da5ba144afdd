"""Step 3: the search over N and the fast-weight learning rate."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from pipelines.context import Context
from pipelines.generate import dataset
from pipelines.pipeline import Pipeline
from pipelines.steps import Run, Step
from sleepmodel.config import Search
from sleepmodel.job import Job
from sleepmodel.tuning import TrialResult, best, search

TRIALS = "trials.json"


def read_trials(output: Path) -> list[TrialResult]:
    """Every trial of a finished search."""
    return [TrialResult(**trial) for trial in json.loads((output / TRIALS).read_text())]


def read_best(output: Path) -> TrialResult:
    """The winner of a finished search."""
    return best(read_trials(output))


def tune_step(pipeline: Pipeline, config: Search, data: Step, context: Context) -> Step:
    """The search, with the whole cluster to itself."""
    train = replace(pipeline.train, seed=pipeline.search_seed)

    def run(run: Run) -> None:
        job = Job(
            name="tune",
            model=pipeline.model,
            train=train,
            scale=context.allotment.scale,
            dataset=str(dataset(run.path(data))),
            output=str(run.output),
            store=context.store,
            run=context.run_of(run.step),
        )
        # a process of its own, without a core: Tune wants the main thread, and the cores are the trials'
        (trials,) = context.map(search, [(job, config, context.allotment.at_once)], cores=0)
        best(trials)  # before the step counts as done
        (run.output / TRIALS).write_text(json.dumps([asdict(trial) for trial in trials], indent=2))

    return Step("tune", {"model": pipeline.model, "train": train, "search": config}, run, (data,), slots=None)


if __name__ == "__main__":
    from pipelines.cli import main

    main("tune", __doc__)
