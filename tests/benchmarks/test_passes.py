"""What the benchmark of passes says of its measurements."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import passes, results_file
from benchmarks.evidence.pages import EVIDENCE
from benchmarks.passes import asked_at_each_depth, check, draw, main, on_the_way, summary, table, verdict
from datagen import Depo, Rule110
from datagen.schema import DATASET_FILE, FORMAT_VERSION, Dataset, Split, shard_path
from datagen.shards import ensure_shard
from datagen.task import Task
from sleepmodel import SleepModel, save
from sleepmodel.evaluation.probe import Held
from sleepmodel.evaluation.statistics import Share
from tests.sleepmodel.conftest import build_small

TASK = Depo(nodes=4, hops=2, queries=2, names=6, least=4)


def held(after: int, asked: int, answered: int, *decoded: int) -> Held:
    """Right answers of 100; by hop for the probes."""
    shares = [Share(right, 100, (right / 100 - 0.02, right / 100 + 0.02)) for right in (answered, *decoded)]
    return Held(after, asked, shares[0], dict(enumerate(shares[1:], start=1)))


def points(by_pass: Mapping[int, Mapping[int, tuple[int, ...]]]) -> list[dict[str, Any]]:
    """passes -> depth of the question -> what is answered, and decoded of each hop."""
    return [summary([held(n, asked, *right)]) for n, of_pass in by_pass.items() for asked, right in of_pass.items()]


NOTHING = {1: (3, 4, 4, 4), 2: (3, 4, 4, 4), 3: (3, 4, 4, 4)}
FIRST = {1: (80, 95, 20, 10), 2: (15, 70, 20, 10), 3: (5, 60, 20, 10)}
SECOND = {1: (95, 99, 20, 10), 2: (40, 30, 95, 10), 3: (10, 60, 80, 20)}
THIRD = {1: (99, 99, 20, 10), 2: (95, 30, 99, 10), 3: (90, 20, 30, 95)}
COMPOSED = points({0: NOTHING, 1: FIRST, 2: SECOND, 3: THIRD})


def test_passes_that_compose_hops_are_told_from_passes_that_sharpen_them() -> None:
    read = "can be read off the fast weights from"
    assert verdict(COMPOSED) == f"Deeper hops take more passes: hops 1, 2 and 3 {read} passes 1, 2 and 3 on"
    sharpened = {1: (60, 60, 9, 9), 2: (60, 9, 60, 9), 3: (60, 9, 9, 60)}
    later = {asked: tuple(right + 30 for right in shares) for asked, shares in sharpened.items()}
    assert verdict(points({0: NOTHING, 1: sharpened, 2: later})) == (
        "Pass 1 makes all of hops 1, 2 and 3 readable; later passes add none"
    )
    leaping = points({1: FIRST, 2: {**SECOND, 3: (80, 9, 9, 80)}})
    assert verdict(leaping) == f"Hops 1, 2 and 3 {read} passes 1, 2 and 2 on"
    assert verdict(points({0: NOTHING, 1: FIRST})) == "Only hop 1 can be read off the fast weights, from pass 1 on"
    assert verdict(points({0: NOTHING, 1: NOTHING})) == "No hop can be read off the fast weights after any pass"


def test_the_way_to_the_deepest_hop_is_told() -> None:
    way = "hop 1 after pass 1, hops 1 and 2 after pass 2, hop 3 after pass 3"
    assert on_the_way(COMPOSED) == f"Off a question for 3 hops, a probe reads {way}"
    # three hops are never read: the question for two shows what is on the way
    assert on_the_way(points({1: FIRST, 2: SECOND})) == (
        "Off a question for 2 hops, a probe reads hop 1 after pass 1, hop 2 after pass 2"
    )
    assert on_the_way(points({1: NOTHING})) == "Off a question for 3 hops, a probe reads none after pass 1"
    twice = points({1: FIRST, 2: FIRST, 3: SECOND})
    assert on_the_way(twice).endswith("a probe reads hop 1 after passes 1 to 2, hop 2 after pass 3")


def test_the_table_and_the_picture_have_every_pass_and_hop(tmp_path: Path) -> None:
    lines = table(COMPOSED).splitlines()
    assert lines[0] == "| after pass | question | answered | probe: hop 1 | probe: hop 2 | probe: hop 3 |"
    assert len(lines) == 2 + 4 * 3
    assert lines[9] == (
        "| 2 | 2 hops | 0.400 [0.380, 0.420] | 0.300 [0.280, 0.320] | 0.950 [0.930, 0.970] | 0.100 [0.080, 0.120] |"
    )
    draw(COMPOSED, tmp_path / "passes.png")
    assert (tmp_path / "passes.png").stat().st_size > 5000


def test_several_models_are_seeds() -> None:
    point = summary([held(1, 2, 80, 90, 70), held(1, 2, 60, 80, 50)])
    assert point["answered"]["value"] == pytest.approx(0.7) and point["decoded"]["2"]["value"] == pytest.approx(0.6)
    low, high = point["decoded"]["1"]["interval"]
    assert low < 0.3 and high == 1.0  # Student's, of two seeds
    assert point["models"][1] == {"answered": 0.6, "decoded": {"1": 0.8, "2": 0.5}}


def written(directory: Path, task: Task) -> Dataset:
    """A dataset of this task in the directory."""
    splits = {}
    for split, rows in (("validation", 40), ("test", 30)):
        shard = ensure_shard(shard_path(directory, split, 0), task, split, 0, 0, rows, listed=None)
        splits[split] = Split(rows, (shard,))
    about = Dataset(FORMAT_VERSION, task.name, asdict(task), task.vocabulary, 0, splits)
    (directory / DATASET_FILE).write_text(about.to_json())
    return about


def model_of(**fields: Any) -> SleepModel:
    settings = {"vocab_size": len(TASK.vocabulary), "window": 8, "sleep_passes": 2, "mixers": ("gated_delta",)}
    return build_small(**{**settings, **fields})


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where `main` writes: not into the repository."""
    (tmp_path / "results").mkdir()
    page = tmp_path / "evidence.md"
    page.write_text("<!-- passes -->\nNot run yet.\n<!-- end -->\n")
    monkeypatch.setattr(results_file, "ROOT", tmp_path)
    monkeypatch.setattr(passes, "EVIDENCE", page)
    return page


