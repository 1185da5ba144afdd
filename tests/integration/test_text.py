"""Texts of one's own through the whole pipeline: imported, trained on, evaluated, registered and asked about."""

import os
import re
import sys
from pathlib import Path

import pytest

from datagen.reader import read_dataset, read_rows
from pipelines.reporting.comparison import read_variants
from pipelines.stages.generate import dataset
from sleepmodel import from_pretrained
from sleepmodel.evaluation.accuracy import predict
from tests.datagen.text.importing import write_records
from tests.pipelines.test_pretrained import write_llama
from tests.waiting import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COUNTS = {"train": 24, "validation": 16, "test": 16}
TINY = ("pretrained.insert=[0, 1]", "model.loop=[1, 3]", "model.fast_heads=2", "model.window=16", "train.steps=3")


def script(name: str, *arguments: str, address: str, cwd: Path) -> tuple[int, str]:
    command = [sys.executable, str(ROOT / f"pipelines/{name}.py"), *arguments, "--root", "runs"]
    result = run(command, limit=800, cwd=cwd, env={**os.environ, "RAY_ADDRESS": address, "COLUMNS": "200"})
    return result.returncode, result.stdout + result.stderr


def test_lines_that_cannot_be_used_are_refused_or_left_out(ray_cluster: str, tmp_path: Path) -> None:
    records = [
        {"prompt": f"{split} {i}: ", "completion": f"{i}.", "split": split}
        for split, count in COUNTS.items()
        for i in range(count)
    ]
    write_records(tmp_path / "own/questions.jsonl", [*records, {"prompt": "no completion"}])
    importing = ("--task", "text", "--import", "own")
    status, said = script("generate", *importing, address=ray_cluster, cwd=tmp_path)
    assert status == 1 and "own/questions.jsonl, line 57: must have prompt and completion" in said, said
    status, said = script("generate", *importing, "--skip-malformed", address=ray_cluster, cwd=tmp_path)
    assert status == 0 and "test: 16 documents" in said and "1 lines" in said, said
    (given,) = re.findall(r"to train on it: --set (.*)", said)
    rows = [f"data.{split}_rows={count}" for split, count in COUNTS.items()]
    assert given.split()[0] == "task=text" and given.split()[2:] == rows
    fields = ["model.window=8", "model.sleep_on=all", "train.batch_size=8", "data.test_rows=17", "--dry-run"]
    more = [*given.split()[:-1], *fields]
    status, said = script("full", "smoke", "--set", *more, address=ray_cluster, cwd=tmp_path)
    assert status == 2 and "test has 16 of the" in said and "set data.test_rows=16" in said, said


def test_a_pretrained_model_reads_a_manual_and_is_asked(ray_cluster: str, tmp_path: Path) -> None:
    """What `make text` does, with a small model and a small manual, in which there are questions too."""
    llama = write_llama(tmp_path / "llama")
    for split, count in COUNTS.items():
        pages = [f"Page {i} of {split}. Owl {i} lives in Pine Ridge.\n\n" * 4 for i in range(count - 4)]
        about = {"split": split, "kind": "page", "depth": 1}
        asked = {"prompt": f"{split}: where? ", "completion": "Pine Ridge.", "split": split, "kind": "question"}
        records = [{"text": page, **about} for page in pages] + [{**asked, "depth": 2 + i} for i in range(4)]
        write_records(tmp_path / f"manual/{split}.jsonl", records)
    (tmp_path / "page.md").write_text(pages[0])
    importing = ("--task", "text", "--import", "manual", "--tokenizer", str(llama))
    status, said = script("generate", *importing, address=ray_cluster, cwd=tmp_path)
    assert status == 0, said
    (given,) = re.findall(r"to train on it: --set (.*)", said)
    assignments = [f"pretrained.model={llama}", *given.split(), *TINY]
    status, said = script("full", "text-mini", "--set", *assignments, address=ray_cluster, cwd=tmp_path)
    assert status == 0 and "held-out documents" in said and "rows right" not in said.split("registry")[0], said
    (evaluated,) = (tmp_path / "runs/steps/evaluate").iterdir()
    (generated,) = (tmp_path / "runs/steps/generate").iterdir()
    assert {name: split.rows for name, split in read_dataset(dataset(generated)).splits.items()} == COUNTS
    before, sleeping = read_variants(evaluated)
    rows = read_rows(dataset(generated), "test")
    nats = predict(from_pretrained(llama, window=16, sleep_on="all"), rows).nats
    assert before.token_estimates["all"].nats.value == pytest.approx(nats.sum() / rows.loss_mask().sum(), rel=1e-5)
    assert set(sleeping.less_than) == {"before"} and not before.less_than
    assert set(sleeping.kinds) == {"page", "question"} and set(sleeping.answers) == {1, 2, 3, 4, 5}
    (report,) = (tmp_path / "runs/steps/report").glob("*/report.html")
    assert "n2 - before" in report.read_text()
    ask = [sys.executable, "-m", "sleepmodel", "models:/sleep-text@champion", "--tokens", "5"]
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/runs/mlflow.db", "RAY_ADDRESS": "127.0.0.1:1"}
    answer = run([*ask, "--read", "page.md", "--ask", "Where?"], limit=800, cwd=tmp_path, env={**os.environ, **store})
    assert answer.returncode == 0 and answer.stdout.strip(), answer.stdout + answer.stderr
    assert "page.md" in answer.stderr and "16 tokens" in answer.stderr and "sleeps" in answer.stderr
