"""Facts about made-up people and places, and questions for them: how much does a model remember?"""

from __future__ import annotations

from datagen.facts.task import Facts

__all__ = ["Facts"]
