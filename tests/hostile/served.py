"""Requests to a served model, as a surface: through MLflow's own parser of requests, without the HTTP."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import mlflow.pyfunc
import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc.scoring_server import CONTENT_TYPE_JSON, invocations

from sleepmodel.tracking.registry import _save_pyfunc
from tests.hostile.surface import Surface
from tests.sleepmodel.tracking.helpers import CONFIG, N, random_model

ROWS = [[0, 1, 2, 1, 0], [2, 2, 0, 1, -1]]


@cache
def _served(place: Path) -> mlflow.pyfunc.PyFuncModel:
    _save_pyfunc(place, Model(), random_model(0), np.array(ROWS), N)
    return mlflow.pyfunc.load_model(str(place / "pyfunc"))


def _ask(content: bytes, place: Path) -> None:
    model = _served(place)
    try:
        reply = invocations(content.decode(), CONTENT_TYPE_JSON, model, model.metadata.get_input_schema())
    except MlflowException as error:
        assert error.get_http_status_code() == 400, error
        raise ValueError(f"{error!s:.200}") from error  # MLflow's own messages show the whole request
    except Exception:  # of MLflow's parser: it turns every error of the model into an MlflowException
        return
    answer = np.array(json.loads(reply.response)["predictions"]["answer"])
    assert reply.status == 200 and answer.ndim == 2
    assert ((answer >= 0) & (answer < CONFIG.vocab_size)).all()


def _requests(place: Path) -> tuple[bytes, ...]:
    requests = (
        {"inputs": {"tokens": ROWS}, "params": {"n": 1}},
        {"inputs": ROWS},
        {"instances": [{"tokens": row} for row in ROWS]},
        {"dataframe_split": {"columns": ["tokens"], "data": [[row] for row in ROWS]}},
    )
    return tuple(json.dumps(request).encode() for request in requests)


SERVED = {"served requests": Surface(_requests, _ask, (ValueError,), ".")}
