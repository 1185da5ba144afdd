"""The README promises nothing that is not there: its numbers are the published results, its commands exist."""

import json
import re
from pathlib import Path

import pytest
import torch

from pipelines.config.overrides import apply_overrides
from pipelines.config.presets import PRESETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_its_table_is_the_published_one() -> None:
    report = (ROOT / "benchmarks/results/demo/report.md").read_text()
    rows = [line for line in report.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 5 and all(row in README for row in rows)


def test_its_first_picture_and_table_are_of_the_evidence() -> None:
    table = [line for line in README.split("## ")[1].splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3 and all(row in (ROOT / "docs/evidence.md").read_text() for row in table)
    assert re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)[0] == "benchmarks/results/evidence/moonshot.png"


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#]+)\)", README))
def test_its_links_lead_somewhere(link: str) -> None:
    assert link.startswith("https://") or (ROOT / link).exists()


def test_its_make_targets_scripts_and_presets_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"(?:^    |`)make ([a-z]+)", README, re.MULTILINE)) <= set(targets)
    scripts = {path.stem for path in (ROOT / "pipelines").glob("*.py") if "__main__" in path.read_text()}
    assert scripts == set(re.findall(r"(?:pipelines/|`)(\w+)\.py", README))
    assert set(re.findall(r"^\| `([\w-]+)` \|", README, re.MULTILINE)) == set(PRESETS)


def test_its_overrides_are_accepted() -> None:
    (line,) = re.findall(r"full\.py demo --dry-run --set (.+)", README)
    demo = apply_overrides(PRESETS["demo"], [part.strip("'") for part in re.findall(r"'[^']+'|\S+", line)])
    assert demo.model.d_model == 128 and demo.train.steps == 2000 and demo.seeds == (1, 2, 3, 4, 5)


def test_its_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The model and the session, one block after the other, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    tokens = torch.randint(0, 3, (2, 60))
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:, -1] = True
    names = {"tokens": tokens, "loss_mask": mask, "context": tokens[:1], "questions": [tokens[:1, :3], tokens[1:, :2]]}
    blocks = [code for code in re.findall(r"```python\n(.+?)```", README, re.DOTALL) if "models:/" not in code]
    assert len(blocks) == 2
    for code in blocks:
        exec(code, names)
    assert names["answer"].shape == (1, 4) and (tmp_path / "context.memory").is_file()  # type: ignore[attr-defined]


def test_its_speeds_are_the_published_ones() -> None:
    """Each figure of the section on speed is the rounded figure of a results file."""
    results = {
        name: json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())
        for name in ("kernel", "model", "overhead")
    }
    for shape in results["kernel"]["shapes"][:1] + results["kernel"]["shapes"][3:5]:
        assert f"{shape['times as fast as']['transformers']:.1f}x" in README
    for value in results["overhead"]["overhead"].values():
        assert f"{100 * value:.1f} %" in README
    for row in results["model"]["rows"]:
        assert f"{row['tokens_per_second']:,.0f}" in README
