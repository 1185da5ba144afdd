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
from pipelines.config.experiment import Experiment
from pipelines.config.overrides import apply_overrides
from pipelines.config.presets import PRESETS
from pipelines.engine.locks import StageLocked, hold_locks
from pipelines.engine.scheduler import Observer, StageFailed, execute
from pipelines.engine.signals import Terminated, stop_on_sigterm
from pipelines.engine.stage import (
    Stage,
    StageContext,
    State,
    UnmetDependency,
    plan_table,
    require_inputs,
    script_of,
    state,
)
from pipelines.runtime.board import Board
from pipelines.runtime.live import LiveView, PlainView, RunView
from pipelines.runtime.user_code import import_from_here
from pipelines.summary import print_summary
from sleepmodel.tracking.redact import redacted

if TYPE_CHECKING:
    from pipelines.runtime.services import Services
    from sleepmodel.distributed.progress import ProgressMailbox


BAD_INPUT, FAILED, INTERRUPTED, TERMINATED = 2, 1, 128 + signal.SIGINT, 128 + signal.SIGTERM
LOG_WIDTH = 120  # of tables where the output is no terminal: a log of a job, a pipe


def main(script: str, description: str | None) -> NoReturn:
    """Run a script's stages ("full": all of them) for the preset named on the command line, and exit.

    Exit status 2 means that the input was refused before anything started, 1 that a stage failed, 130 and 143 that
    Ctrl-C or SIGTERM ended it.
    """
    arguments = _parser(script, description).parse_args()
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    try:
        if script == "generate" and arguments.imported:
            _import(arguments, console)
            sys.exit(0)
        import_from_here()
        experiment = apply_overrides(PRESETS[arguments.preset], arguments.set)
        root = _root(arguments.root)
        if arguments.dry_run:
            _, everything = _plan(experiment, root)
            console.print(plan_table(_chosen(script, everything, root, console), root))
            console.print(_priced(experiment), soft_wrap=True, highlight=False)
            console.print("dry run: nothing was started")
            sys.exit(0)
        experiment = _affordable(experiment, arguments.force)
        run(script, experiment, root, console)
    except UnmetDependency as error:
        _refuse(
            f"{error}: python pipelines/{script_of(error.missing)}.py {arguments.preset}, or full.py for everything"
        )
    except StageFailed as error:
        console.print(redacted(error), style="red", markup=False)
        sys.exit(FAILED)
    except Terminated:
        console.print("terminated: run the same command again to continue", style="red")
        sys.exit(TERMINATED)
    except KeyboardInterrupt:
        console.print("interrupted: run the same command again to continue", style="red")
        sys.exit(INTERRUPTED)
    except (StageLocked, ValueError, OSError) as error:
        _refuse(str(error))
    sys.exit(0)


def run(script: str, experiment: Experiment, root: Path, console: Console) -> None:
    """Run what is not done of a script's stages, under one MLflow run, and say what there is to see."""
    from sleepmodel.tracking.runs import tracking_uri

    tracking_uri(root)  # there has to be one
    services, everything = _plan(experiment, root)
    stages = _chosen(script, everything, root, console)
    if script != "full":
        require_inputs(stages, root)
    console.print(f"{experiment.name}: everything goes to {root}", soft_wrap=True, highlight=False)
    if all(state(stage, root) is State.DONE for stage in stages):
        execute(stages, root, 1, PlainView(console))
    else:
        with hold_locks(stages, root, experiment.name):
            _execute(stages, everything, services, root, console)
    print_summary(everything, root, console)


def _execute(stages: list[Stage], everything: list[Stage], services: Services, root: Path, console: Console) -> None:
    from pipelines.runtime.cost_estimate import stage_trainings
    from sleepmodel.distributed.progress import ProgressMailbox
    from sleepmodel.tracking.runs import as_connection_error

    max_concurrent = services.open(f"pipeline/{everything[-1].identity}")
    console.print(f"Ray has {services.resources}", soft_wrap=True, highlight=False)
    view: RunView = PlainView(console)
    if sys.stdout.isatty() and not console.is_dumb_terminal:
        view = LiveView(console, Board(stage_trainings(services.experiment, everything), max_concurrent))
    with as_connection_error(services.store), view, ProgressMailbox(view.told) as mailbox:
        status = "FAILED"
        try:
            with stop_on_sigterm(services.stop):
                repair(stages, root)
                execute(stages, root, max_concurrent, _Latest(mailbox), view, services)
            status = "FINISHED"
        except StageFailed as error:
            services.end(error.stage, "FAILED")
            raise
        except Terminated:
            status = "KILLED"
            for stage in stages:
                if state(stage, root) is State.BROKEN:
                    services.end(stage, status)
            raise
        finally:
            services.close(status)


