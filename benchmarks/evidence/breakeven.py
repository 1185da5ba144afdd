"""Measure from which question on it is faster to sleep on a context once than to read it again for each question.

    python -m benchmarks.evidence.breakeven [--root DIR]

The models are those that `python -m benchmarks.evidence gsm` trained: N = 1, 2, 4 and a transformer with an unlimited
window, which either reads context and question again each time or keeps the context's keys and values. One row on one
core; the models take turns. Contexts are random tokens, as latency does not depend on them. Writes
benchmarks/results/evidence/breakeven.json and breakeven.png, and fills the breakeven table of docs/evidence.md.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import torch
from rich.progress import track

from benchmarks.arguments import command_parser
from benchmarks.evidence.experiments import EXPERIMENTS, RESULTS
from benchmarks.evidence.pages import EVIDENCE, fill
from benchmarks.results_file import ROOT, read_result, write_result
from pipelines.arguments import add_root, given_root
from pipelines.plan import plan
from pipelines.reporting import plots
from pipelines.reporting.markdown import markdown_table
from pipelines.runtime.services import Services
from sleepmodel import SleepModel, load
from sleepmodel.distributed.job import MODEL
from sleepmodel.inference.session import Session
from sleepmodel.inference.stopwatch import seconds_of

LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
QUESTION = 16
SLEEPERS, WHOLE = ("n1", "n2", "n4"), "transformer-whole"
ROUNDS, WARMUP = 7, 1


@dataclass(frozen=True)
class Reader:
    """The cost of one model on one context: milliseconds to read the context (with its sleeps) and then each question,
    and the bytes of the session's memory between questions."""

    variant: str
    length: int
    context_ms: float
    question_ms: float
    kept_bytes: int

    def questions(self, again_ms: float) -> int | None:
        """The number of questions from which this is faster than spending `again_ms` on each; None if it never is."""
        saved = again_ms - self.question_ms
        return math.ceil(self.context_ms / saved) if saved > 0 else None


def main() -> None:
    parser = command_parser("evidence.breakeven", __doc__)
    add_root(parser)
    root = given_root(parser, parser.parse_args())
    try:
        models = trained(root)
    except (ValueError, OSError) as error:
        parser.error(f"{error}: run `python -m benchmarks.evidence gsm` first")
    torch.set_num_threads(1)
    rows = []
    for length in track(LENGTHS, "contexts"):
        again_ms, readers = measure(models, length)
        rows += [{**vars(r), "again_ms": again_ms, "paid_after": r.questions(again_ms)} for r in readers]
    payload = {"question_tokens": QUESTION, "rounds": ROUNDS, "rows": rows}
    print(f"results {write_result(f'{RESULTS}/breakeven', payload)}")
    print(f"picture {redraw()}")
    head = (
        "context",
        "model",
        "read context, ms",
        "per question, ms",
        "re-read, ms",
        "break-even, questions",
        "memory, bytes",
    )
    block = markdown_table(head, [shown(row) for row in rows])
    picture = f"![latency of a question and size of the memory](../benchmarks/results/{RESULTS}/breakeven.png)"
    fill(EVIDENCE, {"breakeven": f"{block}\n\n{picture}"})
    print(f"{block}\npage    {EVIDENCE}")


def trained(root: Path) -> dict[str, SleepModel]:
    """The models by variant, of the first seed. The transformer's window is widened to hold every context."""
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
    """The milliseconds in which the transformer reads context and question together, and a Reader for each model."""
    vocabulary = models[WHOLE].config.vocab_size
    context, question = torch.randint(0, vocabulary, (1, length)), torch.randint(0, vocabulary, (1, QUESTION))
    both = torch.cat((context, question), 1)
    again, reading = list[float](), {variant: list[float]() for variant in models}
    asking, kept = {variant: list[float]() for variant in models}, dict.fromkeys(models, 0)
    for turn in range(WARMUP + ROUNDS):
        seconds: dict[str, Any] = {}
        fresh = Session(models[WHOLE], 1)
        seconds["again"] = seconds_of(lambda: fresh.read(both, last=True))  # noqa: B023
        for variant, model in models.items():
            session = Session(model, 1)
            read = seconds_of(lambda: session.read(context, last=True))  # noqa: B023
            kept[variant] = sum(tensor.nbytes for tensor in session.memory.tensors.values())
            asked = session.fork(1)
            seconds[variant] = read, seconds_of(lambda: asked.read(question, last=True))  # noqa: B023
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


def redraw(path: Path = ROOT / "results" / RESULTS / "breakeven.png") -> Path:
    """Draw the published costs again: of a question and of the memory, by the length of the context."""
    rows = read_result(f"{RESULTS}/breakeven")["rows"]
    figure, (asking, keeping) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    again = {row["length"]: row["again_ms"] for row in rows}
    asking.plot(list(again), list(again.values()), "--", color="grey", label="transformer, re-reading")
    for i, (variant, look) in enumerate(plots.styles((*SLEEPERS, WHOLE)).items()):
        own = [row for row in rows if row["variant"] == variant]
        # later marks are smaller, so that none is hidden where models keep as many bytes
        mark: dict[str, Any] = {"color": look.colour, "ms": 12 - 3 * i}
        label = "transformer, cache kept" if variant == WHOLE else variant
        asking.plot(LENGTHS, [row["question_ms"] for row in own], "o-", label=label, **mark)
        keeping.plot(LENGTHS, [row["kept_bytes"] for row in own], "o-", **mark)
    for axis, words in ((asking, "ms per question"), (keeping, "memory, bytes")):
        axis.set(xlabel="tokens of context", ylabel=words, xscale="log", yscale="log")
        axis.set_xticks(LENGTHS, [f"{length:,}" for length in LENGTHS])
        axis.minorticks_off()
        axis.grid(axis="y", alpha=0.3)
    plots.legend(figure, len(SLEEPERS) + 2, columns=len(SLEEPERS) + 2)
    last = {row["variant"]: row for row in rows if row["length"] == max(LENGTHS)}
    after_sleep, cached = (last[variant]["question_ms"] for variant in (SLEEPERS[0], WHOLE))
    title = (
        f"After {max(LENGTHS):,} tokens a question takes {after_sleep:.1f} ms with {SLEEPERS[0]}, {cached:.1f} with a "
        f"cache, {again[max(LENGTHS)]:.0f} re-reading"
    )
    plots.write(figure, title, path)
    return path


def _ms(seconds: list[float]) -> float:
    return 1e3 * statistics.median(seconds)


if __name__ == "__main__":
    main()
