"""What the benchmark of halting shows of its measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import halting
from benchmarks.halting import check, draw, main, summary, table, verdict
from datagen import Rows
from sleepmodel import Halting
from sleepmodel.evaluation.accuracy import Accuracy
from sleepmodel.evaluation.halting import Measured
from sleepmodel.evaluation.statistics import Share
from tests.sleepmodel.conftest import build_small

READOUT, STATE = Halting(), Halting(0.1, "state")


def measured(rule: Halting | None, most: int, passes: float, right: int) -> Measured:
    share = Share(right, 100, (right / 100 - 0.02, right / 100 + 0.02))
    return Measured(rule, most, passes, Accuracy(share, {1: Share(90, 100), 4: share}), {1: passes - 0.5, 4: passes})


FOUND = [measured(None, 1, 1, 60), measured(None, 4, 4, 95), measured(READOUT, 4, 2.5, 94), measured(STATE, 4, 3, 80)]


def test_the_fewest_passes_with_about_the_best_accuracy_are_told(tmp_path: Path) -> None:
    points = [summary([each]) for each in FOUND]
    assert verdict(points).endswith("best fixed N: 4 with a fixed N, 2.5 by a rule")
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


def row_of(tokens: int) -> Rows:
    """One row whose last token is its answer."""
    return Rows.of([[1] * tokens], [[tokens - 1]], [[1]], [[1]], pad=5)


@pytest.mark.parametrize(
    ("settings", "tokens", "most", "message"),
    [
        ([{"window": 6}, {"window": 4}], 9, 16, r"window = \[4, 6\]: must be the same for all models"),
        ([{}, {"sleep_on": "all"}], 9, 16, r"sleep_on = \['all', 'prompts'\]: must be the same"),
        ([{}], 4, 16, "window = 6: must be so short that it ends before the answers"),
        ([{}], 9, 2, "sleep_passes = 2: must be at least 3 with halting"),
        ([{}, {"mixers": ("attention",), "eviction": "sliding"}], 9, 16, "halting.measure = 'state'"),
    ],
)
def test_models_that_cannot_be_measured_are_refused_first(
    settings: list[dict[str, Any]], tokens: int, most: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check([build_small(**fields) for fields in settings], row_of(tokens), most)


@pytest.mark.parametrize(("tokens", "error", "message"), [(4, SystemExit, "2"), (9, ValueError, "after minutes")])
def test_only_what_is_found_before_the_work_is_an_error_of_usage(
    tokens: int, error: type[BaseException], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise ValueError("after minutes")

    monkeypatch.setattr(halting, "read_dataset", lambda path: None)
    monkeypatch.setattr(halting, "read_rows", lambda *given: row_of(tokens))
    monkeypatch.setattr(halting, "load", lambda source: build_small())
    monkeypatch.setattr(halting, "measure_passes", fail)
    monkeypatch.setattr("sys.argv", ["halting", "model", "--data", "dataset"])
    with pytest.raises(error, match=message):
        main()