class _Latest(Observer):
    """Has what was told of a stage's trainings shown before the stage's end."""

    def __init__(self, mailbox: ProgressMailbox) -> None:
        self.mailbox = mailbox

    def finished(self, stage: Stage, seconds: float) -> None:
        self.mailbox.flush()

    def failed(self, stage: Stage, seconds: float) -> None:
        self.mailbox.flush()


def repair(stages: list[Stage], root: Path) -> None:
    """Make again what was lost or damaged since of finished datasets that `stages`, where they have to run, read.

    Raises StageFailed.
    """
    waiting = [stage for stage in stages if state(stage, root) is not State.DONE]
    for data in dict.fromkeys(
        dependency for stage in waiting for dependency in stage.inputs if script_of(dependency) == "generate"
    ):
        if state(data, root) is State.DONE:
            try:
                data.run(StageContext(data, root))  # keeps each shard whose checksum is right
            except (OSError, ValueError) as error:
                raise StageFailed(data, root, error) from error


def _priced(experiment: Experiment) -> str:
    from pipelines.runtime.cost_estimate import training_cost, training_seconds

    found = training_cost(experiment)
    words = (
        f"training reads {found.rows:,} rows, {found.tokens:,} tokens, and takes {found.flops:.1e} FLOPs, at most: a "
        "search may stop trials early"
    )
    if experiment.paper_scale:
        return words
    return f"{words}; about {training_seconds(experiment) / 60:,.0f} minutes here"


def _import(arguments: argparse.Namespace, console: Console) -> None:
    from datagen.gsm.importing import import_official
    from datagen.reader import read_dataset

    if arguments.task is None:
        raise ValueError("--import: needs --task gsm, which says what the file holds")
    root = _root(arguments.root) / "imported"
    dataset = import_official(arguments.imported, root, arguments.split, arguments.tokenizer)
    rows = read_dataset(dataset).splits[arguments.split].rows
    console.print(f"{rows:,} problems, each solved anew, are split {arguments.split} of {dataset}", soft_wrap=True)


def _plan(experiment: Experiment, root: Path) -> tuple[Services, list[Stage]]:
    from pipelines.plan import plan
    from pipelines.runtime.services import Services

    services = Services(experiment, root)
    return services, plan(experiment, services)


def _chosen(script: str, everything: list[Stage], root: Path, console: Console) -> list[Stage]:
    """The stages of a script. train.py leaves the winner for later where the search is not done."""
    if script == "full":
        return everything
    mine = [stage for stage in everything if script_of(stage) == script]
    waiting = {
        stage.name: dependency.name
        for stage in mine
        for dependency in stage.inputs
        if script_of(dependency) == "tune" and state(dependency, root) is not State.DONE
    }
    if script == "train" and waiting:
        console.print("the winner is trained after the search: run pipelines/tune.py, then this again")
        mine = [stage for stage in mine if stage.name not in waiting]
    if not mine:
        raise ValueError(f"{script}: this preset has no such stage")
    return mine


def _parser(script: str, description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(f"pipelines/{script}.py", description=description)
    parser.add_argument("preset", nargs="?", default="demo", choices=sorted(PRESETS), help="default: demo")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and each stage's state, start nothing")
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


def _affordable(experiment: Experiment, force: bool) -> Experiment:
    """The pipeline as this machine can run it. Raises ValueError where it would take days that nobody asked for."""
    import torch

    if not experiment.paper_scale or torch.cuda.is_available() or os.environ.get("RAY_ADDRESS"):
        return experiment
    if force:
        return replace(experiment, scale=replace(experiment.scale, gpu=False))
    from pipelines.runtime.cost_estimate import training_cost, training_seconds

    raise ValueError(
        f"{experiment.name} is of the paper's size ({training_cost(experiment).flops:.1e} training FLOPs) and there is "
        f"no GPU here: it would train for about {training_seconds(experiment) / 86_400:,.0f} days on these CPUs. Run "
        "it on a CUDA machine or cluster, make it smaller with --set, or insist with --force"
    )


def _refuse(message: str) -> NoReturn:
    print(f"error: {redacted(message)}", file=sys.stderr)
    sys.exit(BAD_INPUT)
