"""The search over N and the fast-weight learning rate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from datagen.artifact import Artifact
from pipelines.config.experiment import Experiment
from pipelines.engine.stage import Stage, StageContext
from pipelines.runtime.services import Services
from pipelines.stages.generate import dataset
from sleepmodel.config.training import Search
from sleepmodel.distributed.job import TrainingJob
from sleepmodel.distributed.progress import SendProgress
from sleepmodel.distributed.trials import TrialResult, best

TRIALS = Artifact("trials.json", list[TrialResult])


def read_best(output: Path) -> TrialResult:
    """The winner of a finished search."""
    return best(TRIALS.load(output))


def tune_stage(experiment: Experiment, config: Search, data: Stage, services: Services) -> Stage:
    """The stage that runs the search, alone on the cluster."""
    train = replace(experiment.train, seed=experiment.search_seed)

    def run(context: StageContext) -> None:
        # imported here, as Ray Tune takes seconds that a plan or a finished pipeline should not wait for
        from sleepmodel.distributed.ray_tune import remove_checkpoints, search

        job = TrainingJob(
            name="tune",
            model=experiment.model,
            train=train,
            scale=services.resources.scale,
            dataset=str(dataset(context.path(data))),
            output=str(context.output),
            store=services.store,
            run=services.run_of(context.stage),
            stop=str(services.stop),
            watch=SendProgress(context.stage.name),
            **experiment.pretrained.start(),
        )
        # in this thread: its trials are processes of their own
        trials = search(job, config, services.resources.max_concurrent, services.room())
        best(trials)  # raises where there is none: then the stage is not done
        TRIALS.save(context.output, trials)
        remove_checkpoints(context.output)

    settings = {"model": experiment.model, "train": train, "search": config, **experiment.pretrained.identity()}
    return Stage("tune", settings, run, (data,), slots=None, version=2)
