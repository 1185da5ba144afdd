"""Use a model in a terminal: type context for it to read, ask questions, and see when it sleeps and for how long."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

from datagen.streams import open_closed_streams

if TYPE_CHECKING:
    from rich.console import Console

    from sleepmodel.inference.terminal import Terminal

INTERRUPTED = 128 + signal.SIGINT


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m sleepmodel`. It exits with 130 after Ctrl-C, and with 1 if nobody reads its output."""
    open_closed_streams()
    # until the first prompt: an exception in the middle of an import may be printed with its traceback
    signal.signal(signal.SIGINT, _end)
    console, terminal = _start(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)
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


def _start(arguments: Sequence[str] | None) -> tuple[Console, Terminal]:
    """Load the model, and say what it is. Exits with 2 if the arguments are wrong."""
    from rich.console import Console

    from sleepmodel.accounting import n_params
    from sleepmodel.hub import load
    from sleepmodel.inference.session import Session
    from sleepmodel.inference.terminal import HELP, Terminal, resumed_session

    parser = argparse.ArgumentParser(
        "python -m sleepmodel", description=__doc__, epilog=HELP, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", help="models:/<name>@<alias>, models:/<name>/<version>, or a model's directory")
    parser.add_argument("--passes", type=int, help="N, the passes of each sleep; default: the model's")
    parser.add_argument("--memory", help="a memory file to resume from")
    given = parser.parse_args(arguments)
    try:
        for name, value in (("MODEL", given.model), ("--memory", given.memory)):
            if value == "":
                raise ValueError(f"{name}: must not be empty")
        if given.passes is not None and given.passes < 1:
            raise ValueError(f"--passes {given.passes}: must be at least 1")
        model = load(given.model)
        session = (
            resumed_session(model, given.memory, given.passes)
            if given.memory is not None
            else Session(model, 1, None, given.passes)
        )
    except (ValueError, OSError) as error:
        parser.error(str(error))
    console = Console(highlight=False, markup=False, soft_wrap=True)
    terminal = Terminal(model, session, console.print)
    config = model.config
    console.print(
        f"{given.model}: {n_params(model):,} weights, {config.eviction} eviction every {config.window} tokens"
    )
    console.print(f"tokens: {' '.join(terminal.words[:20])}; /help for commands")
    return console, terminal


if __name__ == "__main__":
    main()
