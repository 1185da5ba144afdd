"""Code of the user's own, which a config or a command names by its path, "module:name"."""

from __future__ import annotations

import re
from importlib import import_module
from types import ModuleType


def is_path(name: str) -> bool:
    """Whether a name has the form "module:name"."""
    return re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", name) is not None


def import_named(path: str) -> tuple[ModuleType, str]:
    """The module of a path, imported, and the name behind its colon.

    Raises ValueError if there is no such module. Errors of the module itself pass through.
    """
    module, _, name = path.partition(":")
    try:
        return import_module(module), name
    except ModuleNotFoundError as error:
        if not f"{module}.".startswith(f"{error.name}."):  # one that the user's own imports
            raise
        raise ValueError(
            f"{module} cannot be imported ({error}); it must lie in the directory where you type the command, or in "
            "one on PYTHONPATH"
        ) from error
