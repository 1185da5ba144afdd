"""The experiments of docs/evidence.md and docs/iterated-sleep.md: presets, seeds, and what the pages compare."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.evidence.pages import EVIDENCE, ITERATED_SLEEP
from benchmarks.results_file import ROOT
from datagen.checks import require
from datagen.text.example import PAGES, write_example
from datagen.text.importing import plan_import
from datagen.text.options import Options
from pipelines.config.experiment import Experiment
from pipelines.config.presets import PRESETS, RULES
from pipelines.reporting.differences import Right
from sleepmodel.pretrained.smollm2 import write_smollm2
from sleepmodel.serialization.model_dir import WEIGHTS

RESULTS = "evidence"
DOCUMENT_TOKENS = 512


@dataclass(frozen=True)
class Question:
    """A mini preset and the seeds that it is run with.

    pairs: (variant, baseline) pairs whose tests ask the same questions; the page shows their differences.
    right: what the differences count. Where a row has questions of several depths, its deepest decides whether it is
        right, and answers say more.
    titled: the variants that the titles of its pictures compare, among those shown; (): the best and the first.
    shown: the variants in its pictures; (): all.
    depth: where the title by depth compares variants; None: at the greatest.
    by_depth: names of further pictures by depth, and the variants that each shows.
    speed: the experiment measures training speed alone, with runs too short to learn.
    smollm2: it begins with SmolLM2-135M.
    documents: it reads the example text (datagen/text/example.py), and the page shows nats by position.
    page: where its tables are.
    """

    preset: str
    seeds: tuple[int, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    right: Right = "rows"
    titled: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    depth: int | None = None
    by_depth: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    speed: bool = False
    smollm2: bool = False
    documents: bool = False
    page: Path = EVIDENCE

    def __post_init__(self) -> None:
        preset = PRESETS[self.preset]
        tasks = {variant.name: preset.variant_task(variant).test_identity() for variant in preset.variants}
        for pair in self.pairs:
            own = {tasks[name.partition("@")[0]] for name in pair}
            require(len(own) == 1, "pairs", pair, "variants whose tests ask the same questions")
        testable = self.documents or len(self.seeds) > 1
        require(testable or not self.pairs, "pairs", self.pairs, "() with a single seed, which has no p-value")
        lists = {"titled": self.titled, "shown": self.shown, **{f"by_depth.{k}": v for k, v in self.by_depth.items()}}
        for where, names in lists.items():
            unknown = [name for name in names if name.partition("@")[0] not in tasks]
            require(not unknown, where, unknown, f"names of variants of {self.preset}")
        hidden = [name for name in self.titled if self.shown and name not in self.shown]
        require(not hidden, "titled", hidden, f"among those shown, {', '.join(self.shown)}")

    @property
    def experiment(self) -> Experiment:
        """What it runs, but for the pretrained model."""
        return replace(PRESETS[self.preset], seeds=self.seeds)

    def assignments(self, root: Path) -> list[str]:
        """What --set gets; results go to `root`. Writes the pretrained model and the documents there, where they are
        needed and missing."""
        found = [f"seeds={list(self.seeds)}"]
        if self.smollm2:
            directory = root / "smollm2"
            if not (directory / WEIGHTS).is_file():
                write_smollm2(directory)
            found.append(f"pretrained.model={directory}")
            if self.documents:
                found += ["task=text", f"task.path={_documents(root, directory)}"]
        return found


def _documents(root: Path, tokenizer: Path) -> Path:
    """The dataset of the example text."""
    pages = root / "fastmcp" / PAGES
    if not pages.is_file():
        write_example(pages.parent)
    command = ["pipelines/generate.py", "--task", "text", "--import", str(pages), "--tokenizer", str(tokenizer)]
    limit = ["--max-tokens", str(DOCUMENT_TOKENS), "--root", str(root)]
    subprocess.run([sys.executable, *command, *limit], cwd=ROOT.parent, check=True)
    return plan_import([pages], root / "imported", tokenizer, Options(max_tokens=DOCUMENT_TOKENS)).path


def results_of(name: str) -> Path:
    """The directory of an experiment's published results."""
    return ROOT / "results" / RESULTS / name


THREE = (40, 41, 42)
GAINS = (("n2", "n1"), ("n4", "n1"), ("n4", "n2"))
CONTROLS = tuple(("n4", control) for control in ("n1-same-compute", "n1-same-compute-epochs", "n1-deep"))
WITHOUT = (
    "hidden",
    "normalized",
    "mixture",
    "untraced",
    "fixed-frame",
    "eta-1",
    "delta",
    "unmarked",
    "no-reading",
    "one-head",
)
POSITIONS = (
    ("sleep", "transformer-evicted"),
    ("sleep@2", "sleep"),
    ("sleep@4", "sleep"),
    ("sleep-sliding", "transformer-sliding"),
    ("sleep-sliding@2", "sleep-sliding"),
    ("sleep-sliding@4", "sleep-sliding"),
    ("sleep-sliding", "sleep"),
    ("sleep", "transformer-whole"),
    ("transformer-evicted", "before-evicted"),
    ("transformer-sliding", "before-sliding"),
    ("transformer-whole", "before-whole"),
)

