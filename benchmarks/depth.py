"""Measure training at large N: peak memory for each recomputation setting, gradient norms for each N and truncation.

    python -m benchmarks.depth

Writes benchmarks/results/depth.json and depth.png.
"""

from __future__ import annotations

import statistics
import weakref
from dataclasses import replace
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.arguments import command_parser
from benchmarks.results_file import ROOT, write_result
from pipelines.config.presets import PRESETS
from sleepmodel import SleepModel
from sleepmodel.config.training import RECOMPUTE, Truncation
from sleepmodel.evaluation.accuracy import accuracy
from sleepmodel.inference.stopwatch import seconds_of
from sleepmodel.training.allocator import keep_freed_memory
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.loop import build_model, train

PASSES = (1, 2, 4, 8)
BATCH, WIDTH = 64, 128  # of the memory measurement; all other settings are those of the paper's Rule 110 model
STEPS, VALIDATION_ROWS, SEED = 300, 1024, 0
TRUNCATIONS = {None: (1, 2, 4, 8), 2: (4, 8), 1: (4, 8)}  # K (None: no truncation) -> the values of N


def main() -> None:
    keep_freed_memory()
    memory = [one_step(n, recompute) for n in track(PASSES, "memory") for recompute in RECOMPUTE]
    norms = [trained(n, k) for k, ns in TRUNCATIONS.items() for n in track(ns, f"gradients, K = {k or 'all'}")]
    _show(memory, norms)
    payload = {"memory": {"batch": BATCH, "width": WIDTH, "steps": memory}, "gradients": {"seed": SEED, "runs": norms}}
    path = write_result("depth", payload)
    _draw(memory, norms)
    print(f"{path}, {path.with_suffix('.png')}")


class LiveTensors(TorchDispatchMode):
    """Counts the bytes of live tensors and their peak. The peak of the process would include the allocator's cache."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), named: dict[str, Any] | None = None
    ) -> Any:
        result = function(*arguments, **(named or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self._track(tensor.untyped_storage())
        return result

    def _track(self, storage: torch.UntypedStorage) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if size and address not in self._known:
            self._known.add(address)
            self.bytes += size
            self.peak = max(self.peak, self.bytes)
            weakref.finalize(storage, self._release, address, size)

    def _release(self, address: int, size: int) -> None:
        self._known.discard(address)
        self.bytes -= size


def one_step(passes: int, recompute: str) -> dict[str, Any]:
    """Peak memory of one forward and backward, in MiB, and its seconds, which a separate run measures."""
    experiment = PRESETS["rule110-fig2b"]
    model = SleepModel(replace(experiment.model, d_model=WIDTH, sleep_passes=passes), recompute)
    tokens, mask = map(torch.from_numpy, experiment.task.sample("train", 0, 0, BATCH).batch())
    seconds = seconds_of(lambda: model(tokens, mask).loss.backward())
    with LiveTensors() as live:
        model(tokens, mask).loss.backward()
    return {"passes": passes, "recompute": recompute, "megabytes": live.peak / 2**20, "seconds": seconds}


def trained(passes: int, kept: int | None) -> dict[str, Any]:
    """Train the demo's model briefly at N = `passes` and return its gradient norms, accuracy and tokens/s.

    kept: K, the last passes of each sleep that are differentiated; None: all of them.
    """
    demo = PRESETS["demo"]
    config = replace(demo.train, steps=STEPS, validate_every=STEPS, seed=SEED, truncation=Truncation(passes=kept))
    engine = LocalEngine(build_model(replace(demo.model, sleep_passes=passes), config), config)
    rows = demo.task.sample("train", 0, 0, STEPS * config.batch_size)
    held_out = demo.task.sample("validation", 0, 0, VALIDATION_ROWS)
    norms: list[float] = []
    step = engine.step

    def recorded_step(rate: float) -> Tensor:
        norm = step(rate)
        norms.append(float(norm))
        return norm

    engine.step = recorded_step  # type: ignore[method-assign]
    history = train(
        engine, rows, config, lambda model, level: accuracy(model, held_out).rows.value, lambda at, write: None
    )
    return {
        "passes": passes,
        "kept": kept,
        "median_norm": statistics.median(norms),
        "max_norm": max(norms),
        "norms": [round(norm, 4) for norm in norms],
        "accuracy": history[-1].accuracy,
        "tokens_per_second": history[-1].tokens_per_second,
    }


def _show(memory: list[dict[str, Any]], norms: list[dict[str, Any]]) -> None:
    table = Table(
        "N", *(f"{r}: MB (s)" for r in RECOMPUTE), title="peak memory of a training step, by recomputation setting"
    )
    for n in PASSES:
        row = [at for at in memory if at["passes"] == n]
        table.add_row(str(n), *(f"{at['megabytes']:.0f} ({at['seconds']:.1f})" for at in row))
    Console().print(table)
    table = Table(
        "N",
        "K",
        "gradient norm: median",
        "max",
        "accuracy",
        "tokens/s",
        title=f"{STEPS} training steps of the demo model",
    )
    for at in norms:
        numbers = (f"{at['median_norm']:.2f}", f"{at['max_norm']:.2f}", f"{at['accuracy']:.3f}")
        table.add_row(str(at["passes"]), str(at["kept"] or "all"), *numbers, f"{at['tokens_per_second']:,.0f}")
    Console().print(table)


def _draw(memory: list[dict[str, Any]], norms: list[dict[str, Any]]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for recompute in RECOMPUTE:
        line = [at["megabytes"] for at in memory if at["recompute"] == recompute]
        left.plot(PASSES, line, "o-", label=f"recompute {recompute}")
    left.set(xlabel="sleep passes N", ylabel="peak memory of a step, MB", ylim=(0, None), xticks=PASSES)
    left.legend(fontsize="small")
    for at in norms:
        if at["kept"] is None:
            right.plot(at["norms"], lw=0.8, label=f"N = {at['passes']}")
    right.set(xlabel="step", ylabel="gradient norm before clipping", yscale="log")
    right.legend(fontsize="small")
    figure.savefig(ROOT / "results" / "depth.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    command_parser("depth", __doc__).parse_args()
    main()
