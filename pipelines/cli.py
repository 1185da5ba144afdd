"""The one command line of all pipeline scripts."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

from datagen.storage import as_path, check_reachable, in_store
from pipelines.locks import Busy, working_on
from pipelines.overrides import apply_overrides
from pipelines.pipeline import Pipeline
from pipelines.presets import PRESETS
from pipelines.steps import Run, State, Step, StepFailed, UnmetInput, execute, plan_table, require_inputs, state
from pipelines.termination import Terminated, terminable
from sleepmodel.masking import masked

if TYPE_CHECKING:
    from pipelines.context import Context

BAD_INPUT, FAILED, TERMINATED = 2, 1, 128 + signal.SIGTERM
LOG_WIDTH = 120  # of tables where the output is no terminal: a log of a job, a pipe


def main(script: str, description: str | None) -> NoReturn:
    """Run a script's steps ("full": all of them) for the preset named on the command line, and exit.

    Exit status 2 means that the input was refused before anything started, 1 that a step failed, 143 that SIGTERM
    ended it.
    """
    arguments = _parser(script, description).parse_args()
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    try:
        if script == "generate" and arguments.imported:
            _import(arguments, console)
            sys.exit(0)
        pipeline = apply_overrides(PRESETS[arguments.preset], arguments.set)
        root = _root(arguments.root)
        if arguments.dry_run:
            _, everything = _plan(pipeline, root)
            console.print(plan_table(_chosen(script, everything, root, console), root))
            console.print(_priced(pipeline), soft_wrap=True, highlight=False)
            console.print("dry run: nothing was started")
            sys.exit(0)
        pipeline = _affordable(pipeline, arguments.force)
        run(script, pipeline, root, console)
    except UnmetInput as error:
        _refuse(
            f"{error}: python pipelines/{script_of(error.missing)}.py {arguments.preset}, or full.py for everything"
        )
    except StepFailed as error:
        console.print(masked(error), style="red", markup=False)
        sys.exit(FAILED)
    except Terminated:
        console.print("terminated: run the same command again to continue", style="red")
        sys.exit(TERMINATED)
    except (Busy, ValueError, OSError) as error:
        _refuse(str(error))
    sys.exit(0)


def run(script: str, pipeline: Pipeline, root: Path, console: Console) -> None:
    """Run what is not done of a script's steps, under one MLflow run, and say what there is to see."""
    from sleepmodel.tracking import tracking_uri

    tracking_uri(root)  # there has to be one
    context, everything = _plan(pipeline, root)
    steps = _chosen(script, everything, root, console)
    if script != "full":
        require_inputs(steps, root)
    console.print(f"{pipeline.name}: everything goes to {root}", soft_wrap=True, highlight=False)
    if all(state(step, root) is State.DONE for step in steps):
        execute(steps, root, slots=1, console=console)
    else:
        with working_on(steps, root, pipeline.name):
            _execute(steps, everything[-1].identity, context, root, console)
    summarise(everything, root, console)


def _execute(steps: list[Step], identity: str, context: Context, root: Path, console: Console) -> None:
    from sleepmodel.tracking import reaching

    at_once = context.open(f"pipeline/{identity}")
    console.print(f"Ray has {context.allotment}", soft_wrap=True, highlight=False)
    with reaching(context.store):
        status = "FAILED"
        try:
            with terminable(context.stop):
                repair(steps, root)
                execute(steps, root, at_once, context.begin, context.finish, console=console)
            status = "FINISHED"
        except StepFailed as error:
            context.end(error.step, "FAILED")
            raise
        except Terminated:
            status = "KILLED"
            for step in steps:
                if state(step, root) is State.BROKEN:
                    context.end(step, status)
            raise
        finally:
            context.close(status)


def repair(steps: list[Step], root: Path) -> None:
    """Make again what was lost or damaged since of finished datasets that `steps`, where they have to run, read.

    Raises StepFailed.
    """
    waiting = [step for step in steps if state(step, root) is not State.DONE]
    for data in dict.fromkeys(put for step in waiting for put in step.inputs if script_of(put) == "generate"):
        if state(data, root) is State.DONE:
            try:
                data.run(Run(data, root))  # keeps each shard whose checksum is right
            except (OSError, ValueError) as error:
                raise StepFailed(data, root, error) from error


def _priced(pipeline: Pipeline) -> str:
    from pipelines.pricing import price, training_seconds

    found = price(pipeline)
    words = (
        f"training reads {found.rows:,} rows, {found.tokens:,} tokens, and takes {found.flops:.1e} FLOPs, at most: a "
        "search may stop trials early"
    )
    if pipeline.paper_scale:
        return words
    return f"{words}; about {training_seconds(pipeline) / 60:,.0f} minutes here"


def _import(arguments: argparse.Namespace, console: Console) -> None:
    from datagen.gsm.importing import import_official
    from datagen.reader import read_dataset

    if arguments.task is None:
        raise ValueError("--import: needs --task gsm, which says what the file holds")
    root = _root(arguments.root) / "imported"
    dataset = import_official(arguments.imported, root, arguments.split, arguments.tokenizer)
    rows = read_dataset(dataset).splits[arguments.split].rows
    console.print(f"{rows:,} problems, each solved anew, are split {arguments.split} of {dataset}", soft_wrap=True)