EXPERIMENTS = {
    "rule110": Question(
        "rule110-fig2b-mini",
        (*THREE, 43, 44),
        (*GAINS, *CONTROLS, ("n2", "n1-same-compute"), ("n2", "n1-deep")),
        titled=("n4", "n1", "n1-same-compute"),
    ),
    "rows": Question(
        "rule110-rows-mini",
        THREE,
        (*GAINS, CONTROLS[0], ("n2", "n1-same-compute")),
        titled=("n4", "n1", "n1-same-compute"),
    ),
    "by-t": Question(
        "rule110-by-t-mini",
        (*THREE, 43, 44),
        tuple((f"n{n}-t{t}", f"n1-t{t}") for t in (2, 4, 8, 10) for n in (2, 4)),
        titled=("n4-t8", "n1-t8"),
    ),
    "cells": Question(
        "rule110-cells-mini",
        (60, 61, 62, 63, 64),
        (("n2", "n1"), ("n4", "n1"), ("n4", "n1-same-compute"), ("n4", "n4-without-conv")),
        titled=("n4", "n1", "n1-same-compute"),
    ),
    "cells-by-t": Question(
        "rule110-cells-by-t-mini",
        (60, 61, 62),
        titled=("n1-same-compute-t10", "n4-t10", "n1-t10"),
    ),
    "curriculum": Question(
        "curriculum-mini",
        THREE,
        (("n4", "n1"), ("pass-a-step", "n1"), ("n1", "n1-all-at-once")),
        titled=("pass-a-step", "n4", "n1", "n1-all-at-once"),
    ),
    "eta": Question(
        "ablation-eta-mini",
        THREE,
        tuple((f"eta{eta}-n{n}", f"eta1-n{n}") for n in (1, 2, 4) for eta in (0.5, 1.5, 2))
        + tuple((f"eta{eta}-n{n}", f"eta{eta}-n1") for eta in (1, 2) for n in (2, 4)),
        titled=("eta2-n1", "eta1-n1", "eta2-n4", "eta1-n4"),
    ),
    "rule": Question(
        "ablation-rule-mini",
        (43, 44, 45, 46, 47),  # chosen once 40 to 42 had left it open
        tuple((f"{rule}-n4", f"{rule}-n1") for rule in RULES),
        titled=("gated_delta-n4", "gated_delta-n1", "linear-n4", "linear-n1"),
    ),
    "depo": Question("depo-fig3-mini", THREE, GAINS, titled=("n4", "n2", "n1")),
    "depo-hops": Question(
        "depo-hops-mini",
        (80, 81, 82, 83, 84),
        (
            *GAINS,
            *(
                ("n3", control)
                for control in ("n1", "n1-same-compute", "n1-deep", "n1-deep-narrow", "transformer-whole")
            ),
            *((f"{more}-uniform", f"{fewer}-uniform") for more, fewer in GAINS),
            ("n4-uniform", "n1-uniform-same-compute-epochs"),
        ),
        right="answers",
        titled=("n3", "n1", "n1-same-compute", "n1-deep"),
        shown=("n1", "n2", "n3", "n4", "n1-same-compute", "n1-deep", "n1-deep-narrow", "transformer-whole"),
        # the last one that the curriculum opened for most trainings
        depth=3,
        by_depth={"uniform": ("n4-uniform", "n2-uniform", "n1-uniform", "n1-uniform-same-compute-epochs")},
    ),
    "depo-sizes": Question("depo-sizes-mini", (80,), titled=("n3", "n1")),
    "depo-iterated": Question(
        "depo-iterated",
        (85, 86, 87, 88, 89),
        tuple(("iterated", without) for without in ("hidden", "untraced", "unmarked", "begin-at-next", "without-conv")),
        titled=("iterated", "hidden"),
        shown=(
            "iterated",
            "hidden",
            "untraced",
            "unmarked",
            "without-conv",
            "one-pass-compute",
            "one-pass-deep",
        ),
        page=ITERATED_SLEEP,
    ),
    "depo-windows": Question("depo-iterated-windows", (85, 86, 87, 88, 89), page=ITERATED_SLEEP),
    "gsm": Question("gsm-fig4-mini", THREE, GAINS, titled=("n4", "n2", "n1")),
    "gsm-traces": Question(
        "gsm-traces-mini",
        (43, 44, 45, 46, 47),  # chosen once 40 to 42 had left it open
        (
            *((better, n1) for better in ("n4", "n4-traces") for n1 in ("n1", "n1-same-compute")),
            ("n4-traces", "n4"),
        ),
        titled=("n4-traces", "n4", "n1-same-compute"),
    ),
    "facts": Question("facts-capacity-mini", (40,), titled=("16kb", "8kb-2-heads", "n1")),
    "retrofit": Question(
        "retrofit-recall-mini",
        THREE,
        (("n1", "transformer-evicted"), ("n2", "n1")),
        smollm2=True,
        titled=("n1", "transformer-evicted"),
    ),
    "text": Question(
        "text-positions-mini",
        (40,),
        POSITIONS,
        smollm2=True,
        documents=True,
        titled=("sleep", "transformer-evicted", "before-evicted"),
    ),
    "sliding": Question("gsm-sliding-fig5-mini", (40,), titled=("n4", "n1", "transformer-longer")),
    "throughput": Question("throughput-fig6-mini", (0,), speed=True),
    "iterated": Question(
        "rule110-iterated",
        tuple(range(90, 100)),
        tuple(("iterated", without) for without in WITHOUT),
        titled=("iterated", "hidden"),
        shown=("iterated", "mixture", "hidden", "unmarked", "delta", "one-pass-compute", "one-pass-far"),
        page=ITERATED_SLEEP,
    ),
    "backward": Question(
        "rule110-iterated-backward",
        (90, 91, 92),
        (
            *((f"{name}-whole", name) for name in ("iterated", "hidden", "untraced")),
            *(("iterated-whole", f"{name}-whole") for name in ("hidden", "untraced")),
        ),
        titled=("iterated-whole", "hidden-whole", "untraced-whole"),
        page=ITERATED_SLEEP,
    ),
}
