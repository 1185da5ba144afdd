"""Measure the training throughput of the whole model, forward and backward, for each N in float32 and bfloat16.

    python -m benchmarks.model

It is compared with the machine's matmul peak, and with the same architecture built from transformers' gated-delta
modules (the peer): in float32, in bfloat16, and in float32 under torch.compile, which our model is not. Writes
benchmarks/results/model.json.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from benchmarks.arguments import command_parser
from benchmarks.peer import PeerModel
from benchmarks.results_file import write_result
from benchmarks.timing import MATMUL_FLOPS, Seconds, interleaved, matmul, median_ratio
from pipelines.config.experiment import Experiment
from pipelines.config.presets import PRESETS
from sleepmodel import SleepModel
from sleepmodel.accounting import flops
from sleepmodel.training.allocator import keep_freed_memory

PASSES = (1, 2, 4)
BATCHES = {"demo": 128, "rule110-fig2b": 32}  # rows; few of the wide model, for where bfloat16 is slow
WIDE = "rule110-fig2b"
ROUNDS, LIMIT_SECONDS = 7, 60
MATMUL, PEER, COMPILED, BF16 = "matmul", "peer", "compiled peer", "bfloat16"


def main() -> None:
    keep_freed_memory()
    torch.manual_seed(0)
    rows = [row for preset in BATCHES for row in measure(PRESETS[preset])]
    shares = profile_shares(PRESETS[WIDE])
    columns = (
        "width",
        "precision",
        "N",
        "tokens/s",
        "time relative to N = 1",
        "matmul GFLOP/s",
        "share of the peak",
        "speed relative to the peer",
        "to the compiled peer",
    )
    table = Table(*columns, title="forward + backward")
    for row in rows:
        cells = [row["width"], row["precision"], row["passes"], f"{row['tokens_per_second']:,.0f}"]
        cells += [f"{row['time_over_n1']:.2f}", f"{row['matmul_peak_flops'] / 1e9:.0f}", f"{row['share_of_peak']:.0%}"]
        compared = [row.get(times) for times in ("times_the_peer", "times_the_compiled_peer")]
        table.add_row(*map(str, cells), *(f"{times:.2f} x" if times else "-" for times in compared))
    Console().print(table)
    print(
        "time by kind of kernel at width 256, N = 2, in bfloat16:", ", ".join(f"{k} {v:.0%}" for k, v in shares.items())
    )
    payload = {"threads": torch.get_num_threads(), "batches": BATCHES, "rounds": ROUNDS, "rows": rows}
    print(write_result("model", {**payload, "profile_bfloat16_width_256_n_2": shares}))


def measure(experiment: Experiment) -> list[dict[str, Any]]:
    """Time the preset's architecture at each N, the peers and large matmuls, in turns, on rows of the preset's task."""
    tokens, mask = _batch(experiment)
    models = {n: SleepModel(replace(experiment.model, sleep_passes=n)) for n in PASSES}
    steps = {str(n): _step(model, lambda m: m(tokens, mask).loss) for n, model in models.items()}
    for n, model in models.items():
        for name in (PEER, COMPILED):
            peer = PeerModel(model.config)
            if name == COMPILED:
                peer.one_pass = torch.compile(peer.one_pass)  # type: ignore[method-assign]
            steps[f"{name} {n}"] = _step(peer, lambda m: m(tokens, mask))
    contestants = {
        **steps,
        **{f"{BF16} {name}": _in_bfloat16(step) for name, step in steps.items() if COMPILED not in name},
        MATMUL: matmul(),
        f"{BF16} {MATMUL}": matmul(torch.bfloat16),
    }
    seconds = interleaved(contestants, ROUNDS, warmup=1, limit=LIMIT_SECONDS)
    rows = []
    for n, model in models.items():
        step_flops = 3 * tokens.shape[0] * flops(model, tokens.shape[1])  # a backward costs as much as two forwards
        for prefix in ("", f"{BF16} "):
            row = _row(experiment, seconds, prefix, n, tokens.numel(), step_flops)
            row["times_the_peer"] = median_ratio(seconds, f"{prefix}{PEER} {n}", f"{prefix}{n}")
            rows.append(row)
        rows[-2]["times_the_compiled_peer"] = median_ratio(seconds, f"{COMPILED} {n}", str(n))
    return rows


def profile_shares(experiment: Experiment) -> dict[str, float]:
    """The share of a training step's time in each kind of kernel, largest first."""
    tokens, mask = _batch(experiment)
    step = _in_bfloat16(_step(SleepModel(replace(experiment.model, sleep_passes=2)), lambda m: m(tokens, mask).loss))
    step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    events = found.key_averages()
    whole = sum(event.self_cpu_time_total for event in events)
    shares: dict[str, float] = {}
    for event in events:
        kind = next((kind for kind, words in KINDS.items() if any(word in event.key for word in words)), "other")
        shares[kind] = shares.get(kind, 0.0) + event.self_cpu_time_total / whole
    return dict(sorted(shares.items(), key=lambda pair: -pair[1]))


KINDS = {
    "matmul": ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn", "aten::linear"),
    "gated delta rule": ("gated_delta", "solve_triangular", "_Chunk"),
    "attention": ("scaled_dot_product", "flash_attention", "softmax"),
    "norms": ("norm",),
    "casts and copies": ("copy", "aten::to", "contiguous", "aten::cat", "zero", "fill"),
    "elementwise": ("mul", "add", "relu", "silu", "sigmoid", "softplus", "pow", "square", "threshold", "neg", "sub"),
    "reductions": ("sum", "mean"),
}


def _batch(experiment: Experiment) -> tuple[torch.Tensor, torch.Tensor]:
    tokens, mask = experiment.task.sample("train", 0, 0, BATCHES[experiment.name]).batch()
    return torch.from_numpy(tokens), torch.from_numpy(mask)


def _step(model: torch.nn.Module, loss: Callable[[Any], torch.Tensor]) -> Callable[[], object]:
    return lambda: torch.autograd.grad(loss(model), list(model.parameters()), allow_unused=True)


def _in_bfloat16(step: Callable[[], object]) -> Callable[[], object]:
    def run() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            step()

    return run


def _row(experiment: Experiment, seconds: Seconds, prefix: str, n: int, tokens: int, flops: int) -> dict[str, Any]:
    name, peak = f"{prefix}{n}", f"{prefix}{MATMUL}"
    return {
        "width": experiment.model.d_model,
        "precision": prefix.strip() or "float32",
        "passes": n,
        "tokens_per_second": tokens / statistics.median(seconds[name]),
        "time_over_n1": median_ratio(seconds, name, f"{prefix}1"),
        "share_of_peak": flops / MATMUL_FLOPS * median_ratio(seconds, peak, name),
        "matmul_peak_flops": MATMUL_FLOPS / statistics.median(seconds[peak]),
    }


if __name__ == "__main__":
    command_parser("model", __doc__).parse_args()
    main()
