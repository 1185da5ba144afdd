"""What every pipeline script does: plan the stages, refuse bad input, run them, exit with a status."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

from pipelines.arguments import absolute_root, parse
from pipelines.config.experiment import Experiment
from pipelines.config.overrides import apply_overrides
from pipelines.config.presets import PRESETS
from pipelines.engine.locks import StageLocked, hold_locks
from pipelines.engine.scheduler import Observer, StageFailed, execute
from pipelines.engine.signals import Terminated, stop_on_sigterm
from pipelines.engine.stage import (
    Stage,
    State,
    UnmetDependency,
    plan_table,
    require_inputs,
    script_of,
    state,
)
from pipelines.runtime.board import Board
from pipelines.runtime.live import LiveView, PlainView, RunView
from pipelines.runtime.user_code import import_from_working_directory
from pipelines.summary import print_summary
from sleepmodel.tracking.redact import redacted

if TYPE_CHECKING:
    from pipelines.runtime.services import Services
    from sleepmodel.distributed.progress import ProgressMailbox


BAD_INPUT, FAILED, INTERRUPTED, TERMINATED = 2, 1, 128 + signal.SIGINT, 128 + signal.SIGTERM
LOG_WIDTH = 120  # columns of tables where the output is a pipe or a job's log


def main(script: str, description: str | None) -> NoReturn:
    """Run a script's stages ("full": all of them) for the preset named on the command line, and exit.

    Exit status: 0 when all stages are done, 2 when the input was refused before any stage started, 1 when a stage
    failed, 130 after Ctrl-C, 143 after SIGTERM.
    """
    arguments = parse(script, description)
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    try:
        if script == "generate" and arguments.imported:
            _import(arguments, console)
            sys.exit(0)
        import_from_working_directory()
        experiment = apply_overrides(PRESETS[arguments.preset], arguments.set)
        root = absolute_root(arguments.root)
        if arguments.dry_run:
            _, everything = _plan(experiment, root)
            console.print(plan_table(_chosen(script, everything, root, console), root))
            console.print(_cost(experiment), soft_wrap=True, highlight=False)
            console.print("dry run: nothing was started")
            sys.exit(0)
        experiment = _fit_to_machine(experiment, arguments.force)
        run(script, experiment, root, console)
    except UnmetDependency as error:
        _refuse(
            f"{error}: python pipelines/{script_of(error.missing)}.py {arguments.preset} with the same options, or "
            "full.py for all stages"
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
    """Run the unfinished stages of a script, under one MLflow run, and print where the results are."""
    from sleepmodel.tracking.runs import find_moved_artifacts

    find_moved_artifacts(root)  # raises where no tracking server is set for a root that needs one
    services, everything = _plan(experiment, root)
    stages = _chosen(script, everything, root, console)
    if script != "full":
        require_inputs(stages, root)
    console.print(f"{experiment.name}: everything goes to {root}", soft_wrap=True, highlight=False, markup=False)
    if all(state(stage, root) is State.DONE for stage in stages):
        execute(stages, root, 1, PlainView(console))
    else:
        with hold_locks(stages, root, experiment.name):
            _execute(stages, everything, services, root, console)
    print_summary(everything, root, console)


def _execute(stages: list[Stage], everything: list[Stage], services: Services, root: Path, console: Console) -> None:
    from pipelines.runtime.cost_estimate import stage_trainings
    from pipelines.stages.generate import repair_datasets
    from sleepmodel.distributed.progress import ProgressMailbox
    from sleepmodel.tracking.runs import as_connection_error

    max_concurrent = services.open(f"pipeline/{everything[-1].identity}")
    console.print(f"Ray has {services.resources}", soft_wrap=True, highlight=False)
    view: RunView = PlainView(console)
    if sys.stdout.isatty() and not console.is_dumb_terminal:
        view = LiveView(console, Board(stage_trainings(services.experiment, everything), max_concurrent))
    with as_connection_error(services.store), view, ProgressMailbox(view.progressed) as mailbox:
        status = "FAILED"
        try:
            with stop_on_sigterm(services.stop):
                repair_datasets(stages, root)
                execute(stages, root, max_concurrent, _FlushProgress(mailbox), view, services)
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


class _FlushProgress(Observer):
    """Shows all progress of a stage before its end is shown."""

    def __init__(self, mailbox: ProgressMailbox) -> None:
        self.mailbox = mailbox

    def finished(self, stage: Stage, seconds: float) -> None:
        self.mailbox.flush()

    def failed(self, stage: Stage, seconds: float) -> None:
        self.mailbox.flush()


def _cost(experiment: Experiment) -> str:
    """What the training of a preset costs, in words."""
    from pipelines.runtime.cost_estimate import training_cost, training_seconds

    cost = training_cost(experiment)
    words = f"all training of {experiment.name}: {cost.rows:,} rows, {cost.tokens:,} tokens, {cost.flops:.1e} FLOPs"
    if not experiment.paper_scale:
        words += f", about {_duration(training_seconds(experiment))} on this machine's CPU"
    return f"{words}; less where the search stops trials early" if experiment.search else words


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minute{'s' * (minutes > 1)}"


def _import(arguments: argparse.Namespace, console: Console) -> None:
    from datagen.gsm.importing import import_official
    from datagen.reader import read_dataset

    root, split = absolute_root(arguments.root) / "imported", arguments.split or "test"
    dataset = import_official(arguments.imported, root, split, arguments.tokenizer)
    rows = read_dataset(dataset).splits[split].rows
    console.print(f"imported {rows:,} problems, each solved again, as split {split} of {dataset}", soft_wrap=True)


def _plan(experiment: Experiment, root: Path) -> tuple[Services, list[Stage]]:
    from pipelines.plan import plan
    from pipelines.runtime.services import Services

    services = Services(experiment, root)
    return services, plan(experiment, services)


def _chosen(script: str, everything: list[Stage], root: Path, console: Console) -> list[Stage]:
    """The stages of a script; for train.py without the winner's, while the search is not done."""
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
        console.print("the winner is trained after the search: run pipelines/tune.py, then pipelines/train.py again")
        mine = [stage for stage in mine if stage.name not in waiting]
    if not mine:
        raise ValueError(f"this preset has no {script} stage; its stages are {', '.join(_kinds(everything))}")
    return mine


def _kinds(stages: list[Stage]) -> list[str]:
    return list(dict.fromkeys(map(script_of, stages)))


def _fit_to_machine(experiment: Experiment, force: bool) -> Experiment:
    """The experiment as this machine can run it. Raises ValueError where it would take days on CPUs, unless `force`."""
    import torch

    if not experiment.paper_scale or torch.cuda.is_available() or os.environ.get("RAY_ADDRESS"):
        return experiment
    if force:
        return replace(experiment, scale=replace(experiment.scale, gpu=False))
    from pipelines.runtime.cost_estimate import training_cost, training_seconds

    raise ValueError(
        f"{experiment.name} has the paper's size ({training_cost(experiment).flops:.1e} training FLOPs) and there is "
        f"no GPU here: training would take about {training_seconds(experiment) / 86_400:,.0f} days on these CPUs. "
        "Use a machine or cluster with CUDA, choose a smaller preset, or run it all the same with --force"
    )


def _refuse(message: str) -> NoReturn:
    print(f"error: {redacted(message)}", file=sys.stderr)
    sys.exit(BAD_INPUT)
