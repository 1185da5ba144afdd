"""Requests to a served model, as a surface: through MLflow's own parser of requests, without the HTTP."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc.scoring_server import CONTENT_TYPE_JSON, invocations

from sleepmodel.tracking.registry import _save_pyfunc
from tests.hostile.surface import Surface
from tests.sleepmodel.speaking import speaking_model
from tests.sleepmodel.tracking.helpers import CONFIG, N, random_model

ROWS = [[0, 1, 2, 1, 0], [2, 2, 0, 1, -1]]


@cache
def _served(place: Path) -> mlflow.pyfunc.PyFuncModel:
    _save_pyfunc(place, Model(), random_model(0), np.array(ROWS), N)
    return mlflow.pyfunc.load_model(str(place / "pyfunc"))


@cache
def _serves_text(place: Path) -> mlflow.pyfunc.PyFuncModel:
    _save_pyfunc(place, Model(), speaking_model(place), np.array(ROWS) + 1, N)
    return mlflow.pyfunc.load_model(str(place / "pyfunc"))


def _ask(content: bytes, place: Path) -> None:
    answer = np.array(_replied(content, _served(place))["answer"])
    assert answer.ndim == 2 and ((answer >= 0) & (answer < CONFIG.vocab_size)).all()


def _ask_text(content: bytes, place: Path) -> None:
    said = _replied(content, _serves_text(place))
    assert len(said.get("text", said["answer"])) == len(said["answer"]) > 0


def _replied(content: bytes, model: mlflow.pyfunc.PyFuncModel) -> dict[str, list[Any]]:
    """The predictions. Raises ValueError if the request is refused, as everything that is not answered must be."""
    try:
        reply = invocations(content.decode(), CONTENT_TYPE_JSON, model, model.metadata.get_input_schema())
    except MlflowException as error:
        assert error.get_http_status_code() == 400, error
        raise ValueError(f"{error!s:.200}") from error  # MLflow's own messages show the whole request
    except Exception as error:  # of MLflow's parser: it turns every error of the model into an MlflowException
        raise ValueError(f"{error!s:.200}") from error
    assert reply.status == 200
    predictions: dict[str, list[Any]] = json.loads(reply.response)["predictions"]
    return predictions


def _requests(place: Path) -> tuple[bytes, ...]:
    requests = (
        {"inputs": {"tokens": ROWS}, "params": {"n": 1}},
        {"inputs": ROWS},
        {"instances": [{"tokens": row} for row in ROWS]},
        {"dataframe_split": {"columns": ["tokens"], "data": [[row] for row in ROWS]}},
    )
    return tuple(json.dumps(request).encode() for request in requests)


def _text_requests(place: Path) -> tuple[bytes, ...]:
    texts = ["How many owls?", "Why?"]
    requests = (
        {"inputs": {"text": texts}, "params": {"n": 2, "chat": True}},
        {"instances": [{"text": text} for text in texts]},
        {"dataframe_split": {"columns": ["text"], "data": [[text] for text in texts]}},
    )
    return tuple(json.dumps(request).encode() for request in requests)


SERVED = {
    "served requests": Surface(_requests, _ask, (ValueError,), "."),
    "served text": Surface(_text_requests, _ask_text, (ValueError,), "."),
}