def _plan(pipeline: Pipeline, root: Path) -> tuple[Context, list[Step]]:
    from pipelines.context import Context
    from pipelines.full import plan

    context = Context(pipeline, root)
    return context, plan(pipeline, context)


def script_of(step: Step) -> str:
    """The script that runs a step: the first word of its name."""
    return step.name.partition("-")[0]


def _chosen(script: str, everything: list[Step], root: Path, console: Console) -> list[Step]:
    """The steps of a script. train.py leaves the winner for later where the search is not done."""
    if script == "full":
        return everything
    mine = [step for step in everything if script_of(step) == script]
    waiting = {
        step.name: put.name
        for step in mine
        for put in step.inputs
        if script_of(put) == "tune" and state(put, root) is not State.DONE
    }
    if script == "train" and waiting:
        console.print("the winner is trained after the search: run pipelines/tune.py, then this again")
        mine = [step for step in mine if step.name not in waiting]
    if not mine:
        raise ValueError(f"{script}: this preset has no such step")
    return mine


def _parser(script: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(f"pipelines/{script}.py", description=description)
    parser.add_argument("preset", nargs="?", default="demo", choices=sorted(PRESETS), help="default: demo")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and each step's state, start nothing")
    parser.add_argument(
        "--root",
        help="where everything goes: a directory or s3://bucket/prefix; default: $SLEEPMODEL_ROOT, else ./runs",
    )
    parser.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="a.b.c=value", help="change the preset"
    )
    if script == "generate":
        parser.add_argument("--task", choices=["gsm"], help="with --import: what the file holds")
        parser.add_argument(
            "--import", dest="imported", metavar="FILE.jsonl", help="problems of the official generator"
        )
        parser.add_argument("--split", default="test", help="with --import: the split they become; default: test")
        parser.add_argument("--tokenizer", help="with --import: a tokenizer.json; default: one token a word")
    parser.add_argument("--force", action="store_true", help="run a preset of the paper's size without a GPU")
    return parser


def _root(given: str | None) -> Path:
    """The absolute root. Raises ValueError where what is written would be lost or cannot be written."""
    root = given or os.environ.get("SLEEPMODEL_ROOT") or "runs"
    path = as_path(root)
    if in_store(path):
        check_reachable(path)
        return path
    path = path.expanduser().absolute()
    if any(part.startswith("_ray_pkg_") for part in path.parts):
        raise ValueError(
            f"root = {root!r}: lies in Ray's temporary copy of the working directory, where results would be lost; "
            "set SLEEPMODEL_ROOT before `ray start`, or give --root, as an absolute path"
        )
    if path.exists() and not path.is_dir():
        raise ValueError(f"root = {root!r}: is a file; must be a directory")
    return path


def _affordable(pipeline: Pipeline, force: bool) -> Pipeline:
    """The pipeline as this machine can run it. Raises ValueError where it would take days that nobody asked for."""
    import torch

    if not pipeline.paper_scale or torch.cuda.is_available() or os.environ.get("RAY_ADDRESS"):
        return pipeline
    if force:
        return replace(pipeline, scale=replace(pipeline.scale, gpu=False))
    from pipelines.pricing import price, training_seconds

    raise ValueError(
        f"{pipeline.name} is of the paper's size ({price(pipeline).flops:.1e} training FLOPs) and there is no GPU "
        f"here: it would train for about {training_seconds(pipeline) / 86_400:,.0f} days on these CPUs. Run it on a "
        "CUDA machine or cluster, make it smaller with --set, or insist with --force"
    )


def summarise(everything: list[Step], root: Path, console: Console) -> None:
    """The table, the pictures, the registry, and what to type next; of what is done by now."""
    from pipelines.comparison import comparison_lines, comparison_table
    from pipelines.evaluate import RESULTS
    from pipelines.register import read_registration
    from pipelines.report import REPORT
    from sleepmodel.tracking import tracking_uri

    done = {script_of(step): step.output(root) for step in everything if state(step, root) is State.DONE}

    def say(text: str) -> None:
        console.print(masked(text), soft_wrap=True, highlight=False, markup=False)

    if "evaluate" in done:
        console.print(comparison_table(comparison_lines(done["evaluate"])))
        say(f"results    {done['evaluate'] / RESULTS}")
    if "report" in done:
        say(f"report     {done['report'] / REPORT}")
        for picture in sorted(map(str, done["report"].glob("*.png"))):
            say(f"picture    {picture}")
    uri = tracking_uri(root)
    if "register" in done:
        registration = read_registration(done["register"])
        say(f"registry   {registration.name} v{registration.version}: {registration.reason}")
        reference = "@champion" if registration.champion else f"/{registration.version}"
        model = f"models:/{registration.name}{reference}"
        say(f"load it    MLFLOW_TRACKING_URI={uri} python -c 'import sleepmodel; print(sleepmodel.load(\"{model}\"))'")
    served = uri.startswith(("http://", "https://"))
    say(f"MLflow UI  {uri if served else f'mlflow ui --backend-store-uri {uri}'}")


def _refuse(message: str) -> NoReturn:
    print(f"error: {masked(message)}", file=sys.stderr)
    sys.exit(BAD_INPUT)
