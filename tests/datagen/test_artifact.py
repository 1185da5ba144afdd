"""A typed file gives back what was saved, or says which file and field does not fit and what to do."""

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from datagen.artifact import Artifact


@dataclass(frozen=True)
class Share:
    right: int
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Result:
    loss: float
    by_depth: dict[int, Share]
    kinds: dict[str, Share] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.loss < 0:
            raise ValueError(f"loss = {self.loss}: must be at least 0")


RESULTS = Artifact("results.json", list[Result])
GOOD = Result(1e-7 / 3, {4: Share(3, (0.1, 1.0)), 16: Share(0)}, {"a|b": Share(2)})


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    RESULTS.save(tmp_path / "new", [GOOD, replace(GOOD, by_depth={})])
    assert RESULTS.load(tmp_path / "new") == [GOOD, replace(GOOD, by_depth={})]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["results.json"]


def test_a_loss_that_is_no_number_comes_back_as_one_that_is_none(tmp_path: Path) -> None:
    RESULTS.save(tmp_path, [replace(GOOD, loss=math.nan), replace(GOOD, loss=math.inf)])
    assert math.isnan(RESULTS.load(tmp_path)[0].loss) and RESULTS.load(tmp_path)[1].loss == math.inf


def test_a_value_of_another_type_is_not_written(tmp_path: Path) -> None:
    RESULTS.save(tmp_path, [GOOD])
    for wrong in ([replace(GOOD, kinds={"a": "b"})], GOOD, [replace(GOOD, by_depth={1: 3})]):  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"Expected|serialize"):
            RESULTS.save(tmp_path, wrong)  # type: ignore[arg-type]
    assert RESULTS.load(tmp_path) == [GOOD]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('"kinds"', '"sorts"', r"0\.sorts: "),  # no field is dropped unseen
        ('"right": 3', '"right": "3"', r"0\.by_depth\.4\.right: .*integer"),
        ('"loss": ', '"loss": -1, "lost": ', r"loss = -1.* at least 0|lost: "),
        ('"loss"', '"losses"', r"0\.loss(es)?: "),
        ("[\n", "", "content: "),
        ("{", "[" * 100_000, "content: "),
    ],
)
def test_a_file_that_does_not_fit_is_named_with_its_field_and_what_to_do(
    old: str, new: str, told: str, tmp_path: Path
) -> None:
    RESULTS.save(tmp_path, [GOOD])
    file = tmp_path / "results.json"
    file.write_text(file.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=rf"{file} is not what .*\({told}.*\): delete the directory of the stage"):
        RESULTS.load(tmp_path)


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"{tmp_path / 'results.json'} is missing: publish it again"):
        replace(RESULTS, remedy="publish it again").load(tmp_path)


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    RESULTS.save(tmp_path, [GOOD])
    assert json.loads((tmp_path / "results.json").read_text())[0]["by_depth"]["4"] == {
        "right": 3,
        "interval": [0.1, 1.0],
    }
