"""The register stage: the example of a registered model, prompts that it can be asked as they are, and the comparison
with the champion."""

from pathlib import Path

import numpy as np
import pytest
import torch

from datagen import PAD, Depo, Facts, Gsm, Recall, Rows, Rule110, generate, read_rows
from datagen.task import Task
from pipelines.config.overrides import apply_overrides
from pipelines.config.presets import PRESETS
from pipelines.reporting.results import EvaluationResult
from pipelines.runtime.services import Services
from pipelines.stages.register import DATASET_TAG, Score, _judge, _prompts
from sleepmodel import ModelConfig, SleepModel
from sleepmodel.evaluation.accuracy import NO_CURRICULUM, Predictions, predict, score
from sleepmodel.evaluation.likelihood import measure_likelihood
from sleepmodel.tracking.pyfunc import MAX_ANSWER, check_prompts
from sleepmodel.tracking.registry import champion, promote, register
from sleepmodel.tracking.runs import start_run
from tests.sleepmodel.conftest import build_small

TASKS = [
    Rule110(cells=6, states=1, steps=1),
    Depo(nodes=5, hops=2),
    Gsm(operations=(2, 3), tokens=(200, 300)),
    Recall(distances=(1, 3)),
    Facts(),
]


@pytest.mark.parametrize("task", TASKS)
def test_an_example_ends_where_its_first_answer_begins(task: Task) -> None:
    rows = task.sample("test", 0, 0, 4)
    prompts, n = _prompts(rows, 4096)
    tokens, mask = rows.batch()
    assert n >= 1 and prompts.shape[1] == max(asked.argmax() for asked in mask)
    for prompt, row, asked in zip(prompts, tokens, mask, strict=True):
        start = int(asked.argmax())
        assert np.array_equal(prompt[:start], row[:start]) and (prompt[start:] == PAD).all()
        assert asked[start : start + n].all()


def test_an_example_of_any_text_can_be_served() -> None:
    """Prompts that fill a window, and answers that go beyond theirs."""
    rows = Rows.of([[1] * 20] * 3, [[8], [1], [7]], [[3], [19], [2]], [[1]] * 3)
    prompts, n = _prompts(rows, 8)
    assert (prompts >= 0).sum(1).tolist() == [7, 1, 7] and n == 1
    check_prompts(ModelConfig(vocab_size=3, window=8, sleep_on="prompts"), prompts, n)


@pytest.mark.parametrize(
    "overrides",
    [
        ["task=recall", "task.passage=24", "task.cue=4", "task.span=32", "model.sleep_on=all", "model.window=16"],
        ["task=recall", "task.passage=30", "task.cue=14", "task.span=50", "model.sleep_on=all", "model.window=9"],
        ["task=depo", "task.nodes=5", "task.hops=2", "model.sleep_on=all", "model.window=4"],
        ["task=rule110", "task.cells=6", "task.states=2", "model.sleep_on=all", "model.window=2"],
        ["model.sleep_on=prompts"],
    ],
)
def test_what_may_be_trained_may_be_registered(overrides: list[str]) -> None:
    """Whatever the window: a model that sleeps on all windows may answer in any of them."""
    experiment = apply_overrides(PRESETS["smoke"], overrides)
    model = experiment.model
    window = None if model.sleep_on == "all" else model.window
    check_prompts(model, *_prompts(experiment.task.sample("test", 0, 0, 4), window))


def test_an_answer_that_is_longer_than_a_server_generates_is_cut() -> None:
    rows = Rows.of([[1] * 5000], [[1]], [[4999]], [[1]])
    assert _prompts(rows, None)[1] == MAX_ANSWER


def test_where_no_row_is_right_the_champion_is_beaten_in_nats() -> None:
    """As in a dataset of documents, of which none is right to its last token."""
    champion = Score(0.0, 2.5)
    assert Score(0.0, 2.4).beats(champion) and not Score(0.0, 2.6).beats(champion) and not champion.beats(champion)
    assert Score(0.1, 9.0).beats(champion) and not champion.beats(Score(0.1, 9.0))


@pytest.mark.parametrize("mixer", ["gated_delta", "my_rules:Oja"])
def test_the_champion_predicts_in_rays_workers(
    mixer: str, ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model of the paper's largest size would take days on the driver's CPU. One with a mixer of the user's own is
    judged in an experiment that names none."""
    examples = str(Path(__file__).parents[2] / "examples")
    monkeypatch.syspath_prepend(examples)
    monkeypatch.setenv("PYTHONPATH", examples)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    task = Rule110(cells=6, states=2, steps=1)
    data, output = generate(task, "test", 300, 0, tmp_path), tmp_path / "register"
    rows, services = read_rows(data, "test"), Services(PRESETS["smoke"], tmp_path)
    services.connect([])
    mixers = "attention", mixer
    model = build_small(dtype=torch.float32, vocab_size=len(task.vocabulary), mixers=mixers).eval()
    run = start_run(services.store, "train", "abc", None, {}, {})
    standing = register(services.store, run, model, "sleep-judged", *_prompts(rows, 6), {DATASET_TAG: data.name})
    promote(services.store, "sleep-judged", standing)
    present = champion(services.store, "sleep-judged")
    predicted = predict(model, rows)

    def challenger(found: Predictions) -> EvaluationResult:
        exact, nats = score(found.tokens, rows), measure_likelihood(found, rows)
        return EvaluationResult("n1", 0, 1, 1.0, 1, 1.0, 1, 0.5, 1.0, None, 0.0, exact, "n1/model", likelihood=nats)

    def judged(found: Predictions) -> tuple[bool, str]:
        made = challenger(found)
        return _judge(services, "sleep-judged", "2", made, rows, data, NO_CURRICULUM, output, present)

    def in_the_driver(*_: object) -> None:
        raise AssertionError("the driver computes a forward pass")

    monkeypatch.setattr(SleepModel, "forward", in_the_driver)
    alike = challenger(predicted)
    assert alike.likelihood is not None
    champions = Score(alike.accuracy.rows.value, alike.likelihood.tokens.nats.value)
    assert judged(predicted) == (False, f"{champions} does not beat champion v{standing} with {champions}")
    assert judged(predicted._replace(nats=predicted.nats / 2))[0]
    assert not list(output.iterdir())  # no copy of the champion stays
