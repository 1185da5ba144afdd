"""The sequence mixers. config.MIXERS names those of the package; a mixer of your own is named by its path."""

from __future__ import annotations

from importlib import import_module

from sleepmodel.config import MIXERS
from sleepmodel.mixers.base import Mixer


def mixer_class(name: str) -> type[Mixer]:
    """The mixer of a name in config.MIXERS, or of a path "module:Class", whose module is imported.

    Raises ValueError where the module cannot be imported or has no such subclass of Mixer.
    """
    path = MIXERS.get(name, name)
    module_name, _, class_name = path.partition(":")
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"mixers = {name!r}: {error}; run where {module_name}.py lies, or add its directory to PYTHONPATH"
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not issubclass(found, Mixer):
        raise ValueError(
            f"mixers = {name!r}: {module_name} has no subclass of sleepmodel.mixers.base.Mixer named {class_name!r}"
        )
    return found
