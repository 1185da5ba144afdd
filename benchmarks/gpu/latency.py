"""A session of one row: milliseconds for a token awake, and for a sleep."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.steps import PASSES, PRESET
from benchmarks.gpu.timing import seconds
from sleepmodel import Session, SleepModel

READ = 8  # tokens that a session reads at once before it generates


def measure_latency(device: torch.device) -> Iterator[dict[str, Any]]:
    """One row for each N. A token: generated and read; a sleep: on a full window but one token."""
    torch.manual_seed(0)
    model = SleepModel(replace(PRESET.model, max_positions=None)).to(device).eval()
    tokens = torch.arange(PRESET.model.window - 1)[None] % PRESET.model.vocab_size
    for n in PASSES:
        reading = Session(model, sleep_passes=n)
        reading.read(tokens[:, :READ], last=True)
        more = PRESET.model.window - 1 - READ
        full = Session(model, sleep_passes=n)
        full.read(tokens, last=True)

        def generate(session: Session = reading, n: int = more) -> None:
            session.fork().generate(n)

        def sleep(session: Session = full) -> None:
            session.fork().sleep()

        yield {
            "passes": n,
            "awake_ms": 1e3 * seconds(device, generate) / more,
            "asleep_ms": 1e3 * seconds(device, sleep),
        }
