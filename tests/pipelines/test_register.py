"""The register stage's example: prompts that the registered model can be asked as they are."""

import numpy as np
import pytest

from datagen import PAD, Depo, Facts, Gsm, Recall, Rows, Rule110
from datagen.task import Task
from pipelines.stages.register import _prompts
from sleepmodel import ModelConfig
from sleepmodel.tracking.pyfunc import check_prompts

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
    check_prompts(ModelConfig(vocab_size=3, window=8, sleep_on="all"), prompts, n)
