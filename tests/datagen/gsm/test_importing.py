"""Official problems become a dataset of ours; what is not one is named and refused, and leaves nothing behind."""

import json
from pathlib import Path

import numpy as np
import pytest

from datagen import Gsm, load, read_rows
from datagen.errors import MalformedLinesError
from datagen.gsm.importing import import_official, read_import
from datagen.reader import read_dataset

MODE = {"forward": "normalforward", "reverse": "forwardreverse"}


def official_lines(count: int) -> list[dict[str, object]]:
    """Our own problems in the official format."""
    samples = Gsm(tokens=(400, 500)).samples("test", 3, 0)
    problems = [next(samples).problem for _ in range(count)]
    return [
        {
            "problem": problem.context,
            "question": problem.question,
            "solution": f"Working. Answer: {problem.answer}.",
            "op": problem.operations,
            "template": problem.theme,
            "mode": MODE[problem.mode],
        }
        for problem in problems
    ]


def write(path: Path, lines: list[dict[str, object]]) -> Path:
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def test_every_problem_is_a_row_with_its_answer_last(tmp_path: Path) -> None:
    lines = official_lines(12)
    path = import_official(write(tmp_path / "problems.jsonl", lines), tmp_path / "root", "validation")
    words = read_dataset(path).vocabulary
    rows, table = read_rows(path, "validation"), load(path, "validation")
    assert rows.traces is None  # so that no training has a loss on them
    assert table["solution"].to_pylist() == [line["solution"] for line in lines]
    tokens, mask = rows.batch()
    for line, row, asked in zip(lines, tokens, mask, strict=True):
        text = [words[t] for t in row[row >= 0]]
        assert asked.sum() == 1 and asked[len(text) - 1]
        assert f"Answer: {text[-1]}." in str(line["solution"]) and text[-3:-1] == ["Answer", ":"]
    assert rows.answer_depth.values.tolist() == [line["op"] for line in lines]  # type: ignore[union-attr]
    assert import_official(tmp_path / "problems.jsonl", tmp_path / "root", "validation") == path


def test_malformed_lines_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    lines = official_lines(6)
    lines[1]["op"] = "two"
    lines[4]["solution"] = "Working. Answer: 999."
    file = write(tmp_path / "problems.jsonl", lines)
    with pytest.raises(MalformedLinesError, match=r"(?s)line 2: op must be of type int.*line 5: states answer 999"):
        import_official(file, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_malformed_lines_are_left_out_on_request_and_counted(tmp_path: Path) -> None:
    lines = official_lines(6)
    whole = import_official(write(tmp_path / "problems.jsonl", lines), tmp_path / "root")
    lines[1]["op"] = "two"
    lines[4]["solution"] = "Working. Answer: 999."
    file = write(tmp_path / "problems.jsonl", lines)
    found = read_import(file, tmp_path / "root", skip_malformed=True)
    assert [line[:7] for line in found.skipped] == ["line 2:", "line 5:"] and not found.path.exists()
    assert found.write() == import_official(file, tmp_path / "root", skip_malformed=True) != whole
    assert load(found.path, "test")["solution"].to_pylist() == [lines[i]["solution"] for i in (0, 2, 3, 5)]
    assert read_dataset(found.path).config["skipped"] == 2 and read_dataset(whole).config["skipped"] == 0
    with pytest.raises(MalformedLinesError, match="no problem that can be used"):
        import_official(write(file, lines[1:2]), tmp_path / "root", skip_malformed=True)


def test_a_home_is_found_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "problems.jsonl", official_lines(2))
    assert import_official("~/problems.jsonl", "~/root").is_relative_to(tmp_path / "root")
    with pytest.raises(ValueError, match=f"{tmp_path}/tokenizer.json.* does not exist"):
        import_official("~/problems.jsonl", "~/root", tokenizer="~/tokenizer.json")
    for path in ("~nobody-of-this-name/x", Path("~nobody-of-this-name")):
        with pytest.raises(ValueError, match=r"'~nobody-of-this-name.*write the whole path"):
            import_official(tmp_path / "problems.jsonl", path)


def test_generated_problems_carry_their_solution(tmp_path: Path) -> None:
    rows = Gsm(tokens=(400, 500)).sample("train", 0, 0, 5)
    assert rows.solution is not None and all(isinstance(text, str) and text for text in rows.solution)
    assert rows[np.array([3, 1])].solution.tolist() == rows.solution[[3, 1]].tolist()  # type: ignore[union-attr]
