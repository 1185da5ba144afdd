"""Steps 2 and 4: the baselines, and the winner of the search, each once a seed, under Ray Train and DeepSpeed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

from pipelines.context import Context
from pipelines.generate import dataset
from pipelines.pipeline import Arm, Pipeline
from pipelines.steps import Run, Step
from pipelines.tune import read_best
from sleepmodel.config import ModelConfig, TrainConfig
from sleepmodel.job import MODEL, Job, has_model, read_history

WINNER, WINNER_AT_N1 = "winner", "n1-winner-eta"

ChooseModel = Callable[[Run], ModelConfig]


def baseline_steps(
    pipeline: Pipeline, arm: Arm, data: Step, done: dict[str, list[Step]], context: Context
) -> list[Step]:
    """One training a seed of a line of the comparison; done: the lines before it."""
    model = pipeline.arm_model(arm)
    train = pipeline.arm_train(arm)
    starts = done[arm.start] if arm.start else None
    return _train_steps(arm.name, pipeline, {"model": model}, train, (data,), lambda run: model, context, starts)


def winner_steps(pipeline: Pipeline, data: Step, search: Step, context: Context) -> dict[str, list[Step]]:
    """Two lines: the N and eta that the search chose, and that eta at N = 1, which tells the one's part from the
    other's."""

    def winner(run: Run) -> ModelConfig:
        best = read_best(run.path(search))
        return replace(pipeline.model, sleep_passes=best.sleep_passes, fast_weight_lr=best.fast_weight_lr)

    def winner_at_n1(run: Run) -> ModelConfig:
        return replace(winner(run), sleep_passes=1)

    return {
        line: _train_steps(line, pipeline, {}, pipeline.train, (data, search), choose, context)
        for line, choose in ((WINNER, winner), (WINNER_AT_N1, winner_at_n1))
    }


def _train_steps(
    line: str,
    pipeline: Pipeline,
    config: dict[str, object],
    training: TrainConfig,
    inputs: tuple[Step, ...],
    choose: ChooseModel,
    context: Context,
    starts: list[Step] | None = None,
) -> list[Step]:
    """A line's trainings. starts: for each seed, the training whose model it begins with; config: what shapes it,
    where it does not come out of the inputs; the first input is the dataset.
    """

    def step(seed: int, start: Step | None) -> Step:
        train = replace(training, seed=seed)

        def run(run: Run) -> None:
            if not has_model(run.output):  # else killed, or without MLflow, between the model and its SUCCESS
                fit_in(run)
            context.send_curve(run.step, read_history(run.output))

        def fit_in(run: Run) -> None:
            # imported here, as it takes seconds that a plan or a finished pipeline should not wait for
            from sleepmodel.distributed import fit

            model = choose(run)
            job = Job(
                name=f"{line}-seed{seed}",
                model=model,
                train=train,
                scale=context.allotment.scale,
                dataset=str(dataset(run.path(inputs[0]))),
                output=str(run.output),
                start=str(run.path(start) / MODEL) if start else None,
                store=context.store,
                run=context.run_of(run.step, {"model": asdict(model)}),
                stop=str(context.stop),
            )
            # the process that drives Ray Train needs no core: its workers have them
            context.map(fit, [(job,)], cores=0)

        needed = (*inputs, start) if start else inputs
        return Step(f"train-{line}-seed{seed}", {**config, "line": line, "train": train}, run, needed)

    return [step(seed, starts[i] if starts else None) for i, seed in enumerate(pipeline.seeds)]


if __name__ == "__main__":
    from pipelines.cli import main

    main("train", __doc__)
