"""All stages of an experiment, in the order in which they run."""

from __future__ import annotations

import itertools

from pipelines.config.experiment import Experiment
from pipelines.engine.stage import Stage
from pipelines.runtime.services import Services
from pipelines.stages.evaluate import evaluate_stage
from pipelines.stages.generate import generate_stage
from pipelines.stages.register import register_stage
from pipelines.stages.report import report_stage
from pipelines.stages.train import baseline_stages, winner_stages
from pipelines.stages.tune import tune_stage


def plan(experiment: Experiment, services: Services) -> list[Stage]:
    """The stages; each has a name that begins with that of its script, such as train-n1-seed0.

    Raises ValueError where a training could not begin with the model that it is to start from.
    """
    experiment.check_starts()
    data = {task: generate_stage(experiment, task) for task in experiment.tasks()}
    baselines: dict[str, list[Stage]] = {}
    for variant in experiment.variants:
        baselines[variant.name] = baseline_stages(
            experiment, variant, data[experiment.variant_task(variant)], baselines, services
        )
    searches: list[Stage] = []
    winners: dict[str, list[Stage]] = {}
    if experiment.search:
        searches = [tune_stage(experiment, experiment.search, data[experiment.task], services)]
        winners = winner_stages(experiment, data[experiment.task], searches[0], services)
    variants = {**baselines, **winners}
    evaluated_at = {variant.name: variant.evaluated_at for variant in experiment.variants if variant.evaluated_at}
    questions = {variant.name: experiment.variant_task(variant).test_identity() for variant in experiment.variants}
    questions |= {name: experiment.task.test_identity() for name in winners}
    evaluation = evaluate_stage(variants, evaluated_at, questions, services)
    candidates = {name: variants[name] for name in experiment.candidates()}
    return [
        *data.values(),
        *itertools.chain(*baselines.values()),
        *searches,
        *itertools.chain(*winners.values()),
        evaluation,
        report_stage(evaluation, searches, services),
        *([register_stage(candidates, evaluation, services)] if candidates else []),
    ]
