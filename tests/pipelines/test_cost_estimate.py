"""Seconds of training, estimated before it begins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from pipelines.config.experiment import Experiment
from pipelines.config.presets import PRESETS
from pipelines.runtime import cost_estimate
from sleepmodel import Scale


def test_trainings_that_run_at_once_take_the_time_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many at once as have cores; a single one takes its time whatever there is."""
    monkeypatch.setattr(cost_estimate, "timed_step", lambda *_: (lambda: None, 1.0))
    monkeypatch.setattr(cost_estimate, "seconds_of", lambda _: 1.0)
    preset = PRESETS["rule110-rows-mini"]
    one = replace(preset, variants=preset.variants[:1], seeds=(1,))
    four = replace(one, seeds=(1, 2, 3, 4))

    def seconds(experiment: Experiment, cores: int) -> float:
        monkeypatch.setattr(cost_estimate, "_cores", lambda: cores)
        return cost_estimate.training_seconds(experiment)

    alone = seconds(one, 1)
    assert [seconds(four, cores) / alone for cores in (1, 2, 4, 8)] == [4, 2, 1, 1]
    assert seconds(one, 8) == alone
    chain = replace(one, variants=(*one.variants, replace(one.variants[0], name="further", start=one.variants[0].name)))
    assert seconds(chain, 8) == 2 * alone  # one begins with the weights of the other
    assert [seconds(replace(four, scale=Scale(workers=2)), cores) / alone for cores in (2, 3, 4)] == [2, 2, 1]


def test_steps_are_timed_on_the_cores_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    threads: list[int] = []

    def timed_step(experiment: Experiment, *_: object) -> tuple[Callable[[], object], float]:
        return lambda: threads.append(torch.get_num_threads()), 1.0

    monkeypatch.setattr(cost_estimate, "timed_step", timed_step)
    before = torch.get_num_threads()
    for cores in (1, 2):
        cost_estimate.training_seconds(replace(PRESETS["smoke"], scale=Scale(cpus_per_worker=cores)))
    assert set(threads[: len(threads) // 2]) == {1} and set(threads[len(threads) // 2 :]) == {2}
    assert torch.get_num_threads() == before
