"""train.precision=auto: measured once a machine, a concrete value in every identity, and kept by a run that goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.config.experiment import Experiment
from pipelines.config.overrides import apply_overrides
from pipelines.config.presets import PRESETS
from pipelines.plan import plan
from pipelines.runtime import precision
from pipelines.runtime.precision import StepSeconds, resolve_precision, step_seconds
from pipelines.runtime.services import Services
from pipelines.runtime.traces import leaving_no_trace
from sleepmodel import SleepModel
from sleepmodel.distributed.deepspeed import deepspeed_config
from sleepmodel.training.engine import LocalEngine

AUTO = apply_overrides(PRESETS["smoke"], ["train.precision=auto"])
SLOW, FAST, EVEN = StepSeconds(1.0, 4.0), StepSeconds(2.0, 1.0), StepSeconds(1.0, 0.95)


@pytest.fixture(autouse=True)
def no_cache_and_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def measuring(found: StepSeconds, monkeypatch: pytest.MonkeyPatch) -> list[Experiment]:
    """Another machine, on which a step takes so long; collects what is measured there."""
    measured: list[Experiment] = []

    def measure(experiment: Experiment, cores: int) -> StepSeconds:
        measured.append(experiment)
        return found

    monkeypatch.setattr(precision, "processor", lambda: [str(found)])
    monkeypatch.setattr(precision, "_measured", measure)
    return measured


@pytest.mark.parametrize(
    ("found", "expected"), [(SLOW, "float32"), (FAST, "bfloat16"), (EVEN, "float32")], ids=["slow", "fast", "even"]
)
def test_the_faster_precision_is_what_identifies_the_trainings(
    found: StepSeconds, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measuring(found, monkeypatch)
    resolved, line = resolve_precision(AUTO, tmp_path / "root", keep=True)
    fixed = apply_overrides(PRESETS["smoke"], [f"train.precision={expected}"])
    both = [[stage.identity for stage in plan(each, Services(each, tmp_path))] for each in (resolved, fixed)]
    assert both[0] == both[1]
    assert line.startswith(f"train.precision=auto is {expected}, ") and "at width 16" in line


def test_a_machine_is_measured_once_for_each_width(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = measuring(FAST, monkeypatch)
    for steps in (10, 20):  # two runs under two roots
        resolve_precision(replace(AUTO, train=replace(AUTO.train, steps=steps)), tmp_path / str(steps), keep=True)
    assert len(measured) == 1
    resolve_precision(replace(AUTO, model=replace(AUTO.model, d_model=32)), tmp_path, keep=True)
    assert len(measured) == 2


def test_a_dry_run_chooses_by_what_is_measured_and_says_so_where_nothing_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = measuring(FAST, monkeypatch)
    run, said = resolve_precision(AUTO, tmp_path / "root", keep=True)
    files = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(precision, "_measured", lambda *_: SLOW)  # on the same machine, now busy
    with leaving_no_trace():
        assert resolve_precision(AUTO, tmp_path / "another", keep=False) == (run, said)
        other = replace(AUTO, model=replace(AUTO.model, d_model=32))
        assert resolve_precision(other, tmp_path / "root", keep=False)[1].endswith(
            "; a run measures again, and may choose otherwise if this is near 0.91"
        )
    assert len(measured) == 1 and "measures again" not in said and sorted(tmp_path.rglob("*")) == files


def test_a_run_goes_on_with_its_precision_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measuring(FAST, monkeypatch)
    first, _ = resolve_precision(AUTO, tmp_path, keep=True)
    measured = measuring(SLOW, monkeypatch)
    again, line = resolve_precision(AUTO, tmp_path, keep=True)
    assert again == first and line.endswith("bfloat16, with which this run began") and not measured
    elsewhere, _ = resolve_precision(AUTO, tmp_path / "another", keep=False)
    assert elsewhere.train.precision == "float32" and not (tmp_path / "another").exists()


def test_a_variant_of_its_own_is_resolved_and_a_fixed_precision_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = measuring(FAST, monkeypatch)
    smoke = PRESETS["smoke"]
    assert resolve_precision(smoke, tmp_path, keep=True) == (smoke, "") and not measured
    own = replace(
        smoke, variants=(*smoke.variants, replace(smoke.variants[0], name="low", train={"precision": "auto"}))
    )
    resolved, _ = resolve_precision(own, tmp_path, keep=True)
    assert [resolved.variant_train(variant).precision for variant in resolved.variants] == ["float32", "bfloat16"]


def test_a_gpu_computes_in_bfloat16_where_it_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = measuring(SLOW, monkeypatch)
    there = replace(AUTO, scale=replace(AUTO.scale, gpu=True))
    assert resolve_precision(there, tmp_path / "1", keep=True)[0].train.precision == "bfloat16"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    resolved, line = resolve_precision(AUTO, tmp_path / "2", keep=True)
    assert resolved.train.precision == "float32" and "Tesla T4" in line and not measured


def test_a_real_measurement_is_kept_and_leaves_the_threads(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    first = step_seconds(AUTO)
    assert first.float32 > 0 and first.bfloat16 > 0 and torch.get_num_threads() == threads
    assert step_seconds(AUTO) == first
    assert len(list((tmp_path / "cache" / "sleepmodel").glob("precision-*.json"))) == 1


def test_what_no_pipeline_has_chosen_is_refused() -> None:
    with pytest.raises(ValueError, match="precision = 'auto': must be float32 or bfloat16 without DeepSpeed"):
        LocalEngine(SleepModel(AUTO.model), AUTO.train)
    with pytest.raises(ValueError, match="precision = 'auto': must be float32, bfloat16 or bfloat16_weights"):
        deepspeed_config(AUTO.train, AUTO.scale)
