"""A pretrained model through the whole pipeline on a running Ray: what is trained, what is registered, what is kept."""

import os
import sys
from pathlib import Path

import mlflow
import pytest
import torch
from mlflow import MlflowClient

from sleepmodel import from_pretrained, load
from tests.pipelines.test_pretrained import write_llama
from tests.waiting import run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NO_RAY = "127.0.0.1:1"
SMALL = ("seeds=[20]", "train.steps=4", "train.batch_size=4", "train.validate_every=2", "train.warmup_steps=1")
ONE_BY_ONE = "scale.cpus_per_worker=4"  # all of the session's Ray, so that the trainings share their processes
TINY = ("pretrained.insert=[0, 1]", "model.loop=[1, 3]", "model.fast_heads=2", "task.passage=12", "task.cue=2")
FEW = ("data.validation_rows=8", "data.test_rows=8")


def retrofit(root: Path, pretrained: Path, address: str) -> str:
    """The output of `make retrofit`'s pipeline, with a small model in place of SmolLM2."""
    assignments = [f"pretrained.model={pretrained}", *SMALL, *TINY, *FEW, ONE_BY_ONE]
    script = [sys.executable, str(ROOT / "pipelines/full.py"), "retrofit-recall-mini", "--root", str(root)]
    environment = {**os.environ, "RAY_ADDRESS": address, "COLUMNS": "200"}
    result = run([*script, "--set", *assignments], limit=800, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_new_layers_are_trained_and_the_rest_is_what_it_was(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama, root = write_llama(tmp_path / "llama"), tmp_path / "runs"
    retrofit(root, llama, ray_cluster)
    base = from_pretrained(llama, window=32, insert={0: "jet", 1: "jet"}, fast_heads=2)
    for variant in ("n1", "n2", "transformer-evicted", "transformer-whole"):
        (output,) = (root / "steps" / f"train-{variant}-seed20").iterdir()
        model = load(output / "model")
        assert model.config.inserted == (1, 3)
        for name, weight in model.state_dict().items():
            if name.split(".")[1] not in ("1", "3"):
                assert torch.equal(weight, base.state_dict()[name]), (variant, name)
        for number in (1, 3):  # zero at first
            assert model.stack[number].mixer.out.weight.any()
    (report,) = (root / "steps" / "report").glob("*/report.md")
    assert "the gap is the difference to the control, other - own" in report.read_text()

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root}/mlflow.db")
    champion = load("models:/sleep-recall@champion")
    assert champion.tokenizer is not None and champion.config.vocab_size == 640
    version = MlflowClient().get_model_version_by_alias("sleep-recall", "champion")
    assert version.tags["base_license"] == "apache-2.0" and version.tags["base_model"] == "llama"
    asked = {"text": ["How many adult owl does Pine Ridge have?"]}
    said = mlflow.pyfunc.load_model("models:/sleep-recall@champion").predict(asked, params={"n": 3})
    assert champion.tokenizer.decode(said["answer"][0]) == said["text"][0]

    # the same weights elsewhere are the same experiment, so that nothing is left to do, and no Ray is needed
    assert "nothing to do" in retrofit(root, llama.rename(tmp_path / "moved"), NO_RAY)
