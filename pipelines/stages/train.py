"""Trainings under Ray Train and DeepSpeed: the variants and the winner of the search, once for each seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

from pipelines.config.experiment import Experiment
from pipelines.config.variant import WINNER, WINNER_AT_N1, Variant
from pipelines.engine.stage import Stage, StageContext
from pipelines.runtime.services import Services
from pipelines.stages.generate import dataset
from pipelines.stages.tune import read_best
from sleepmodel.config.model import ModelConfig
from sleepmodel.config.training import TrainConfig
from sleepmodel.distributed.job import MODEL, TrainingJob, has_model, read_training
from sleepmodel.distributed.progress import SendProgress

ChooseModel = Callable[[StageContext], ModelConfig]


def baseline_stages(
    experiment: Experiment, variant: Variant, data: Stage, done: dict[str, list[Stage]], services: Services
) -> list[Stage]:
    """A variant's trainings, one for each seed. done: the trainings of the variants before it."""
    model = experiment.variant_model(variant)
    train = experiment.variant_train(variant)
    seeds, starts = experiment.variant_seeds(variant), done[variant.start] if variant.start else None
    return _train_stages(
        variant.name,
        experiment,
        {"model": model},
        train,
        (data,),
        lambda context: model,
        services,
        seeds=seeds,
        starts=starts,
    )


def winner_stages(experiment: Experiment, data: Stage, search: Stage, services: Services) -> dict[str, list[Stage]]:
    """Two variants: the N and eta that the search chose, and the same eta at N = 1, which separates the effect of eta
    from that of N."""

    def winner(context: StageContext) -> ModelConfig:
        best = read_best(context.path(search))
        return replace(experiment.model, sleep_passes=best.sleep_passes, fast_weight_lr=best.fast_weight_lr)

    def winner_at_n1(context: StageContext) -> ModelConfig:
        return replace(winner(context), sleep_passes=1)

    return {
        variant: _train_stages(
            variant, experiment, {}, experiment.train, (data, search), choose, services, seeds=experiment.seeds
        )
        for variant, choose in ((WINNER, winner), (WINNER_AT_N1, winner_at_n1))
    }


def _train_stages(
    variant: str,
    experiment: Experiment,
    config: dict[str, object],
    training: TrainConfig,
    inputs: tuple[Stage, ...],
    choose: ChooseModel,
    services: Services,
    *,
    seeds: tuple[int, ...],
    starts: list[Stage] | None = None,
) -> list[Stage]:
    """A variant's trainings, one for each seed.

    config: what shapes the result beside the inputs; inputs: the dataset first; choose: the model to train;
    starts: for each seed, the training whose model it begins with; None: the experiment's pretrained model, if any.
    """
    if starts is None:
        config = {**config, **experiment.pretrained.identity()}

    def stage(seed: int, start: Stage | None) -> Stage:
        train = replace(training, seed=seed)

        def run(context: StageContext) -> None:
            # an earlier run may have ended between the model and SUCCESS: killed, or MLflow did not answer
            if not has_model(context.output):
                fit_model(context)
            services.send_curve(context.stage, read_training(context.output).history)

        def fit_model(context: StageContext) -> None:
            # imported here, as it takes seconds that a plan or a finished pipeline should not wait for
            from sleepmodel.distributed.ray_train import fit

            model = choose(context)
            job = TrainingJob(
                name=f"{variant}-seed{seed}",
                model=model,
                train=train,
                scale=services.resources.scale,
                dataset=str(dataset(context.path(inputs[0]))),
                output=str(context.output),
                store=services.store,
                run=services.run_of(context.stage, {"model": asdict(model)}),
                stop=str(services.stop),
                watch=SendProgress(context.stage.name),
                **({"start": str(context.path(start) / MODEL)} if start else experiment.pretrained.start()),
            )
            fit(job)  # in this thread: Ray Train's controller and workers are processes of their own

        needed = (*inputs, start) if start else inputs
        return Stage(
            f"train-{variant}-seed{seed}", {**config, "variant": variant, "train": train}, run, needed, version=2
        )

    return [stage(seed, starts[i] if starts else None) for i, seed in enumerate(seeds)]
