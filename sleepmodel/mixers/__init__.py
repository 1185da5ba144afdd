"""The sequence mixers: those of this package, which config.MIXERS lists, and your own, named by their path."""

from __future__ import annotations

from datagen.user_code import import_named
from sleepmodel.config.model import MIXERS
from sleepmodel.mixers.base import Mixer


def mixer_class(name: str) -> type[Mixer]:
    """The class that a name in config.MIXERS, or a path "module:Class", stands for. Imports its module.

    Raises ValueError if there is no such module, or if it has no such subclass of Mixer.
    """
    try:
        module, class_name = import_named(MIXERS.get(name, name))
    except ValueError as error:
        raise ValueError(f"mixers = {name!r}: {error}") from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not issubclass(found, Mixer):
        raise ValueError(
            f"mixers = {name!r}: {module.__name__} has no subclass of sleepmodel.mixers.base.Mixer named {class_name!r}"
        )
    return found
