"""Measure the latency of a session for each N: milliseconds per token awake, and per window asleep.

    python -m benchmarks.latency

Writes benchmarks/results/latency.json and latency.png, and fills the latency table of docs/evidence.md.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import replace

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from rich.progress import track

from benchmarks.arguments import command_parser
from benchmarks.evidence.pages import EVIDENCE, fill
from benchmarks.results_file import ROOT, write_result
from pipelines.config.presets import PRESETS
from pipelines.reporting.markdown import markdown_table
from sleepmodel import Session, SleepModel
from sleepmodel.inference.stopwatch import wait_for

PASSES = (1, 2, 3, 4, 6, 8)
MODELS = {64: "demo", 256: "rule110-fig2b"}
ROUNDS, WARMUP = 60, 5


def main() -> None:
    rows = [measure(width) for width in track(MODELS, "latency")]
    lines = []
    for row in rows:
        for n in PASSES:
            at = row["passes"][str(n)]
            times = f"{at['awake_ms']:.3f}", f"{at['awake_over_n1']:.3f}", f"{at['sleep_ms']:.2f}"
            lines.append((str(row["width"]), str(row["window"]), str(n), *times))
    head = ("width", "window", "N", "awake, ms per token", "relative to N = 1", "asleep, ms per window")
    block = markdown_table(head, lines)
    fill(EVIDENCE, {"latency": f"{block}\n\n![awake and asleep](../benchmarks/results/latency.png)"})
    print(block)
    for row in rows:
        pace = f"{row['ms_per_pass']:.2f} ms for each pass after the first"
        print(f"width {row['width']}: a sleep takes {pace}, R2 {row['r2']:.4f}")
    path = write_result("latency", {"threads": torch.get_num_threads(), "rounds": ROUNDS, "models": rows})
    draw(rows)
    print(f"results {path}\npicture {path.with_suffix('.png')}\npage    {EVIDENCE}")


def measure(width: int) -> dict:
    """Measure one model at each N: it reads a window token by token, then sleeps. The values of N take turns, in an
    order that rotates, so that other load on the machine affects all of them alike."""
    config = PRESETS[MODELS[width]].model
    torch.manual_seed(0)
    model = SleepModel(replace(config, max_positions=None)).eval()
    tokens = torch.randint(0, config.vocab_size, (1, config.window))
    sessions = {n: Session(model, sleep_passes=n) for n in PASSES}
    awake: dict[int, list[float]] = {n: [] for n in PASSES}
    asleep: dict[int, list[float]] = {n: [] for n in PASSES}
    for turn in range(WARMUP + ROUNDS):
        for n in np.roll(PASSES, turn).tolist():
            reading, sleeping = one_window(sessions[n], tokens)
            if turn >= WARMUP:
                awake[n].append(reading)
                asleep[n].append(sleeping)
    sleep_ms = [1e3 * statistics.median(asleep[n]) for n in PASSES]
    slope, start = np.polyfit(PASSES, sleep_ms, 1)
    rest = np.array(sleep_ms) - slope * np.array(PASSES) - start
    return {
        "width": width,
        "window": config.window,
        "passes": {
            str(n): {
                "awake_ms": 1e3 * statistics.median(awake[n]),
                "awake_over_n1": statistics.median(a / b for a, b in zip(awake[n], awake[1], strict=True)),
                "sleep_ms": milliseconds,
            }
            for n, milliseconds in zip(PASSES, sleep_ms, strict=True)
        },
        "ms_per_pass": slope,
        "r2": 1 - rest.var() / np.var(sleep_ms),
    }


def one_window(session: Session, tokens: torch.Tensor) -> tuple[float, float]:
    """Seconds per token of a window without its last one, and seconds of the sleep that the last one triggers."""
    wait_for(session.device)
    before, start = session.seconds_asleep, time.perf_counter()
    for token in tokens[:, :-1].T:
        session.read(token[:, None], last=True)
    wait_for(session.device)
    seconds = time.perf_counter() - start
    session.read(tokens[:, -1:], last=True)
    return seconds / (tokens.shape[1] - 1), session.seconds_asleep - before


def draw(rows: list[dict]) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    for key, title, axis in (
        ("awake_ms", "awake: ms per token", axes[0]),
        ("sleep_ms", "asleep: ms per window", axes[1]),
    ):
        for row in rows:
            axis.plot(PASSES, [row["passes"][str(n)][key] for n in PASSES], "o-", label=f"width {row['width']}")
        axis.set_title(title)
        axis.set_xlabel("sleep passes N")
        axis.set_xticks(PASSES)
        axis.set_ylim(bottom=0)
    axes[0].legend()
    figure.savefig(ROOT / "results" / "latency.png", dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    command_parser("latency", __doc__).parse_args()
    main()
