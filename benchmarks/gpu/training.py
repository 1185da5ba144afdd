"""Train `rule110-fig2b` for some minutes: accuracy by tokens."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

from benchmarks.gpu.steps import FORMS, PRESET, engine_for
from benchmarks.gpu.timing import PRECISION
from sleepmodel import SleepModel
from sleepmodel.training.loop import Save, train
from sleepmodel.training.progress import Progress

HELD_OUT, REPORTS = 1024, 30
POOL = 2**20  # training rows at most; longer trainings read them in several epochs


def train_for(
    device: torch.device, passes: int, batch: int, seconds: float, tokens_per_second: float
) -> dict[str, Any]:
    """Train with N = `passes` for as many steps as `seconds` allow at this rate, with the preset's schedule."""
    row_length = PRESET.task.row_length
    steps = max(2, round(seconds * tokens_per_second / (batch * row_length)))
    config = replace(
        PRESET.train, steps=steps, batch_size=batch, validate_every=max(1, steps // REPORTS), warmup_steps=steps // 20
    )
    rows = PRESET.task.sample("train", 0, 0, min(steps * batch, POOL))
    held_out = PRESET.task.sample("validation", 0, 0, HELD_OUT if device.type == "cuda" else batch)
    tokens, mask = map(torch.from_numpy, held_out.batch())

    @torch.no_grad()
    def rows_right(model: SleepModel, level: int | None) -> float:
        with torch.autocast(device.type, torch.bfloat16, enabled=PRECISION[device.type] == "bfloat16"):
            found = model(tokens, mask).logits.argmax(-1).cpu()
        return float((found == tokens[mask]).view(len(tokens), -1).all(1).float().mean())

    def report(progress: Progress, save: Save) -> None:
        print(f"N = {passes}  {progress.line()}", flush=True)

    engine = engine_for(device, passes, batch, FORMS[0], config)
    history = train(engine, rows, engine.config, rows_right, report)
    return {
        "passes": passes,
        "batch": batch,
        "train": asdict(engine.config),
        "curve": [asdict(each) for each in history],
    }
