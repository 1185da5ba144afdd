"""What the benchmark of halting shows of its measurements."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.halting import draw, summary, table, verdict
from sleepmodel import Halting
from sleepmodel.evaluation.accuracy import Accuracy
from sleepmodel.evaluation.halting import Measured
from sleepmodel.evaluation.statistics import Share

READOUT, STATE = Halting(), Halting(0.1, "state")


def measured(rule: Halting | None, most: int, passes: float, right: int) -> Measured:
    share = Share(right, 100, (right / 100 - 0.02, right / 100 + 0.02))
    return Measured(rule, most, passes, Accuracy(share, {1: Share(90, 100), 4: share}), {1: passes - 0.5, 4: passes})


FOUND = [measured(None, 1, 1, 60), measured(None, 4, 4, 95), measured(READOUT, 4, 2.5, 94), measured(STATE, 4, 3, 80)]


def test_the_fewest_passes_with_about_the_best_accuracy_are_told(tmp_path: Path) -> None:
    points = [summary([each]) for each in FOUND]
    assert verdict(points).endswith("accuracy: 4 with a fixed N, 2.5 by a rule")
    assert verdict(points[:2] + points[3:]).endswith("4 with a fixed N, no rule gets there")
    assert table(points).splitlines()[0::4] == [
        "| setting | mean passes | rows right | passes at depth 1 | passes at depth 4 |",
        "| readout at most 0.0 | 2.50 | 0.940 [0.920, 0.960] | 2.0 | 2.5 |",
    ]
    draw(points, tmp_path / "halting.png")
    assert (tmp_path / "halting.png").stat().st_size > 5000


def test_several_models_are_seeds() -> None:
    point = summary([FOUND[2], measured(READOUT, 4, 3.5, 90)])
    assert point["passes"] == 3.0 and point["accuracy"]["value"] == pytest.approx(0.92)
    low, high = point["accuracy"]["interval"]
    assert low < 0.9 and high > 0.94  # Student's, of two seeds
    assert point["depths"]["4"] == {"passes": 3.0, "answers": pytest.approx(0.92)}
