"""The first hour on a GPU, as one command:

    python -m benchmarks.gpu [--minutes 8] [--training-minutes 2]

It needs torch, triton and numpy alone (flash-linear-attention too if it is to be compared). It times a training step
of `rule110-fig2b` at N = 1 to 4, trains it at N = 1 and 4, checks and times each form of the fast weights, and times a
session. Each result is written to benchmarks/results/gpu.json when it is there. A run that ended early, by the limit of
`--minutes` or otherwise, goes on where it stopped if commit and device are the same. To try the command without a GPU,
use `--device cpu`, which takes tiny sizes and writes nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from benchmarks.arguments import command_parser
from benchmarks.gpu.kernels import measure_kernels
from benchmarks.gpu.latency import measure_latency
from benchmarks.gpu.steps import FORMS, PASSES, Form, matmul_peak, measure_steps
from benchmarks.gpu.timing import PRECISION
from benchmarks.gpu.training import train_for
from benchmarks.results_file import ROOT, provenance, write_result
from pipelines.arguments import positive

PARTS = ("steps", "training", "kernels", "latency")
TOKENS = 5_000_000_000  # of the paper's figure 2b


def main(arguments: list[str] | None = None) -> None:
    parser = command_parser("gpu", __doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batches", type=positive, nargs="+", default=[256, 512], help="rows in a step")
    parser.add_argument("--rounds", type=positive, default=5, help="timed rounds of each step")
    parser.add_argument("--minutes", type=float, default=60, help="begin nothing new after this time")
    parser.add_argument("--training-minutes", type=float, default=2, help="of each of the two trainings")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="what to measure")
    parser.add_argument("--result", default="gpu", help="name of the file in benchmarks/results")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("--device cuda: no CUDA device here; run this on a GPU machine, or try --device cpu")
    device = torch.device(given.device)
    if device.type == "cpu":
        given.batches, given.training_minutes = [1], 0
    Hour(device, given).run()


class Hour:
    """The parts of the hour, each run once and kept."""

    def __init__(self, device: torch.device, given: argparse.Namespace) -> None:
        self.device, self.given, self.end = device, given, time.monotonic() + 60 * given.minutes
        self.name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
        self.found: dict[str, Any] = {"device": self.name, "parts": {}}
        self.file = ROOT / "results" / f"{given.result}.json"
        if device.type == "cuda" and self.file.exists():
            before = json.loads(self.file.read_text())
            commit = provenance()["commit"]
            same = (before["provenance"]["commit"], before["device"]) == (commit, self.name) and "-" not in commit
            self.found = {key: before[key] for key in self.found} if same else self.found

    def run(self) -> None:
        """All parts that are not there yet, until the time is over, the most telling first."""
        parts, timed = self.given.parts, self.rates(self.given.batches[0])
        if "training" in parts and "steps" not in parts and not timed:
            sys.exit("--parts training: its length follows from the rate of its steps; add `steps`, or time them first")
        print(f"{self.name}, torch {torch.__version__}; results in {self.file}", flush=True)
        on_gpu, (first, *others) = self.device.type == "cuda", self.given.batches
        for (peak,) in self.part("peak", lambda: [[matmul_peak(self.device)]]):
            print(f"a large {PRECISION[self.device.type]} matmul runs at {peak / 1e12:,.1f} TFLOP/s")
            self.steps(first, FORMS if on_gpu else FORMS[:1], peak)
            for n in (PASSES[-1], PASSES[0]):
                self.part(f"training/{n}", lambda n=n: self.training(n, first))
            self.kernels(first)
            print(f"\n{'N':>3}{'awake, ms a token':>20}{'asleep, ms a window':>22}")
            for row in self.part("latency", lambda: measure_latency(self.device)):
                print(f"{row['passes']:>3}{row['awake_ms']:>20.2f}{row['asleep_ms']:>22.2f}", flush=True)
            for batch in others:
                self.steps(batch, FORMS[:2] if on_gpu else FORMS[:1], peak)

    def steps(self, batch: int, forms: Sequence[Form], peak: float) -> None:
        """Time the steps of each form."""
        columns = f"{'tokens/s':>14}{'MFU':>8}{'GB':>7}{'kernels':>9}{'waits':>7}{'hours':>7}"
        print(f"\n{'rows':>5}  {'form':<11}{'N':>3}{columns}")
        for form in forms:

            def measure(form: Form = form) -> Iterable[dict[str, Any]]:
                return measure_steps(self.device, batch, form, self.given.rounds, peak)

            for row in self.part(f"steps/{batch}/{form.name}", measure):
                print(step_line(row), flush=True)

    def kernels(self, batch: int) -> None:
        """Check and time the forms of the fast weights."""
        print(f"\n{'window':>6}  {'form':<11}{'worst error':>12}{'forward, us':>13}{'both, us':>10}")
        for row in self.part("kernels", lambda: measure_kernels(self.device, batch)):
            print(kernel_line(row), flush=True)

    def part(self, name: str, measure: Callable[[], Iterable[Any]]) -> list[Any]:
        """The results of a part; none if it was not asked for, or the time is over."""
        if name.partition("/")[0] in PARTS and name.partition("/")[0] not in self.given.parts:
            return []
        if name not in self.found["parts"]:
            if time.monotonic() > self.end:
                print(f"{name}: not begun, the time is over")
                return []
            self.found["parts"][name] = list(measure())
            if self.device.type == "cuda":
                write_result(self.given.result, self.found)
        return self.found["parts"][name]

    def training(self, passes: int, batch: int) -> list[dict[str, Any]]:
        rate = self.rates(batch)[passes]
        return [train_for(self.device, passes, batch, 60 * self.given.training_minutes, rate)]

    def rates(self, batch: int) -> dict[int, float]:
        """N -> the tokens per second of a training's steps, where they have been timed."""
        measured = self.found["parts"].get(f"steps/{batch}/{FORMS[0].name}", ())
        return {row["passes"]: row["tokens_per_second"] for row in measured}


def kernel_line(row: dict[str, Any]) -> str:
    start = f"{row['tokens']:>6}  {row['form'] + '*' * row['chosen']:<11}"
    if "refused" in row:
        return f"{start}  {row['refused']}"
    times = f"{1e6 * row['forward_seconds']:>13,.0f}{1e6 * row['both_seconds']:>10,.0f}"
    return f"{start}{max(row['errors'].values()):>12.1e}{times}"


def step_line(row: dict[str, Any]) -> str:
    start = (
        f"{row['batch']:>5}  {row['form']:<11}{row['passes']:>3}{row['tokens_per_second']:>14,.0f}{row['mfu']:>8.1%}"
    )
    hours = f"{TOKENS / row['tokens_per_second'] / 3600:>7.1f}"
    if row["peak_bytes"] is None:
        return start + " " * 23 + hours
    kernels = "" if row["kernels"] is None else f"{row['kernels']:,}"
    return f"{start}{row['peak_bytes'] / 1e9:>7.2f}{kernels:>9}{row['synchronisations']:>7}{hours}"


if __name__ == "__main__":
    main()
