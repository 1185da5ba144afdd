"""Fill the tables of docs/performance.md from the files of benchmarks/results. `make bench` ends with it.

python -m benchmarks.performance
"""

from __future__ import annotations

from typing import Any

from benchmarks.arguments import command_parser
from benchmarks.evidence.pages import PERFORMANCE, fill
from benchmarks.gpu import page as gpu_page
from benchmarks.results_file import read_result
from pipelines.reporting.markdown import markdown_table


def main() -> None:
    fill(PERFORMANCE, blocks())
    print(f"page {PERFORMANCE}")


def blocks() -> dict[str, str]:
    """Name of a block of the page -> its table."""
    return {
        "training": _training(read_result("model")["rows"]),
        "buckets": _buckets(read_result("buckets")["results"]),
        "kernels": _kernels(read_result("kernel")["shapes"]),
        **gpu_page.blocks(),
    }


def _training(rows: list[dict[str, Any]]) -> str:
    by_model: dict[tuple[int, int], dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_model.setdefault((row["width"], row["passes"]), {})[row["precision"]] = row
    lines = []
    for (width, passes), found in by_model.items():
        single, half = found["float32"], found["bfloat16"]
        times = [single["times_the_peer"], single["times_the_compiled_peer"], half["times_the_peer"]]
        vs_peer, vs_compiled, half_vs_peer = (f"{value:.1f}" for value in times)
        lines.append((width, passes, *_speed(single), vs_peer, vs_compiled, *_speed(half), half_vs_peer))
    head = ("tokens/s", "share of matmul peak", "times as fast as the peer")
    half_head = ("bfloat16: tokens/s", "share of its matmul peak", "times as fast as the peer in bfloat16")
    return markdown_table(("width", "N", *head, "as the compiled peer", *half_head), lines)


def _speed(row: dict[str, Any]) -> tuple[str, str]:
    return f"{row['tokens_per_second']:,.0f}", f"{100 * row['share_of_peak']:.0f} %"


def _buckets(rows: list[dict[str, Any]]) -> str:
    lines = [
        (
            f"`{row['preset']}`",
            row["batch_size"],
            "null" if row["bucket_tokens"] is None else row["bucket_tokens"],
            f"{row['shapes']} of {row['steps']:,}",
            f"{100 * row['replayed'] / row['steps']:.1f} %",
            f"{100 * row['pads']:.1f} %",
            f"{100 * row['pads_on_gpu']:.1f} %",
        )
        for row in rows
    ]
    head = ("preset", "rows in a batch", "`train.bucket_tokens`", "shapes", "batches that are replayed")
    return markdown_table((*head, "pads among the computed tokens, CPU", "GPU"), lines)


def _kernels(shapes: list[dict[str, Any]]) -> str:
    lines = [
        (
            shape["batch"],
            shape["heads"],
            shape["dim"],
            f"{shape['tokens']:,}",
            f"{shape['milliseconds']['ours']:.1f}",
            f"{shape['times as fast as']['transformers']:.1f}",
        )
        for shape in shapes
    ]
    return markdown_table(("rows", "heads", "K = V", "window", "ms", "times as fast as transformers"), lines)


if __name__ == "__main__":
    command_parser("performance", __doc__).parse_args()
    main()
