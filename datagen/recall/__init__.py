"""Say a passage again that was read windows ago: the task Recall."""

from datagen.recall.task import Recall

__all__ = ["Recall"]
