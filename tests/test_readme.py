"""The README promises nothing that is not there: its code runs, its numbers are published, its rooms exist.

tests/benchmarks/test_tables.py tests its table of what we found.
"""

from __future__ import annotations

import ast
import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
(LAYOUT,) = re.findall(r"## Layout\n\n((?: {4}.+\n)+)", README)


def test_it_can_be_read_in_one_sitting() -> None:
    assert len(README.splitlines()) < 150


def test_its_first_example_runs_with_nothing_but_the_package_and_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.+?)```", README, re.DOTALL)
    tree = ast.parse(code)
    imported = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert imported == {"torch", "sleepmodel"}
    exec(code, {})
    said = capsys.readouterr().out
    assert re.fullmatch(r"tensor\(\[\[ *(\d+, +){3}\d+\]\]\)\n", said) and (tmp_path / "context.memory").is_file()


def test_its_claims_about_iterated_sleep_are_those_of_the_results() -> None:
    variants = json.loads((ROOT / "benchmarks/results/evidence/iterated/results.json").read_text())["variants"]

    def cells(variant: str) -> list[dict[int, float]]:
        answers = [run["accuracy"]["answers"] for run in variants[variant]]
        return [{int(t): at["right"] / at["total"] for t, at in found.items()} for found in answers]

    assert "Each of ten seeds has at least 99.8 % of all cells right at t = 256" in README
    assert len(cells("iterated")) == 10 and min(found[256] for found in cells("iterated")) >= 0.998
    assert "trained with more than four times the FLOPs, gets 95 % of the cells right up to t = 4" in README
    assert {max(t for t, share in found.items() if share >= 0.95) for found in cells("one-pass-far")} == {4}
    assert variants["one-pass-far"][0]["flops"] > 4 * variants["iterated"][0]["flops"]
    assert "](benchmarks/results/evidence/iterated-sleep.png)" in README


def test_its_layout_names_each_package_and_each_exists() -> None:
    rooms, parent = {}, ""
    for indent, room, what in re.findall(r"^ {4}( *)(\w+/) +(.+)$", LAYOUT, re.MULTILINE):
        parent = parent if indent else room
        rooms[parent + room if indent else room] = what
    assert len(rooms) == len(LAYOUT.splitlines())
    for room, what in rooms.items():
        assert (ROOT / room).is_dir(), room
        for file in re.findall(r"\b\w+\.(?:py|md|yaml)\b", what):
            assert (ROOT / room / file).is_file() or (ROOT / file).is_file(), file
        for folder in re.findall(r"\b\w+/", what):
            assert (ROOT / room / folder).is_dir(), folder
    packages = {
        f"{path.parent.relative_to(ROOT)}/"
        for name in ("sleepmodel", "pipelines")
        for path in ROOT.glob(f"{name}/*/__init__.py")
    }
    assert packages <= set(rooms)


def test_its_diagram_is_the_one_that_the_code_draws_and_reads_on_light_and_dark_pages() -> None:
    drawn = runpy.run_path(str(ROOT / "docs/diagram.py"))
    assert drawn["PATH"].read_text() == drawn["diagram"]()
    for colour in set(re.findall(r'<text[^>]+fill="(#\w{6})"', drawn["diagram"]())):
        for page in ("#ffffff", "#0d1117"):
            light, dark = sorted((_luminance(colour), _luminance(page)), reverse=True)
            assert (light + 0.05) / (dark + 0.05) > 4, (colour, page)


def _luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [channel / 12.92 if channel <= 0.04045 else ((channel + 0.055) / 1.055) ** 2.4 for channel in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
