"""Which kernel a plan says that its trainings take, and which driver an error names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.config.presets import PRESETS
from pipelines.runtime.devices import describe_kernels, driver_version, rules
from sleepmodel.ops import gated_delta, gated_delta_cpu

NVRM = "NVRM version: NVIDIA UNIX {} Kernel Module{}  535.104.05  Sat Aug 19 01:15:15 UTC 2026\nGCC version: 12.2.0\n"


def test_the_plan_says_what_the_dispatch_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for name in ("HAS_TRITON", "HAS_FLA"):
        monkeypatch.setattr(gated_delta, name, True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    demo, paper = (rules(PRESETS[name], PRESETS[name].scale) for name in ("demo", "rule110-fig2b"))
    assert describe_kernels(paper, cuda) == ["Triton kernel of this package in bfloat16 on NVIDIA H100"]
    assert describe_kernels(demo, cuda) == ["Triton kernel of this package in float32 on NVIDIA H100"]
    monkeypatch.setattr(gated_delta, "HAS_TRITON", False)
    assert "Triton kernel of flash-linear-attention in bfloat16 on NVIDIA H100" in describe_kernels(paper, cuda)
    monkeypatch.setattr(gated_delta_cpu, "available", lambda: True)
    ours = ["C++ kernel of this package in float32 on CPU"]
    assert describe_kernels(demo, cpu) == describe_kernels(paper, cpu) == ours
    monkeypatch.setattr(gated_delta, "HAS_FLA", False)
    monkeypatch.setattr(gated_delta_cpu, "available", lambda: False)
    assert describe_kernels(demo, cpu) == ["torch form in float32 on CPU"]
    assert describe_kernels(demo, cuda) == ["torch form in float32 on NVIDIA H100"]


def test_each_model_of_an_experiment_counts_and_those_without_the_rule_do_not() -> None:
    demo = PRESETS["demo"]
    wide = replace(demo.variants[0], name="wide", model={"key_dim": 512}, train={"precision": "bfloat16"})
    both = rules(replace(demo, variants=(*demo.variants, wide)), demo.scale)
    assert [(use.dtype, use.key_dim) for use in both] == [(torch.float32, 64), (torch.bfloat16, 512)]
    hebbian = replace(demo.model, mixers=("attention", "linear"))
    assert rules(replace(demo, model=hebbian), demo.scale) == []


def test_a_batch_of_too_many_heads_for_a_kernel_is_told_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows of one worker's micro-batch times the heads, as the dispatch counts them in a step."""
    monkeypatch.setattr(gated_delta, "HAS_TRITON", False)
    monkeypatch.setattr(gated_delta, "HAS_FLA", True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    paper = PRESETS["rule110-fig2b"]
    most = gated_delta.FLA_HEADS // paper.model.fast_heads
    large = replace(paper, train=replace(paper.train, steps=10, batch_size=2 * most + 2))

    def told(**scale: int) -> str:
        (line,) = describe_kernels(rules(large, replace(paper.scale, **scale)), torch.device("cuda"))
        return line

    assert told().startswith("torch form") and told(workers=2).startswith("torch form")
    assert told(workers=3).startswith("Triton kernel of flash-linear-attention")
    assert told(workers=2, accumulation=2).startswith("Triton kernel of flash-linear-attention")


@pytest.mark.parametrize("kind", [("x86_64", ""), ("Open", " for x86_64")])
def test_the_version_of_the_driver_is_read(kind: tuple[str, str], tmp_path: Path) -> None:
    file = tmp_path / "version"
    assert driver_version(file) is None
    file.write_text(NVRM.format(*kind))
    assert driver_version(file) == "535.104.05"
