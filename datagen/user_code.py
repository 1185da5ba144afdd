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

    Raises ValueError if there is no such module, or if its own imports fail. Other errors of the module pass through.
    """
    module, _, name = path.partition(":")
    try:
        return import_module(module), name
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
        where = "it must lie in the directory where you type the command, or in one on PYTHONPATH"
        why = where if missing else "an import of its own fails"
        raise ValueError(f"{module} cannot be imported ({error}); {why}") from error