def test_the_command_measures_models_and_fills_the_page(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = page.parent
    written(root, TASK)
    for seed in range(2):
        save(model_of(seed=seed), root / f"model-{seed}")
    models = [str(root / f"model-{seed}") for seed in range(2)]
    monkeypatch.setattr("sys.argv", ["passes", *models, "--data", str(root), "--rows", "20", "--most", "3"])
    main()
    result = json.loads((root / "results" / "passes.json").read_text())
    assert [(point["passes"], point["asked"]) for point in result["points"]] == [
        (n, k) for n in range(4) for k in (1, 2)
    ]
    assert (result["rows"], result["probe_rows"], len(set(result["models"]))) == (20, 40, 2)
    assert table(result["points"]) in page.read_text() and verdict(result["points"]) in page.read_text()
    assert (root / "results" / "passes.png").exists()


@pytest.mark.parametrize(
    ("task", "fields", "message"),
    [
        (Rule110(4, 2, 1), {}, "depth = 1: the task rule110 cannot ask a question at another depth"),
        (Depo(nodes=4, hops=2, queries=2), {}, "names = None: must be a number, for names of one token"),
        (TASK, {"eviction": "sliding"}, "eviction = 'sliding': must be hard"),
        (TASK, {"vocab_size": 40}, "vocab_size = 40: must be 10, the vocabulary of the dataset"),
    ],
)
def test_what_cannot_be_measured_is_an_error_of_usage(
    task: Task,
    fields: dict[str, Any],
    message: str,
    page: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    written(page.parent, task)
    save(model_of(**fields), page.parent / "model")
    monkeypatch.setattr("sys.argv", ["passes", str(page.parent / "model"), "--data", str(page.parent)])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert message in capsys.readouterr().err


def test_models_of_several_variants_and_unknown_tasks_are_refused(tmp_path: Path) -> None:
    about = written(tmp_path, TASK)
    tested = asked_at_each_depth(about, TASK.sample("test", 0, 0, 3))
    with pytest.raises(ValueError, match="models = 2: must be seeds of one variant"):
        check([model_of(), model_of(sleep_passes=3)], about, tested)
    with pytest.raises(ValueError, match="task = 'elsewhere': must be one of this package's"):
        asked_at_each_depth(replace(about, task="elsewhere"), TASK.sample("test", 0, 0, 3))


def test_the_page_has_what_was_measured() -> None:
    result = results_file.ROOT / "results" / "passes.json"
    if not result.exists():
        assert "<!-- passes -->\nNot run yet." in EVIDENCE.read_text()
    else:
        assert table(json.loads(result.read_text())["points"]) in EVIDENCE.read_text()
