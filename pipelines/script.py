"""How a script starts: ready for signals and closed streams before it imports what takes seconds."""

from __future__ import annotations

from typing import NoReturn

from pipelines.engine.signals import end_on_signals


def start(script: str, description: str | None) -> NoReturn:
    """Run the script named `script` as its command line says, and exit."""
    end_on_signals()
    from datagen.streams import open_closed_streams, outlive_readers

    open_closed_streams()
    outlive_readers()
    from pipelines.cli import main

    main(script, description)
