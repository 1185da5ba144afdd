"""Long grade-school problems of GSM-Infinite's family (arXiv 2502.05252): generator, reader, solver, vocabulary."""

from __future__ import annotations

from datagen.gsm.problem import Problem
from datagen.gsm.task import Gsm, Sample

__all__ = ["Gsm", "Problem", "Sample"]
