"""Use a model in a terminal: let it read text or files, ask questions, and see when it sleeps and for how long.

With --ask or --save it answers, or saves its memory, and ends.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from datagen.streams import open_closed_streams

if TYPE_CHECKING:
    from rich.console import Console
    from torch import Tensor

    from sleepmodel.inference.terminal import Terminal, Track
    from sleepmodel.model import SleepModel

INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m sleepmodel`. It exits with 130 after Ctrl-C, with 2 if the arguments are wrong, and with 1
    if nobody reads its output or an answer fails."""
    open_closed_streams()
    # until the first prompt or answer: an exception in the middle of an import may be printed with its traceback
    signal.signal(signal.SIGINT, _end)
    parser = _parser()
    given = parser.parse_args(arguments)
    console, terminal = _start(parser, given)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        if given.read:
            terminal.read(given.read)
        if given.save is not None:
            terminal.session.memory.save(given.save)
        for question in given.ask:
            terminal.ask(question)
    except (ValueError, OSError) as error:
        parser.exit(1, f"error: {error}\n")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    if not given.ask and given.save is None:
        _converse(console, terminal)


def _converse(console: Console, terminal: Terminal) -> None:
    console.print("/help for commands")
    try:
        while terminal.enter(console.input("> ")):
            pass
    except EOFError:
        pass
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        console.print()  # the shell's prompt gets a line of its own


def _end(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


def _parser() -> argparse.ArgumentParser:
    from sleepmodel.inference.terminal import HELP

    parser = argparse.ArgumentParser(
        "python -m sleepmodel", description=__doc__, epilog=HELP, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "model",
        help="models:/<name>@<alias>, models:/<name>/<version>, a model's directory, or\n"
        "one of Hugging Face's layout, with --window",
    )
    parser.add_argument(
        "--window", type=int, help="L, the tokens between two sleeps, for a directory of Hugging Face's"
    )
    parser.add_argument("--passes", type=int, help="N, the passes of each sleep; default: the model's")
    parser.add_argument("--memory", metavar="FILE", help="a memory file to resume from")
    parser.add_argument("--read", metavar="FILE", nargs="+", action="extend", default=[], help="text files to read")
    parser.add_argument("--save", metavar="FILE", help="save the memory after reading, and end")
    parser.add_argument(
        "--ask", metavar="TEXT", action="append", default=[], help="print the answer, and end; repeatable"
    )
    parser.add_argument("--tokens", type=int, metavar="N", help="tokens of each answer, at most")
    return parser


def _start(parser: argparse.ArgumentParser, given: argparse.Namespace) -> tuple[Console, Terminal]:
    """Load the model, and say what it is. Exits with 2 if the arguments are wrong."""
    from rich.console import Console

    from sleepmodel.accounting import n_params
    from sleepmodel.inference.memory import writable_path
    from sleepmodel.inference.session import Session
    from sleepmodel.inference.terminal import Terminal, resumed_session

    texts = (("MODEL", [given.model]), ("--memory", [given.memory]), ("--save", [given.save]), ("--read", given.read))
    try:
        for name, values in (*texts, ("--ask", given.ask)):
            if "" in values:
                raise ValueError(f"{name}: must not be empty")
        for name in ("passes", "tokens", "window"):
            if (value := getattr(given, name)) is not None and value < 1:
                raise ValueError(f"--{name} {value}: must be at least 1")
        if given.save is not None:
            writable_path(given.save)
        model = _load(given.model, given.window)
        session = (
            resumed_session(model, given.memory, given.passes)
            if given.memory is not None
            else Session(model, 1, None, given.passes)
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    # an answer can be read from stdout alone
    aside = Console(highlight=False, markup=False, soft_wrap=True, stderr=True) if given.ask else console
    terminal = Terminal(model, session, console.print, aside.print, _bar(aside))
    terminal.count = given.tokens or terminal.count
    config = model.config
    aside.print(f"{given.model}: {n_params(model):,} weights, {config.eviction} eviction every {config.window} tokens")
    if config.eviction == "hard" and not model.has_fast_weights:
        aside.print("it has no fast weights: a sleep keeps nothing of its window")
    if model.tokenizer is None:
        aside.print(f"tokens: {' '.join(terminal.words[:20])}")
    else:
        aside.print(f"a tokenizer of {model.tokenizer.size:,} tokens")
    return console, terminal


def _load(source: str, window: int | None) -> SleepModel:
    """The model in a directory or the registry. window: of a model of Hugging Face's layout; others have one."""
    from datagen.storage import as_path, check_reachable
    from sleepmodel.hub import load
    from sleepmodel.pretrained.reading import from_pretrained
    from sleepmodel.serialization.model_dir import is_pretrained

    if source.startswith("models:/"):
        foreign = False
    else:
        directory = as_path(source)
        check_reachable(directory)
        foreign = is_pretrained(directory)
    if not foreign:
        if window is not None:
            raise ValueError(f"--window {window}: {source} has a window of its own; leave it out")
        return load(source)
    if window is None:
        raise ValueError(f"{source}: has Hugging Face's layout; give --window L, the tokens between two sleeps")
    return from_pretrained(source, window)


def _bar(console: Console) -> Track:
    """A progress bar, where the output is a terminal."""

    def track(name: str, pieces: Sequence[Tensor], status: Callable[[], str]) -> Iterator[Tensor]:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        def column(form: str) -> TextColumn:
            return TextColumn(form, markup=False)  # a file may have any name

        numbers = column("{task.completed:,}/{task.total:,} tokens, {task.fields[rate]:,.0f}/s")
        state = column("{task.fields[status]}")
        columns = (column("{task.description}"), BarColumn(20), numbers, TimeRemainingColumn(), state)
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            task = progress.add_task(name, total=sum(piece.shape[1] for piece in pieces), rate=0.0, status=status())
            for piece in pieces:
                yield piece
                progress.advance(task, piece.shape[1])
                progress.update(task, rate=progress.tasks[0].speed or 0.0, status=status())

    return track


if __name__ == "__main__":
    main()
