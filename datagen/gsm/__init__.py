"""Long grade-school math problems in the style of GSM-Infinite (arXiv 2502.05252): generator, reader, solver."""

from __future__ import annotations

from datagen.gsm.problem import Problem
from datagen.gsm.task import Gsm, Sample

__all__ = ["Gsm", "Problem", "Sample"]
