"""Step 2 and 4: the baselines, and the winner of the search, each once a seed, under Ray Train and DeepSpeed."""

from __future__ import annotations

from dataclasses import replace

from pipelines.context import Context
from pipelines.generate import dataset
from pipelines.presets import Arm, Pipeline
from pipelines.steps import Run, Step
from pipelines.tune import read_best
from sleepmodel.config import ModelConfig, TrainConfig
from sleepmodel.distributed import fit
from sleepmodel.job import MODEL, Job

WINNER = "winner"


def baseline_steps(pipeline: Pipeline, arm: Arm, data: Step, context: Context) -> list[Step]:
    """One training a seed of a line of the comparison."""
    model, steps = pipeline.arm_model(arm), pipeline.arm_steps(arm)
    return [
        _train_step(
            f"train-{arm.name}-seed{seed}",
            pipeline,
            model,
            replace(pipeline.train, seed=seed, steps=steps),
            (data,),
            context,
        )
        for seed in pipeline.seeds
    ]


def winner_steps(pipeline: Pipeline, data: Step, search: Step, context: Context) -> list[Step]:
    """One training a seed with the N and eta that the search chose."""
    return [
        _train_step(
            f"train-{WINNER}-seed{seed}",
            pipeline,
            pipeline.model,
            replace(pipeline.train, seed=seed),
            (data, search),
            context,
        )
        for seed in pipeline.seeds
    ]


def _train_step(
    name: str, pipeline: Pipeline, model: ModelConfig, train: TrainConfig, inputs: tuple[Step, ...], context: Context
) -> Step:
    scale = pipeline.scale

    def run(run: Run) -> None:
        if (run.output / MODEL).exists():  # killed between the model and its SUCCESS
            return
        chosen = model
        if len(inputs) == 2:
            winner = read_best(run.path(inputs[1]))
            chosen = replace(model, sleep_passes=winner.sleep_passes, fast_weight_lr=winner.fast_weight_lr)
        job = Job(
            name=name.removeprefix("train-"),
            model=chosen,
            train=train,
            scale=scale,
            dataset=str(dataset(run.path(inputs[0]))),
            output=str(run.output),
            store=context.store,
            run=context.run_of(run.step),
        )
        # the process that drives Ray Train needs no core: its workers have them
        context.map(fit, [(job,)], cores=0)

    return Step(name, {"model": model, "train": train}, run, inputs, cores=scale.workers * scale.cpus_per_worker)


if __name__ == "__main__":
    from pipelines.cli import main

    main("train", __doc__)
