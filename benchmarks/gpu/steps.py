"""A training step of `rule110-fig2b`, in bfloat16 (float32 on a CPU): time, rates, memory, kernels and host waits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch

from benchmarks.gpu.timing import DTYPE, PRECISION, seconds
from pipelines.config.presets import PRESETS
from sleepmodel import SleepModel
from sleepmodel.accounting import flops
from sleepmodel.config.training import CudaGraphs, TrainConfig
from sleepmodel.inference.stopwatch import wait_for
from sleepmodel.ops import gated_delta
from sleepmodel.training.engine import LocalEngine

PRESET = PRESETS["rule110-fig2b"]
PASSES = (1, 2, 3, 4)
MATMUL_SIZE = {"cuda": 8192, "cpu": 512}


@dataclass(frozen=True)
class Form:
    """How a step runs. captured: forward and backward as CUDA graphs; whole: the optimiser's step too; ours: with our
    Triton kernel, if it is there; without, in the torch form."""

    name: str
    compiled: bool = False
    captured: bool = False
    whole: bool = False
    ours: bool = True


# the form of a training first, and in which a step is taken apart after it
FORMS = (
    Form("both", compiled=True, captured=True),
    Form("captured", captured=True),
    Form("whole", compiled=True, captured=True, whole=True),
    Form("eager"),
    Form("compiled", compiled=True),
    Form("torch form", ours=False),
)


def measure_steps(device: torch.device, batch: int, form: Form, rounds: int, peak: float) -> Iterator[dict[str, Any]]:
    """One row for each N. peak: FLOP/s of a large matmul, to which MFU is relative."""
    tokens, mask = map(torch.from_numpy, PRESET.task.sample("train", 0, 0, batch).batch())
    on_gpu = device.type == "cuda"
    for n in PASSES:
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()  # a capture takes the memory that its replays use
        engine = engine_for(device, n, batch, form)

        def step(engine: LocalEngine = engine) -> None:
            engine.backward(tokens, mask)
            engine.step(1.0)

        with mock.patch.object(gated_delta, "HAS_TRITON", gated_delta.HAS_TRITON and form.ours):
            took = seconds(device, step, rounds)
            syncs = _synchronisations(step) if on_gpu else None
            kernels = _kernels(step) if on_gpu and n == PASSES[-1] else None  # takes seconds
        rate = 3 * batch * flops(engine.model, tokens.shape[1]) / took
        yield {
            "form": form.name,
            "batch": batch,
            "passes": n,
            "seconds": took,
            "tokens_per_second": tokens.numel() / took,
            "flops_per_second": rate,
            "mfu": rate / peak,
            "kernels": kernels,
            "synchronisations": syncs,
            "peak_bytes": torch.cuda.max_memory_allocated() if on_gpu else None,
        }


def engine_for(
    device: torch.device, passes: int, batch: int, form: Form, config: TrainConfig = PRESET.train
) -> LocalEngine:
    """The engine of a training with N = `passes`, in the precision of the device."""
    torch.manual_seed(0)
    model = SleepModel(replace(PRESET.model, sleep_passes=passes)).to(device)
    on_gpu = device.type == "cuda"
    if form.compiled and on_gpu:
        for block in model.stack:
            block.compile()
    train = replace(config, precision=PRECISION[device.type], batch_size=batch)
    graphs: CudaGraphs = "step" if form.whole else "on" if form.captured else "off"
    return LocalEngine(model, train, cuda_graphs=graphs if on_gpu else "off")


def matmul_peak(device: torch.device) -> float:
    """FLOP/s of a large matmul on this device, in the precision of the steps."""
    size = MATMUL_SIZE[device.type]
    a, b = torch.randn(2, size, size, dtype=DTYPE[device.type], device=device)
    return 2 * size**3 / seconds(device, lambda: a @ b)


def _synchronisations(step: Any) -> int:
    """How often a step makes the host wait for the GPU."""
    wait_for(torch.device("cuda"))
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        step()
        torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in found)


def _kernels(step: Any) -> int:
    """The kernels of a step, those in graphs included."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        wait_for(torch.device("cuda"))
    return sum(event.count for event in profile.key_averages() if event.device_type.name == "CUDA")
