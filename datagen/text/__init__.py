"""Texts of one's own as a dataset: the import, and the task Text, which reads what was imported."""

from datagen.text.task import Text

__all__ = ["Text"]
