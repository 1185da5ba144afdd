"""The whole pipeline: generate -> train baselines -> tune -> train the winner -> evaluate -> report -> register."""

from __future__ import annotations

from pipelines.context import Context
from pipelines.evaluate import evaluate_step
from pipelines.generate import generate_step
from pipelines.presets import Pipeline
from pipelines.register import register_step
from pipelines.report import report_step
from pipelines.steps import Step
from pipelines.train import WINNER, baseline_steps, winner_steps
from pipelines.tune import tune_step


def plan(pipeline: Pipeline, context: Context) -> list[Step]:
    """Every step of a pipeline, in the order in which it runs them; a step's name begins with its script's."""
    data = {task: generate_step(pipeline, task, context) for task in pipeline.tasks()}
    lines = {arm.name: baseline_steps(pipeline, arm, data[pipeline.arm_task(arm)], context) for arm in pipeline.arms}
    candidates, candidates_data, search = pipeline.arms[-1].name, data[pipeline.arm_task(pipeline.arms[-1])], None
    if pipeline.search:
        search = tune_step(pipeline, pipeline.search, data[pipeline.task], context)
        candidates, candidates_data = WINNER, data[pipeline.task]
        lines[WINNER] = winner_steps(pipeline, data[pipeline.task], search, context)
    trained = [step for steps in lines.values() for step in steps]
    evaluation = evaluate_step(lines, context)
    return [
        *data.values(),
        *(step for step in trained if step not in lines.get(WINNER, [])),
        *([search] if search else []),
        *lines.get(WINNER, []),
        evaluation,
        report_step(evaluation, candidates_data, search, context),
        register_step(candidates, evaluation, lines[candidates], candidates_data, context),
    ]


if __name__ == "__main__":
    from pipelines.cli import main

    main("full", __doc__)
