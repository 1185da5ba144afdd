"""The model that MLflow serves: it answers prompts, or says why it cannot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.pyfunc.model import PythonModelContext

from sleepmodel import SleepModel, save
from sleepmodel.tracking.pyfunc import Answers
from tests.sleepmodel.conftest import build_small
from tests.sleepmodel.greedy import greedy

pytestmark = pytest.mark.slow

Predict = Callable[[npt.NDArray[Any], int], list[list[int]]]


@pytest.fixture(scope="module")
def predict(model: SleepModel, tmp_path_factory: pytest.TempPathFactory) -> Predict:
    """The pyfunc of `model`, called as MLflow does but without its own checks."""
    directory = tmp_path_factory.mktemp("model")
    save(model, directory)
    pyfunc, context = Answers(), PythonModelContext({"model": str(directory)}, None)  # type: ignore[no-untyped-call]
    pyfunc.load_context(context)
    return lambda tokens, n: pyfunc.predict(context, {"tokens": tokens}, {"n": n})["answer"].tolist()  # type: ignore[arg-type]


GOOD = np.ones((2, 19), np.int64)


@pytest.mark.parametrize(
    ("tokens", "n", "message"),
    [
        (GOOD[0], 1, r"tokens: must be integers \[B, T\].*int64 \[19\]"),
        (GOOD[:0], 1, r"B and T at least 1.*\[0, 19\]"),
        (GOOD[:, :0], 1, r"B and T at least 1.*\[2, 0\]"),
        (GOOD.astype(float), 1, r"integers.*float64"),
        (np.where(np.arange(19) == 5, 3, GOOD), 1, r"tokens\[0, 5\] = 3: .*0 to 2"),
        (np.where([[False], [True]], -1, GOOD), 1, "row 1 has only pads"),
        (GOOD[:, :16], 1, "row 0: its 16 tokens fill the last window of 8: .* must begin with a prompt token"),
        (np.where(np.arange(19) < [[3], [11]], -1, GOOD), 6, "n = 6: must be 1 to 5, as row 0's 16 tokens"),
        (GOOD, 6, r"n = 6: must be 1 to 5"),
        (GOOD, 0, r"n = 0: must be 1 to 5"),
        (np.ones((2, 41), np.int64), 1, r"42 tokens: must have at most max_positions = 40"),
    ],
)  # fmt: skip
def test_prompts_that_cannot_be_answered_are_named(
    tokens: npt.NDArray[Any], n: int, message: str, predict: Predict
) -> None:
    with pytest.raises(ValueError, match=message):
        predict(tokens, n)


@settings(max_examples=30)
@given(length=st.integers(1, 44), n=st.integers(1, 9), rows=st.integers(1, 3))
def test_prompts_are_refused_just_where_the_model_cannot_answer(
    length: int, n: int, rows: int, predict: Predict, model: SleepModel
) -> None:
    tokens = np.random.default_rng().integers(0, 3, (rows, length))
    try:
        expected = greedy(model, torch.from_numpy(tokens), n).tolist()
    except ValueError:
        with pytest.raises(ValueError, match="must"):
            predict(tokens, n)
    else:
        assert predict(tokens, n) == expected


@settings(max_examples=20)
@given(length=st.integers(1, 60), n=st.integers(1, 9))
def test_a_model_that_sleeps_on_all_windows_answers_over_their_borders(length: int, n: int) -> None:
    model = build_small(dtype=torch.float32, sleep_on="all")
    pyfunc, context = Answers(), PythonModelContext({}, None)  # type: ignore[no-untyped-call]
    pyfunc.model = model.eval()

    def predict(tokens: npt.NDArray[Any], n: int) -> list[list[int]]:
        answer: list[list[int]] = pyfunc.predict(context, {"tokens": tokens}, {"n": n})["answer"].tolist()  # type: ignore[arg-type]
        return answer

    tokens, most = np.random.default_rng().integers(0, 3, (2, length)), model.config.max_positions
    assert most is not None
    if length + n <= most:
        assert predict(tokens, n) == greedy(model, torch.from_numpy(tokens), n).tolist()
    else:
        with pytest.raises(ValueError, match=f"must have at most max_positions = {most}"):
            predict(tokens, n)
    with pytest.raises(ValueError, match="n = 5000: must be 1 to 4096; ask for fewer tokens"):
        predict(tokens, 5000)


@pytest.mark.parametrize("left", [True, False])
def test_prompts_of_many_lengths_are_answered_as_each_alone(left: bool, predict: Predict) -> None:
    prompts = [np.random.default_rng().integers(0, 3, length) for length in (3, 19, 11, 12)]
    tokens = np.full((4, 20), -1)
    for row, prompt in zip(tokens, prompts, strict=True):
        # 16: pads on the left that fill whole windows change nothing
        row[(16 if len(prompt) == 3 else 0) if left else 0 :][: len(prompt)] = prompt
    assert predict(tokens, 2) == [predict(prompt[None], 2)[0] for prompt in prompts]
