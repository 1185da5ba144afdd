"""Run the experiments of docs/evidence.md through the pipeline and publish their tables and pictures.

    python -m benchmarks.evidence [EXPERIMENT ...] [--root DIR]

runs the experiments that are not finished, one after the other, publishes each in benchmarks/results/evidence, and
fills its tables in docs/evidence.md (`iterated`: in docs/iterated-sleep.md). You can interrupt it at any time and run
it again.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.evidence.pages import EVIDENCE, ITERATED_SLEEP, fill
from benchmarks.evidence.publish import PUBLISHED, publish, published_variants
from benchmarks.results_file import ROOT
from datagen.checks import require
from datagen.text.example import PAGES, write_example
from datagen.text.importing import plan_import
from datagen.text.options import Options
from pipelines.arguments import add_root, given_root
from pipelines.config.experiment import Experiment
from pipelines.config.overrides import apply_overrides
from pipelines.config.presets import PRESETS, RULES
from pipelines.reporting.comparison import difference, position_differences
from pipelines.reporting.markdown import markdown_table
from sleepmodel.pretrained.smollm2 import write_smollm2
from sleepmodel.serialization.model_dir import WEIGHTS

RESULTS = "evidence"
DOCUMENT_TOKENS = 512


@dataclass(frozen=True)
class Question:
    """A mini preset and the seeds that it is run with.

    pairs: (variant, baseline) pairs on the same task whose difference the page shows; speed: the experiment measures
        training speed alone, with runs too short to learn; smollm2: it begins with SmolLM2-135M; documents: it reads
        the example text (datagen/text/example.py), and the page shows nats by position; page: where its tables are.
    """

    preset: str
    seeds: tuple[int, ...]
    pairs: tuple[tuple[str, str], ...] = ()
    speed: bool = False
    smollm2: bool = False
    documents: bool = False
    page: Path = EVIDENCE

    def __post_init__(self) -> None:
        preset = PRESETS[self.preset]
        tasks = {variant.name: preset.variant_task(variant) for variant in preset.variants}
        for pair in self.pairs:
            # another task has other test rows, which the same seed cannot pair
            own = {tasks[name.partition("@")[0]] for name in pair}
            require(len(own) == 1, "pairs", pair, "variants with the same task")

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


THREE = (40, 41, 42)
GAINS = (("n2", "n1"), ("n4", "n1"), ("n4", "n2"))
CONTROLS = tuple(("n4", control) for control in ("n1-same-compute", "n1-same-compute-epochs", "n1-deep"))
WITHOUT = (
    "hidden",
    "normalized",
    "mixture",
    "untraced",
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
        "rule110-fig2b-mini", (*THREE, 43, 44), (*GAINS, *CONTROLS, ("n2", "n1-same-compute"), ("n2", "n1-deep"))
    ),
    "rows": Question("rule110-rows-mini", THREE, (*GAINS, CONTROLS[0], ("n2", "n1-same-compute"))),
    "by-t": Question(
        "rule110-by-t-mini", THREE, tuple((f"n{n}-t{t}", f"n1-t{t}") for t in (2, 4, 8, 10) for n in (2, 4))
    ),
    "curriculum": Question("curriculum-mini", THREE, (("n4", "n1"), ("pass-a-step", "n1"), ("n1", "n1-all-at-once"))),
    "eta": Question(
        "ablation-eta-mini",
        THREE,
        tuple((f"eta{eta}-n{n}", f"eta1-n{n}") for n in (1, 2, 4) for eta in (0.5, 1.5, 2))
        + tuple((f"eta{eta}-n{n}", f"eta{eta}-n1") for eta in (1, 2) for n in (2, 4)),
    ),
    "rule": Question(
        "ablation-rule-mini",
        THREE,
        tuple((f"{rule}-n4", f"{rule}-n1") for rule in RULES),
    ),
    "depo": Question("depo-fig3-mini", THREE, GAINS),
    "depo-hops": Question(
        "depo-hops-mini",
        (80, 81, 82, 83, 84),
        (
            *GAINS,
            ("n3", "n1"),
            *(("n3", control) for control in ("n1-same-compute", "n1-deep", "n3-without-conv", "transformer-whole")),
        ),
    ),
    "depo-iterated": Question(
        "depo-iterated",
        (85, 86, 87, 88, 89),
        tuple(("iterated", without) for without in ("hidden", "untraced", "unmarked", "without-conv")),
        page=ITERATED_SLEEP,
    ),
    "depo-windows": Question("depo-iterated-windows", (85, 86, 87, 88, 89), page=ITERATED_SLEEP),
    "gsm": Question("gsm-fig4-mini", THREE, GAINS),
    "gsm-traces": Question(
        "gsm-traces-mini",
        THREE,
        (
            *((better, n1) for better in ("n4", "n4-traces") for n1 in ("n1", "n1-same-compute")),
            ("n4-traces", "n4"),
        ),
    ),
    "facts": Question(
        "facts-capacity-mini",
        (40,),
        tuple((better, "n1") for better in ("n2", "8kb-2-heads", "16kb-4-heads", "16kb", "eta-1", "delta", "linear")),
    ),
    "retrofit": Question("retrofit-recall-mini", THREE, (("n1", "transformer-evicted"), ("n2", "n1")), smollm2=True),
    "text": Question("text-positions-mini", (40,), POSITIONS, smollm2=True, documents=True),
    "sliding": Question("gsm-sliding-fig5-mini", (40,)),
    "throughput": Question("throughput-fig6-mini", (0,), speed=True),
    "iterated": Question(
        "rule110-iterated",
        tuple(range(90, 100)),
        tuple(("iterated", without) for without in WITHOUT),
        page=ITERATED_SLEEP,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.evidence", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "experiments", nargs="*", metavar="EXPERIMENT", help=f"one of {', '.join(EXPERIMENTS)}; default: all"
    )
    add_root(parser)
    given = parser.parse_args()
    unknown = [name for name in given.experiments if name not in EXPERIMENTS]
    if unknown:
        parser.error(f"{unknown[0]!r}: must be one of {', '.join(EXPERIMENTS)}")
    root, chosen, outcomes = given_root(parser, given), given.experiments or list(EXPERIMENTS), {}
    for name in chosen:
        outcomes[name] = "published" if run(name, root) else "failed: see above, then run it again"
    table = Table("experiment", "preset", "seeds", "outcome")
    for name, outcome in outcomes.items():
        question = EXPERIMENTS[name]
        table.add_row(name, question.preset, ", ".join(map(str, question.seeds)), outcome)
    Console().print(table)
    pages = dict.fromkeys(str(EXPERIMENTS[name].page) for name in chosen)
    print(f"results {ROOT / 'results' / RESULTS}\npages   {', '.join(pages)}")


def run(name: str, root: Path) -> bool:
    """Run an experiment and publish it; False if the pipeline failed."""
    question = EXPERIMENTS[name]
    command, assignments = [sys.executable, "pipelines/full.py", question.preset], question.assignments(root)
    finished = subprocess.run([*command, "--root", str(root), "--set", *assignments], cwd=ROOT.parent)
    if finished.returncode:
        return False
    published = publish(apply_overrides(PRESETS[question.preset], assignments), root, f"{RESULTS}/{name}")
    differences = _differences_by_position if question.documents else _differences
    found = _speed(published) if question.speed else _quoted(published / "report.md") + differences(published, question)
    fill(question.page, {name: found})
    return True


def _differences(published: Path, question: Question) -> str:
    """A table of the differences between the experiment's pairs; "" if it has none."""
    variants = {variant.name: variant for variant in published_variants(published)}
    found = [difference(variants[better], variants[other]) for better, other in question.pairs]
    rows = [
        (f"{each.better} - {each.other}", str(each), str(each.mean.seeds), "yes" if each.clear else "no")
        for each in found
        if each
    ]
    head = ("rows right, paired by seed", "difference, 95 % interval", "seeds", "clear of 0")
    return "\n\n" + markdown_table(head, rows) if rows else ""


