"""The register stage's example: prompts that the registered model can be asked as they are."""

import numpy as np
import pytest

from datagen import PAD, Depo, Facts, Gsm, Recall, Rows, Rule110
from datagen.task import Task
from pipelines.config.overrides import apply_overrides
from pipelines.config.presets import PRESETS
from pipelines.stages.register import Score, _prompts
from sleepmodel import ModelConfig
from sleepmodel.tracking.pyfunc import MAX_ANSWER, check_prompts

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
