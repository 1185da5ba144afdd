"""Steps 2 and 4: the baselines, and the winner of the search, each once a seed, under Ray Train and DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

from pipelines.context import Context
from pipelines.generate import dataset
from pipelines.presets import Arm, Pipeline
from pipelines.steps import Run, Step
from pipelines.tune import read_best
from sleepmodel.config import ModelConfig
from sleepmodel.job import MODEL, Job

WINNER, WINNER_AT_N1 = "winner", "n1-winner-eta"

ChooseModel = Callable[[Run], ModelConfig]


def baseline_steps(pipeline: Pipeline, arm: Arm, data: Step, context: Context) -> list[Step]:
    """One training a seed of a line of the comparison."""
    model = pipeline.arm_model(arm)
    steps = pipeline.arm_steps(arm)
    return _train_steps(arm.name, pipeline, {"model": model}, steps, (data,), lambda run: model, context)


def winner_steps(pipeline: Pipeline, data: Step, search: Step, context: Context) -> dict[str, list[Step]]:
    """Two lines: the N and eta that the search chose, and that eta at N = 1, which tells the one's part from the
    other's."""

    def winner(run: Run) -> ModelConfig:
        best = read_best(run.path(search))
        return replace(pipeline.model, sleep_passes=best.sleep_passes, fast_weight_lr=best.fast_weight_lr)

    def winner_at_n1(run: Run) -> ModelConfig:
        return replace(winner(run), sleep_passes=1)

    return {
        line: _train_steps(line, pipeline, {}, pipeline.train.steps, (data, search), choose, context)
        for line, choose in ((WINNER, winner), (WINNER_AT_N1, winner_at_n1))
    }


def _train_steps(
    line: str,
    pipeline: Pipeline,
    config: dict[str, object],
    steps: int,
    inputs: tuple[Step, ...],
    choose: ChooseModel,
    context: Context,
) -> list[Step]:
    """A line's trainings. config: what shapes the model, where it does not come out of the inputs; the first input is
    the dataset."""
    scale = pipeline.scale

    def step(seed: int) -> Step:
        train = replace(pipeline.train, seed=seed, steps=steps)

        def run(run: Run) -> None:
            if (run.output / MODEL).exists():  # killed between the model and its SUCCESS
                return
            # imported here, as it takes seconds that a plan or a finished pipeline should not wait for
            from sleepmodel.distributed import fit

            model = choose(run)
            job = Job(
                name=f"{line}-seed{seed}",
                model=model,
                train=train,
                scale=scale,
                dataset=str(dataset(run.path(inputs[0]))),
                output=str(run.output),
                store=context.store,
                run=context.run_of(run.step, {"model": asdict(model)}),
            )
            # the process that drives Ray Train needs no core: its workers have them
            context.map(fit, [(job,)], cores=0)

        cores = scale.workers * scale.cpus_per_worker
        return Step(f"train-{line}-seed{seed}", {**config, "line": line, "train": train}, run, inputs, cores)

    return [step(seed) for seed in pipeline.seeds]


if __name__ == "__main__":
    from pipelines.cli import main

    main("train", __doc__)
