"""Buckets of length leave few shapes of batches, and fewer pads."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.buckets import measure
from pipelines.config.presets import PRESETS


def test_a_preset_has_few_shapes_in_buckets() -> None:
    preset = PRESETS["gsm-fig4-mini"]
    rows, config = preset.task.sample("train", 5, 0, 256), replace(preset.train, steps=40, batch_size=8)
    mixed, alike = (measure(rows, preset.model, replace(config, bucket_tokens=width)) for width in (None, 32))
    assert mixed["shapes"] > 30 and alike["shapes"] < 15
    assert alike["replayed"] > 20 > mixed["replayed"]
    assert alike["pads"] <= alike["pads_on_gpu"] < mixed["pads"] == mixed["pads_on_gpu"]
