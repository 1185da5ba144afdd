"""What Ray's tasks do with the models of finished trainings: predict test rows, and measure costs.

Each worker process imports this module first, so it imports no MLflow and no pictures, which take seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from datagen.reader import read_range
from sleepmodel.config.training import Curriculum
from sleepmodel.evaluation.accuracy import Predictions, predict
from sleepmodel.evaluation.latency import InferenceCost, measure_inference_costs
from sleepmodel.hub import load


def predict_range(
    model: Path,
    dataset: Path,
    start: int,
    end: int,
    sleep_passes: int,
    batch_size: int,
    gpu: bool,
    curriculum: Curriculum,
) -> Predictions:
    """`predict` for a saved model on test rows start..end - 1, on one core or a GPU: one Ray task.

    Returns the predictions row by row, without the positions that hold no answer: [answer tokens].
    """
    torch.set_num_threads(1)
    rows = read_range(dataset, "test", start, end - start)
    predicted = predict(load(model).to("cuda" if gpu else "cpu"), rows, sleep_passes, batch_size, curriculum)
    mask = rows.loss_mask()
    return Predictions(predicted.tokens[mask], predicted.nats[mask])


def saved_inference_costs(saved: Sequence[tuple[str, Path, int]]) -> list[InferenceCost]:
    """`measure_inference_costs` for variants and the directories of their models, on one core: one Ray task."""
    torch.set_num_threads(1)
    return measure_inference_costs([(variant, load(model), passes) for variant, model, passes in saved])
