"""When a sleep has paid for itself: questions on one context, slept on once, against a transformer that reads it again.

    python -m benchmarks.evidence.breakeven [--root runs]

The models are those that `python -m benchmarks.evidence gsm` trained: N = 1, 2, 4, and the transformer with its whole
cache, which reads context and question anew each time, or keeps the keys and values of the context. One row, one core,
turns; contexts are random tokens, as time does not depend on them. Fills its table in docs/evidence.md.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from rich.progress import track

from benchmarks.evidence.experiments import EXPERIMENTS, RESULTS
from benchmarks.evidence.pages import EVIDENCE, fill
from benchmarks.results_file import ROOT, write_result
from pipelines.plan import plan
from pipelines.reporting.markdown import markdown_table
from pipelines.runtime.services import Services
from sleepmodel import SleepModel, load
from sleepmodel.distributed.job import MODEL
from sleepmodel.inference.session import Session

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
QUESTION = 16
SLEEPERS, WHOLE = ("n1", "n2", "n4"), "transformer-whole"
ROUNDS, WARMUP = 7, 1


@dataclass(frozen=True)
class Reader:
    """Milliseconds: reading a context once, and then each question on it; bytes that are kept between questions."""

    variant: str
    length: int
    context_ms: float
    question_ms: float
    kept_bytes: int

    def questions(self, again_ms: float) -> int | None:
        """Questions after which this was quicker than `again_ms` for each of them; None where it never is."""
        saved = again_ms - self.question_ms
        return math.ceil(self.context_ms / saved) if saved > 0 else None


def main() -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.evidence.breakeven", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("runs"), help="the pipelines' root")
    models = trained(parser.parse_args().root.absolute())
    torch.set_num_threads(1)
    rows = []
    for length in track(LENGTHS, "contexts"):
        again_ms, readers = measure(models, length)
        rows += [{**vars(r), "again_ms": again_ms, "paid_after": r.questions(again_ms)} for r in readers]
    payload = {"question_tokens": QUESTION, "rounds": ROUNDS, "rows": rows}
    print(f"results {write_result(f'{RESULTS}/breakeven', payload)}")
    print(f"picture {draw(rows)}")
    head = (
        "context",
        "model",
        "read once, ms",
        "a question, ms",
        "read again, ms",
        "paid after questions",
        "kept, bytes",
    )
    block = markdown_table(head, [shown(row) for row in rows])
    picture = f"![a question and what is kept](../benchmarks/results/{RESULTS}/breakeven.png)"
    fill(EVIDENCE, {"breakeven": f"{block}\n\n{picture}"})
    print(f"{block}\npage    {EVIDENCE}")


def trained(root: Path) -> dict[str, SleepModel]:
    """The models by line, of the first seed; the transformer's window holds any context here."""
    experiment = EXPERIMENTS["gsm"]
    stages = {step.name: step for step in plan(experiment.experiment, Services(experiment.experiment, root))}
    models = {
        variant: load(stages[f"train-{variant}-seed{experiment.seeds[0]}"].output(root) / MODEL)
        for variant in (*SLEEPERS, WHOLE)
    }
    whole = SleepModel(replace(models[WHOLE].config, window=max(LENGTHS) + 2 * QUESTION)).eval()
    whole.load_state_dict(models[WHOLE].state_dict())
    return {**models, WHOLE: whole}


@torch.no_grad()
def measure(models: dict[str, SleepModel], length: int) -> tuple[float, list[Reader]]:
    """Milliseconds of reading context and question anew with the whole cache; every model as a reader."""
    vocabulary = models[WHOLE].config.vocab_size
    context, question = torch.randint(0, vocabulary, (1, length)), torch.randint(0, vocabulary, (1, QUESTION))
    both = torch.cat((context, question), 1)
    again, reading = list[float](), {variant: list[float]() for variant in models}
    asking, kept = {variant: list[float]() for variant in models}, dict.fromkeys(models, 0)
    for turn in range(WARMUP + ROUNDS):
        seconds: dict[str, Any] = {}
        fresh = Session(models[WHOLE], 1)
        seconds["again"] = timed(lambda: fresh.read(both, last=True))  # noqa: B023
        for variant, model in models.items():
            session = Session(model, 1)
            read = timed(lambda: session.read(context, last=True))  # noqa: B023
            kept[variant] = sum(tensor.nbytes for tensor in session.memory.tensors.values())
            asked = session.fork(1)
            seconds[variant] = read, timed(lambda: asked.read(question, last=True))  # noqa: B023
        if turn >= WARMUP:
            again.append(seconds.pop("again"))
            for variant, (read, ask) in seconds.items():
                reading[variant].append(read)
                asking[variant].append(ask)
    return _ms(again), [
        Reader(variant, length, _ms(reading[variant]), _ms(asking[variant]), kept[variant]) for variant in models
    ]


def shown(row: dict[str, Any]) -> tuple[str, ...]:
    after = "never" if row["paid_after"] is None else str(row["paid_after"])
    times = f"{row['context_ms']:.1f}", f"{row['question_ms']:.2f}", f"{row['again_ms']:.1f}"
    return f"{row['length']:,}", row["variant"], *times, after, f"{row['kept_bytes']:,}"


def draw(rows: list[dict[str, Any]]) -> Path:
    figure, (asking, keeping) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    again = {row["length"]: row["again_ms"] for row in rows}
    asking.plot(list(again), list(again.values()), "ks--", label="read again")
    for variant in (*SLEEPERS, WHOLE):
        own = [row for row in rows if row["variant"] == variant]
        label = "its whole cache kept" if variant == WHOLE else variant
        asking.plot(LENGTHS, [row["question_ms"] for row in own], "o-", label=label)
        keeping.plot(LENGTHS, [row["kept_bytes"] for row in own], "o-", label=label)
    for axis, title in ((asking, "ms a question"), (keeping, "bytes kept")):
        axis.set(title=title, xlabel="tokens of context", xscale="log", yscale="log")
        axis.set_xticks(LENGTHS, [f"{length:,}" for length in LENGTHS])
        axis.minorticks_off()
        axis.legend()
    path = ROOT / "results" / RESULTS / "breakeven.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _ms(seconds: list[float]) -> float:
    return 1e3 * statistics.median(seconds)


if __name__ == "__main__":
    main()
