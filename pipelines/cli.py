"""What every pipeline script does: plan the stages, refuse bad input, run them, exit with a status."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console

from datagen.storage import storage_errors
from pipelines.arguments import ROOT_VARIABLE, absolute_root, parse
from pipelines.config.experiment import Experiment
from pipelines.config.overrides import apply_overrides
from pipelines.config.presets import experiment_named
from pipelines.engine.locks import LOCKS, StageLocked, hold_lock, hold_locks
from pipelines.engine.scheduler import Observer, StageFailed, execute
from pipelines.engine.signals import Terminated, stop_on_signals
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
from pipelines.runtime.precision import resolve_precision
from pipelines.runtime.traces import leaving_no_trace
from pipelines.runtime.user_code import import_from_working_directory
from pipelines.shell import script_command
from pipelines.summary import print_summary
from sleepmodel.tracking.redact import redacted

if TYPE_CHECKING:
    from pipelines.runtime.services import Services
    from sleepmodel.distributed.progress import ProgressMailbox


BAD_INPUT, FAILED = 2, 1
LOG_WIDTH = 120  # columns of tables where the output is a pipe or a job's log


class Refused(ValueError):
    """The input, or the directory of the run, is refused. No work was begun."""


def main(script: str, description: str | None) -> NoReturn:
    """Run a script's stages ("full": all of them) for the preset named on the command line, and exit.

    Exit status: 0 when all stages are done, 2 when the input was refused before any work, 1 when the work failed, 130
    after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP.
    """
    arguments = parse(script, description)
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, emoji=False)
    work: Callable[[argparse.Namespace, Console], None] = partial(_run_preset, script)
    if script == "generate" and arguments.imported is not None:
        work = _import_problems if arguments.task == "gsm" else _import_texts
    try:
        with leaving_no_trace() if arguments.dry_run else nullcontext():
            work(arguments, console)
    except Terminated as terminated:
        sys.exit(terminated.status)
    except Refused as error:
        _exit(BAD_INPUT, error)
    except StageFailed as error:
        console.print(redacted(error), style="red", markup=False, soft_wrap=True, highlight=False)
        sys.exit(FAILED)
    except _explained() as error:
        _exit(FAILED, error)
    sys.exit(0)


def _explained() -> tuple[type[Exception], ...]:
    """The errors whose message is for the user. Any other is a fault of this code, and has its traceback."""
    return (StageLocked, ValueError, *storage_errors())


@contextmanager
def refusing() -> Iterator[None]:
    """Raise Refused for what is wrong in here, where no work has begun. What is wrong later is a failure."""
    try:
        yield
    except UnmetDependency:  # `_run_preset` adds the command
        raise
    except _explained() as error:
        raise Refused(str(error)) from error


def _run_preset(script: str, arguments: argparse.Namespace, console: Console) -> None:
    with refusing():
        import_from_working_directory()
        root = absolute_root(arguments.root)
        os.environ[ROOT_VARIABLE] = str(root)  # where a pretrained model's models:/ address is looked up
        experiment = apply_overrides(experiment_named(arguments.preset), arguments.set)
        if not arguments.dry_run:
            experiment.check_weights()
        if arguments.force or not arguments.dry_run:
            experiment = _fit_to_machine(experiment, arguments.force)
        experiment, precision = resolve_precision(experiment, root, keep=not arguments.dry_run)
        if precision:
            _say(console, precision)
        if arguments.dry_run:
            _, everything = _plan(experiment, root)
            console.print(plan_table(_chosen(script, everything, root, console), root))
            console.print(_cost(experiment, everything, root), soft_wrap=True, highlight=False)
            console.print("dry run: nothing was started")
            return
    try:
        run(script, experiment, root, console)
    except UnmetDependency as error:
        needed = script_command(script_of(error.missing), arguments.preset, root, arguments.set, arguments.force)
        raise Refused(f"{error}:\n  {needed}") from error


def run(script: str, experiment: Experiment, root: Path, console: Console) -> None:
    """Run the unfinished stages of a script, under one MLflow run, and print where the results are."""
    from sleepmodel.tracking.runs import find_moved_artifacts

    with ExitStack() as held:
        with refusing():
            find_moved_artifacts(root)  # raises where no tracking server is set for a root that needs one
            services, everything = _plan(experiment, root)
            stages = _chosen(script, everything, root, console)
            if script != "full":
                require_inputs(stages, root)
            _say(console, f"{experiment.name}: everything goes to {root}")
            done = all(state(stage, root) is State.DONE for stage in stages)
            if not done:
                held.enter_context(hold_locks(stages, root, experiment.name))
                services.connect([stage for stage in stages if state(stage, root) is not State.DONE])
        if done:
            execute(stages, root, 1, PlainView(console))
        else:
            _execute(stages, everything, services, root, console)
    print_summary(everything, root, console)


def _execute(stages: list[Stage], everything: list[Stage], services: Services, root: Path, console: Console) -> None:
    from pipelines.runtime.cost_estimate import stage_trainings
    from pipelines.stages.generate import repair_datasets
    from sleepmodel.distributed.progress import ProgressMailbox
    from sleepmodel.tracking.runs import as_connection_error

    _say(console, f"Ray has {services.resources}")
    if services.kernels:
        _say(console, f"fast weights: {'; '.join(services.kernels)}")
    if services.resources.scale.gpu:
        _say(console, f"CUDA graphs: {services.resources.scale.cuda_graphs_in_words}")
    max_concurrent = services.resources.max_concurrent
    view: RunView = PlainView(console)
    if sys.stdout.isatty() and not console.is_dumb_terminal:
        view = LiveView(console, Board(stage_trainings(services.experiment, everything), max_concurrent))

    say = partial(console.print, style="red", soft_wrap=True, highlight=False)

    def close(status: str) -> None:
        try:
            with as_connection_error(services.store):
                services.close(status)
        except ConnectionError as error:
            if status == "FINISHED":
                raise
            say(str(error))  # and the process ends for the reason for which it was about to

    with (
        as_connection_error(services.store),
        view,
        ProgressMailbox(view.progressed) as mailbox,
        stop_on_signals(services.stop, say, close),
    ):
        services.start(f"pipeline/{everything[-1].identity}")
        repair_datasets(stages, root, services.experiment.name, partial(_say, console))
        execute(stages, root, max_concurrent, _FlushProgress(mailbox), view, services)


class _FlushProgress(Observer):
    """Shows all progress of a stage before its end is shown."""

    def __init__(self, mailbox: ProgressMailbox) -> None:
        self.mailbox = mailbox

    def finished(self, stage: Stage, seconds: float) -> None:
        self.mailbox.flush()

    def failed(self, stage: Stage, seconds: float, error: BaseException) -> None:
        self.mailbox.flush()


def _cost(experiment: Experiment, stages: list[Stage], root: Path) -> str:
    """What the training of a preset costs, and how much of it is done, in words."""
    from pipelines.runtime.cost_estimate import done_share, training_cost, training_seconds

    cost = training_cost(experiment)
    words = f"all training of {experiment.name}: {cost.rows:,} rows, {cost.tokens:,} tokens, {cost.flops:.1e} FLOPs"
    if not experiment.paper_scale:
        words += f", about {_duration(training_seconds(experiment))} on this machine's CPU"
    if experiment.search:
        words += "; less where the search stops trials early"
    done = done_share(experiment, stages, root)
    return f"{words}; {done:.1%} of the training is done already" if done else words


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    minutes = max(1, round(seconds / 60))
    return f"{minutes} minute{'s' * (minutes > 1)}"


def _import_problems(arguments: argparse.Namespace, console: Console) -> None:
    from datagen.gsm.importing import read_import
    from datagen.lines import named

    (file,) = arguments.imported
    with ExitStack() as held:
        with refusing():
            root = absolute_root(arguments.root)
            found = read_import(
                file,
                root / "imported",
                arguments.split or "test",
                arguments.tokenizer,
                skip_malformed=arguments.skip_malformed,
            )
            if not arguments.dry_run:
                held.enter_context(_importing(found.path, root, [file]))
        if found.skipped:
            _say(console, f"malformed lines, left out: {len(found.skipped):,}\n{named(found.skipped)}")
        what = f"{len(found.rows):,} problems, each solved again, as split {found.config.split} of {found.path}"
        if arguments.dry_run:
            _say(console, f"would import {what}\ndry run: nothing was written")
        else:
            found.write()
            _say(console, f"imported {what}")


def _import_texts(arguments: argparse.Namespace, console: Console) -> None:
    from datagen.text.importing import plan_import
    from datagen.text.options import MAX_TOKENS, Options

    with ExitStack() as held:
        with refusing():
            root = absolute_root(arguments.root)
            options = Options(arguments.loss, arguments.split, arguments.max_tokens or MAX_TOKENS)
            found = plan_import(arguments.imported, root / "imported", arguments.tokenizer, options)
            files = f"{len(found.sources):,} files, {found.bytes / 1e6:,.1f} MB"
            if arguments.dry_run:
                _say(console, f"would import {files}, in {len(found.parts):,} parts, as {found.path}")
                _say(console, "dry run: nothing was written")
                return
            held.enter_context(_importing(found.path, root, arguments.imported))
        dataset, skipped = found.write(arguments.skip_malformed)
    if skipped:
        _say(console, "\n".join([f"left out, as they cannot be used: {dataset.config['skipped']:,} lines", *skipped]))
    for name, split in dataset.splits.items():
        _say(console, f"{name}: {split.rows:,} documents")
    _say(console, f"imported {files}, as {found.path}")
    rows = [f"data.{name}_rows={split.rows}" for name, split in dataset.splits.items()]
    _say(console, f"to train on it: {shlex.join(['--set', 'task=text', f'task.path={found.path}', *rows])}")


def _importing(path: Path, root: Path, files: Sequence[str]) -> AbstractContextManager[None]:
    """Holds the lock of an import into the dataset at `path`."""
    name = ", ".join(Path(file).name for file in files)
    return hold_lock(root / LOCKS / f"import-{path.name}.json", root, f"import of {name}", "import", name)


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
    """The experiment as this machine can run it. Raises ValueError where it would take days on CPUs, unless `force`,
    and where `force` has no effect."""
    import torch

    fits = not experiment.paper_scale or torch.cuda.is_available() or _cluster_runs()
    if force and fits:
        why = "there is a GPU, or a Ray cluster runs"
        why = why if experiment.paper_scale else f"{experiment.name} is not of the paper's size"
        raise ValueError(f"--force has no effect: {why}. Leave it out")
    if fits:
        return experiment
    if force:
        return replace(experiment, scale=replace(experiment.scale, gpu=False))
    from pipelines.runtime.cost_estimate import training_cost, training_seconds

    raise ValueError(
        f"{experiment.name} has the paper's size ({training_cost(experiment).flops:.1e} training FLOPs) and there is "
        f"no GPU here: training would take about {training_seconds(experiment) / 86_400:,.0f} days on these CPUs. "
        "Use a machine or cluster with CUDA, choose a smaller preset, or run it all the same with --force"
    )


def _cluster_runs() -> bool:
    """Whether the pipeline would use a Ray that runs already, whose GPUs it sees once it is connected."""
    from datagen.cluster import ray_address

    return ray_address() is not None


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, highlight=False, markup=False)


def _exit(status: int, error: Exception) -> NoReturn:
    print(f"error: {redacted(error)}", file=sys.stderr)
    sys.exit(status)
