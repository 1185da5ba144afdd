"""The tables of docs/performance.md that come from benchmarks/results/gpu.json."""

from __future__ import annotations

from typing import Any

from benchmarks.results_file import read_result
from pipelines.reporting.markdown import markdown_table

BATCH = 512  # rows in a step, the paper's
WORDS = {
    "both": "compiled and replayed",
    "whole": "compiled and replayed, the optimiser's step too",
    "captured": "replayed as CUDA graphs",
    "compiled": "compiled",
    "eager": "eager",
    "torch form": "eager, without the Triton kernel",
}


def blocks() -> dict[str, str]:
    """Name of a block of the page -> its table."""
    parts: dict[str, list[Any]] = read_result("gpu")["parts"]
    steps = [row for name, rows in parts.items() if name.startswith(f"steps/{BATCH}/") for row in rows]
    return {
        "gpu-steps": _steps(steps),
        "gpu-kernels": _kernels(parts["kernels"]),
        "gpu-latency": _latency(parts["latency"]),
    }


def _steps(rows: list[dict[str, Any]]) -> str:
    forms = list(dict.fromkeys(row["form"] for row in rows))
    passes = sorted({row["passes"] for row in rows})
    lines = []
    for form in reversed(forms):
        own = {row["passes"]: row for row in rows if row["form"] == form}
        most = own[passes[-1]]
        rates = (f"{own[n]['tokens_per_second']:,.0f}" for n in passes)
        lines.append((WORDS[form], *rates, f"{100 * most['mfu']:.1f} %", f"{most['kernels']:,}"))
    head = ("step", *(f"N = {n}, tokens/s" for n in passes), f"MFU, N = {passes[-1]}", f"kernels, N = {passes[-1]}")
    return markdown_table(head, lines)


def _kernels(rows: list[dict[str, Any]]) -> str:
    lines = [
        (
            str(row["tokens"]),
            row["form"],
            f"{max(row['errors'].values()):.1e}",
            f"{1e3 * row['forward_seconds']:.2f}",
            f"{1e3 * row['both_seconds']:.2f}",
        )
        for row in rows
        if "refused" not in row
    ]
    return markdown_table(("window", "form", "largest error", "forward, ms", "forward and backward, ms"), lines)


def _latency(rows: list[dict[str, Any]]) -> str:
    lines = [(str(row["passes"]), f"{row['awake_ms']:.2f}", f"{row['asleep_ms']:.2f}") for row in rows]
    return markdown_table(("N", "awake, ms a token", "asleep, ms a window"), lines)
