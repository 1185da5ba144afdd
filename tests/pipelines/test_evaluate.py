"""Trained models on the test split: at their own N and at every N they were trained for, with any number of tasks."""

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from datagen import Depo, Recall, Rows, Rule110, generate, read_rows
from datagen.task import Task
from pipelines.config.presets import PRESETS
from pipelines.reporting.results import RESULTS, EvaluationResult
from pipelines.runtime.resources import plan_resources_on_ray
from pipelines.runtime.services import Services
from pipelines.stages.evaluate import (
    TrainedVariant,
    majority_share,
    measure,
    metrics_of,
    position_windows,
    predict_all,
    trained_variants,
)
from sleepmodel import load, save
from sleepmodel.accounting import flops
from sleepmodel.config.training import Curriculum, Scale
from sleepmodel.distributed.job import TrainingJob
from sleepmodel.evaluation.accuracy import BATCH_LOGITS, NO_CURRICULUM, Predictions, predict, score
from sleepmodel.evaluation.likelihood import measure_likelihood
from sleepmodel.evaluation.positions import measure_by_position
from sleepmodel.evaluation.statistics import RESAMPLES
from sleepmodel.tracking.runs import log_metrics, open_store, start_run
from sleepmodel.training.batches import drawn_passes
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.loop import build_model, train
from tests.sleepmodel.conftest import build_small
from tests.sleepmodel.tiny import CONFIG, MODEL, TASK

PAIRS, DEPO = Rule110(cells=6, states=2, steps=1), Depo(nodes=6, hops=4, queries=1)


def test_a_model_trained_for_several_n_is_evaluated_at_each(ray_cluster: str, tmp_path: Path) -> None:
    for split, count in (("train", 64), ("test", 300)):
        dataset = generate(TASK, split, count, 0, tmp_path)
    config, training = replace(CONFIG, sleep_passes=(1, 2, 4)), tmp_path / "any"
    training.mkdir()
    job = TrainingJob(name="any", model=MODEL, train=config, dataset=str(dataset), output=str(training))
    engine = LocalEngine(build_model(MODEL, config), config)
    job.finish(engine.model, train(engine, job.rows(), config, lambda model, level: 0.0, lambda at, write: None))
    *found, beyond = trained_variants("any", training, dataset, "abc", evaluated_at=(4, 8))
    assert [(trained.variant, trained.sleep_passes) for trained in found] == [("any@1", 1), ("any", 2), ("any@4", 4)]
    assert (beyond.variant, beyond.sleep_passes) == ("any@8", 8)
    rows, model = read_rows(dataset, "test"), load(training / "model")
    forward = sum(flops(model, rows.tokens.shape[1], drawn_passes(step, config)) for step in range(config.steps))
    for trained, n in zip(found, (1, 2, 4), strict=True):
        predicted = predict(model, rows, n)
        result = measure(trained, rows, predicted, tmp_path, 0.25)
        assert (result.variant, result.sleep_passes, result.commit) == (trained.variant, n, "abc")
        assert result.accuracy == score(predicted.tokens, rows, RESAMPLES)
        assert result.likelihood == measure_likelihood(predicted, rows)
        assert result.flops == 3 * config.batch_size * forward
        assert load(tmp_path / result.path).config == model.config
        by_window = measure(trained, rows, predicted, tmp_path, 0.25, window=6)
        assert by_window.positions == measure_by_position(predicted, rows, 6) is not None
        RESULTS.save(tmp_path, [result, by_window])
        assert RESULTS.load(tmp_path) == [result, by_window]


