"""The whole pipeline: generate -> train baselines -> tune -> train the winner -> evaluate -> report -> register."""

from __future__ import annotations

import itertools

from pipelines.context import Context
from pipelines.evaluate import evaluate_step
from pipelines.generate import generate_step
from pipelines.pipeline import Pipeline
from pipelines.register import register_step
from pipelines.report import report_step
from pipelines.steps import Step
from pipelines.train import WINNER, baseline_steps, winner_steps
from pipelines.tune import tune_step


def plan(pipeline: Pipeline, context: Context) -> list[Step]:
    """Every step of a pipeline, in the order in which it runs them; a step's name begins with its script's."""
    data = {task: generate_step(pipeline, task, context) for task in pipeline.tasks()}
    baselines: dict[str, list[Step]] = {}
    for arm in pipeline.arms:
        baselines[arm.name] = baseline_steps(pipeline, arm, data[pipeline.arm_task(arm)], baselines, context)
    searches: list[Step] = []
    winners: dict[str, list[Step]] = {}
    if pipeline.search:
        searches = [tune_step(pipeline, pipeline.search, data[pipeline.task], context)]
        winners = winner_steps(pipeline, data[pipeline.task], searches[0], context)
    lines = {**baselines, **winners}
    more = {arm.name: arm.evaluated_at for arm in pipeline.arms if arm.evaluated_at}
    evaluation = evaluate_step(lines, more, context)
    candidates = {WINNER: winners[WINNER]} if winners else {name: baselines[name] for name in pipeline.candidates()}
    return [
        *data.values(),
        *itertools.chain(*baselines.values()),
        *searches,
        *itertools.chain(*winners.values()),
        evaluation,
        report_step(evaluation, searches, context),
        *([register_step(candidates, evaluation, context)] if candidates else []),
    ]


if __name__ == "__main__":
    from pipelines.cli import main

    main("full", __doc__)