def _differences_by_position(published: Path, question: Question) -> str:
    """A table of the differences by position between the experiment's pairs."""
    found = position_differences(published_variants(published), question.pairs)
    assert found is not None
    words = (
        "Differences, paired by document, by the tokens of the window that were read, and of all tokens after the "
        "first window:"
    )
    return f"\n\n{words}\n\n{markdown_table(*found)}"


def _speed(published: Path) -> str:
    """A table of training tokens/s by window and N; in brackets, relative to N = 1."""
    results = PUBLISHED.load(published)
    rates: dict[int, dict[int, float]] = {}
    for cost in results.costs:
        (trained,) = results.variants[cost.variant]
        rates.setdefault(cost.window, {})[cost.sleep_passes] = trained.tokens_per_second
    rows = [
        (f"{window:,}", *(f"{rate:,.0f} ({rate / by_passes[1]:.2f})" for rate in by_passes.values()))
        for window, by_passes in sorted(rates.items())
    ]
    passes = sorted(next(iter(rates.values())))
    return markdown_table(("window", *(f"tokens/s at N = {n}" for n in passes)), rows)


def _quoted(report: Path) -> str:
    """The text of a report without its title, with links to its pictures that work from docs/."""
    body = report.read_text().split("\n", 1)[1].strip()
    return re.sub(r"\]\(([^)/]+\.png)\)", rf"](../{report.parent.relative_to(ROOT.parent)}/\1)", body)
