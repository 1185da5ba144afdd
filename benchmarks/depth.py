"""What training at large N takes: peak memory by what the backward recomputes, gradient norms by N and truncation."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.results_file import ROOT, write_result
from pipelines.presets import PRESETS
from sleepmodel import SleepModel
from sleepmodel.allocator import keep_freed_memory
from sleepmodel.config import RECOMPUTE, Truncation
from sleepmodel.evaluation import accuracy
from sleepmodel.training import LocalEngine, build_model, train

PASSES = (1, 2, 4, 8)
BATCH, WIDTH = 64, 128  # of the memory's part; the rest is the paper's Rule 110 model
STEPS, VALIDATION_ROWS, SEED = 300, 1024, 0
TRUNCATIONS = {None: (1, 2, 4, 8), 2: (4, 8), 1: (4, 8)}  # K -> N


def main() -> None:
    if len(sys.argv) == 3:
        print(json.dumps(one_step(int(sys.argv[1]), sys.argv[2])))
        return
    keep_freed_memory()
    memory = [_in_process(n, recompute) for n in track(PASSES, "memory") for recompute in RECOMPUTE]
    norms = [trained(n, k) for k, ns in TRUNCATIONS.items() for n in track(ns, f"gradients, K = {k or 'all'}")]
    _show(memory, norms)
    payload = {"memory": {"batch": BATCH, "width": WIDTH, "steps": memory}, "gradients": {"seed": SEED, "runs": norms}}
    path = write_result("depth", payload)
    _draw(memory, norms)
    print(f"{path}, {path.with_suffix('.png')}")


def one_step(passes: int, recompute: str) -> dict[str, Any]:
    """Peak memory that a forward and backward adds to a process, and its seconds."""
    pipeline = PRESETS["rule110-fig2b"]
    model = SleepModel(replace(pipeline.model, d_model=WIDTH, sleep_passes=passes), recompute)
    rows = pipeline.task.sample("train", 0, 0, BATCH)
    tokens, mask = map(torch.from_numpy, rows.batch())
    # kernels are loaded, and weights have gradients, before it counts
    model(tokens[:2], mask[:2], 1).loss.backward()
    before, start = _peak(), time.perf_counter()
    model(tokens, mask).loss.backward()
    seconds = time.perf_counter() - start
    return {"passes": passes, "recompute": recompute, "megabytes": _peak() - before, "seconds": seconds}


def trained(passes: int, kept: int | None) -> dict[str, Any]:
    """A short training of the demo's model at N, of whose sleeps the last K passes are differentiated."""
    demo = PRESETS["demo"]
    config = replace(demo.train, steps=STEPS, validate_every=STEPS, seed=SEED, truncation=Truncation(passes=kept))
    engine = LocalEngine(build_model(replace(demo.model, sleep_passes=passes), config), config)
    rows = demo.task.sample("train", 0, 0, STEPS * config.batch_size)
    held_out = demo.task.sample("validation", 0, 0, VALIDATION_ROWS)
    norms: list[float] = []
    step = engine.step

    def noted(rate: float) -> float:
        norms.append(step(rate))
        return norms[-1]

    engine.step = noted  # type: ignore[method-assign]
    history = train(engine, rows, config, lambda model: accuracy(model, held_out).rows.value, lambda at, write: None)
    return {
        "passes": passes,
        "kept": kept,
        "median_norm": statistics.median(norms),
        "max_norm": max(norms),
        "norms": [round(norm, 4) for norm in norms],
        "accuracy": history[-1].accuracy,
        "tokens_per_second": history[-1].tokens_per_second,
    }


def _in_process(passes: int, recompute: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.depth", str(passes), recompute]
    result: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return result


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _show(memory: list[dict[str, Any]], norms: list[dict[str, Any]]) -> None:
    table = Table(
        "N", *(f"{r}: MB (s)" for r in RECOMPUTE), title="peak memory of a training step, by what is recomputed"
    )
    for n in PASSES:
        row = [at for at in memory if at["passes"] == n]
        table.add_row(str(n), *(f"{at['megabytes']:.0f} ({at['seconds']:.1f})" for at in row))
    Console().print(table)
    table = Table("N", "K", "gradient norm: median", "max", "accuracy", "tokens/s", title=f"{STEPS} steps of the demo")
    for at in norms:
        numbers = (f"{at['median_norm']:.2f}", f"{at['max_norm']:.2f}", f"{at['accuracy']:.3f}")
        table.add_row(str(at["passes"]), str(at["kept"] or "all"), *numbers, f"{at['tokens_per_second']:,.0f}")
    Console().print(table)


def _draw(memory: list[dict[str, Any]], norms: list[dict[str, Any]]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    for recompute in RECOMPUTE:
        line = [at["megabytes"] for at in memory if at["recompute"] == recompute]
        left.plot(PASSES, line, "o-", label=f"recompute {recompute}")
    left.set(xlabel="sleep passes N", ylabel="MB of a step", ylim=(0, None), xticks=PASSES)
    left.legend(fontsize="small")
    for at in norms:
        if at["kept"] is None:
            right.plot(at["norms"], lw=0.8, label=f"N = {at['passes']}")
    right.set(xlabel="step", ylabel="gradient norm before clipping", yscale="log")
    right.legend(fontsize="small")
    figure.savefig(ROOT / "results" / "depth.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