@pytest.mark.parametrize(
    ("task", "curriculum"),
    [(PAIRS, NO_CURRICULUM), (DEPO, NO_CURRICULUM), (DEPO, Curriculum(steps_per_pass=2))],
    ids=["rows of one length", "rows of unequal length", "passes by level"],
)
def test_any_number_of_tasks_predicts_the_same(
    task: Task, curriculum: Curriculum, ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = generate(task, "test", 300, 0, tmp_path)
    model = build_small(seed=2, dtype=torch.float32, vocab_size=len(task.vocabulary))
    save(model, tmp_path / "model")
    monkeypatch.setattr("sleepmodel.evaluation.accuracy.BATCH_ROWS", 32)
    both = [TrainedVariant(f"n{n}", n, tmp_path, dataset, model.config, curriculum=curriculum) for n in (1, 3)]
    rows, services = read_rows(dataset, "test"), Services(PRESETS["smoke"], tmp_path)
    services.resources = plan_resources_on_ray(Scale(gpu=False))
    for trained, *parts in zip(
        both, *(predict_all(both, {dataset: rows}, services, n) for n in (1, 3, 99)), strict=True
    ):
        alone = predict(load(tmp_path / "model"), rows, trained.sleep_passes, curriculum=curriculum)
        assert len(set(alone.tokens[rows.loss_mask()].tolist())) > 1 and alone.nats.any()
        for predicted in parts:
            assert np.array_equal(predicted.tokens, alone.tokens)
            assert np.array_equal(predicted.nats, alone.nats)


def test_the_commonest_answer_is_the_same_wherever_it_stands() -> None:
    """Rows of unequal length: 7 8 is the answer of three of four rows, at three places."""
    tokens = [[1, 7, 8], [1, 1, 7, 8], [1, 1, 1, 1, 7, 8], [1, 7]]
    starts, lengths = [[1], [2], [4], [1]], [[2], [2], [2], [1]]
    assert majority_share(Rows.of(tokens, starts, lengths, [[0]] * 4)) == 0.75
    two = Rows.of([[1, 7, 1, 8], [1, 7, 1, 9]], [[1, 3]] * 2, [[1, 1]] * 2, [[0, 0]] * 2)
    assert majority_share(two) == 0.5
    some = [[1], [], [1], [], []]
    unasked = Rows.of([[1, 7], [1, 7], [1, 8], [1, 7], [1, 7]], some, some, some)
    assert majority_share(unasked) == 0.5


def test_the_commonest_of_long_answers_needs_little_memory() -> None:
    """Chats: one of many answers, and one long answer, would make a large array of all answers."""
    many = [[1] * 301] + [[1] * 300] * 15
    starts = [list(range(1, 301))] + [[1]] * 15
    lengths = [[1] * 300] + [[299]] * 15
    rows = Rows.of(many, starts, lengths, [[0] * len(each) for each in starts])
    tracemalloc.start()
    assert majority_share(rows) == 15 / 16
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20  # as one array: 12 MB


def test_kinds_of_any_name_are_metrics_of_mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds may be a user's words; MLflow refuses most punctuation."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rng, kinds = np.random.default_rng(), ["what? (100 %)", "../größer", "k" * 300]
    rows = DEPO.sample("test", int(rng.integers(2**31)), 0, 60)
    mask = rows.loss_mask()
    predicted = Predictions(np.where(mask, rows.batch()[0], -1), np.where(mask, 0.5, 0).astype(np.float32))
    of_rows = [kinds[i % 3] for i in range(60)]
    exact, likelihood = score(predicted.tokens, rows, RESAMPLES, of_rows), measure_likelihood(predicted, rows, of_rows)
    result = EvaluationResult(
        "n1", 3, 1, 1.0, 2_000, 7.0, 10, 0.5, 1e4, None, 0.01, exact, "n1/model", likelihood=likelihood
    )
    store = open_store(tmp_path)
    run = start_run(store, "train-n1", "abc", None, {}, {})
    log_metrics(store, run, metrics_of(result, "-n2"), 2_000)
    logged = MlflowClient(store.uri).get_run(run).data.metrics
    assert {logged[f"test/nats{part}-n2"] for part in ("", "-depth-1", "-what___100___", "-.._größer")} == {0.5}
    assert logged["test/token-accuracy-n2"] == logged["test/accuracy-n2"] == 1
    assert len(logged) == 3 * (1 + 3 + len(likelihood.depths))
    two = measure_likelihood(predicted, rows, ["own", "other"] * 30, Recall.control)
    gaps = {name for name in metrics_of(replace(result, likelihood=two), "") if "gap" in name}
    assert gaps == {"test/nats-gap", *(f"test/nats-gap-depth-{depth}" for depth in likelihood.depths)}


def test_a_vocabulary_of_a_tokenizer_is_evaluated_in_bounded_memory() -> None:
    """Answers of 48 tokens of 50,000: each row has 9.7 MB of logits in float32."""
    rng, zeros = np.random.default_rng(), np.zeros((30, 1), np.int32)
    rows = Rows(rng.integers(0, 50_000, (30, 98)).astype(np.uint16), zeros + 50, zeros + 48, zeros + 1)
    model = build_small(dtype=torch.float32, vocab_size=50_304, window=49, max_positions=None, d_model=8, n_heads=1)
    logits: list[int] = []
    model.register_forward_hook(lambda module, given, out: logits.append(out.logits.numel()))
    measured = measure_likelihood(predict(model, rows), rows)
    assert sum(logits) == 30 * 48 * 50_304 and len(logits) > 1 and max(logits) <= BATCH_LOGITS
    assert measured.tokens.right.total == 30 * 48 and measured.tokens.nats.value > 5


def test_documents_are_measured_by_windows_that_can_be_compared(tmp_path: Path) -> None:
    """A model that reads whole rows in one window is measured by the smallest window of the others."""
    rng = np.random.default_rng()
    documents = Rows.of(rng.integers(0, 5, (9, 40)).tolist(), [[1]] * 9, [[39]] * 9, [[1]] * 9)
    questions = Rows.of(rng.integers(0, 5, (9, 40)).tolist(), [[38]] * 9, [[2]] * 9, [[1]] * 9)
    text, task, alone = tmp_path / "text", tmp_path / "task", tmp_path / "alone"

    def variant(data: Path, window: int) -> TrainedVariant:
        return TrainedVariant(f"{data.name}-{window}", 1, tmp_path, data, replace(MODEL, window=window))

    variants = [variant(data, window) for data in (text, task) for window in (8, 16, 40)] + [variant(alone, 40)]
    windows = position_windows(variants, {text: documents, task: questions, alone: documents})
    assert {trained.variant: window for trained, window in windows.items()} == {
        "text-8": 8,
        "text-16": 16,
        "text-40": 8,
    }
