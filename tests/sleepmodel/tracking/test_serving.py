"""`mlflow models serve` and `mlflow models predict` of the champion, asked as docs/usage.md shows and in other ways."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import numpy.typing as npt
import pytest

from sleepmodel import SleepModel
from sleepmodel.tracking.registry import Version
from sleepmodel.tracking.runs import TrackingStore
from tests.sleepmodel.tracking.helpers import NAME, answers
from tests.sleepmodel.tracking.server import free_port
from tests.waiting import Background, scaled
from tests.waiting import run as execute

pytestmark = pytest.mark.slow

USAGE = (Path(__file__).parents[3] / "docs/usage.md").read_text()
SERVE, PREDICT = (re.findall(rf"^mlflow models {name} .*", USAGE, re.MULTILINE)[0] for name in ("serve", "predict"))
(REQUEST,) = re.findall(r"```json\n(.*?)```", USAGE, re.DOTALL)
GOOD = [[0, 1, 2, 1, 0], [2, 2, 0, 1, 1]]
BAD: list[tuple[Any, str]] = [
    ([[0.9, 1, 2, 1, 0]], "must be integers"),
    ([[1.0, 1.0, 2.0, 1.0, 0.0]], "must be integers"),
    ([[float("nan"), 1, 2, 1, 0]], "must be integers"),
    ([[float("inf"), 1, 2, 1, 0]], "must be integers"),
    ([["1", "1", "2", "1", "0"]], "must be integers"),
    ([["one", 1, 2, 1, 0]], "must be integers"),
    ([[None, 1, 2, 1, 0]], "must be integers"),
    ([[10**30, 1, 2, 1, 0]], "must be integers"),
    ([[-2, 1, 2, 1, 0]], "tokens[0, 0] = -2: must be in the vocabulary, 0 to 2, or -1 for a pad"),
    ([[3, 1, 2, 1, 0]], "tokens[0, 0] = 3: must be in the vocabulary"),
    ([[0, 1, 2], [0, 1]], "inhomogeneous shape"),
    ([], "at least 1"),
    ("0 1 2", "must be integers"),
]

Ask = Callable[[dict[str, Any]], tuple[int, Any]]


def mlflow(command: str) -> list[str]:
    """A command of the docs, for the model of this module."""
    return [sys.executable, "-m", *shlex.split(command.replace("sleep-rule110", NAME), comments=True)]


@pytest.fixture(scope="module")
def environment(store: TrackingStore, registered: Version) -> dict[str, str]:
    # MLflow looks for its own programs on the path
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "MLFLOW_TRACKING_URI": store.uri, "PATH": path}


@pytest.fixture(scope="module")
def ask(environment: dict[str, str]) -> Iterator[Ask]:
    """Posts a request to a server of the champion; returns the status and the answer."""
    port = free_port()

    def post(request: dict[str, Any]) -> tuple[int, Any]:
        body, kind = json.dumps(request).encode(), {"Content-Type": "application/json"}
        try:
            with urllib.request.urlopen(
                urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, kind), timeout=scaled()
            ) as reply:
                return reply.status, json.load(reply)
        except HTTPError as error:
            return error.code, json.load(error)

    with Background(mlflow(SERVE.replace("5001", str(port))), env=environment) as process:
        process.until_it_prints("Application startup complete")
        yield post


def test_the_request_of_the_docs_is_answered(ask: Ask, model: SleepModel) -> None:
    assert "--port 5001" in SERVE and " http://127.0.0.1:5001/invocations " in USAGE
    request = json.loads(REQUEST)
    expected = answers(model, np.array(request["inputs"]["tokens"]))
    assert ask(request) == (200, {"predictions": {"answer": [row[:1] for row in expected]}})


@pytest.mark.parametrize(
    "request_of",
    [
        lambda rows: {"inputs": {"tokens": rows}},
        lambda rows: {"inputs": rows},
        lambda rows: {"instances": [{"tokens": row} for row in rows]},
        lambda rows: {"dataframe_split": {"columns": ["tokens"], "data": [[row] for row in rows]}},
        lambda rows: {"dataframe_records": [{"tokens": row} for row in rows]},
    ],
    ids=["inputs", "one input", "instances", "dataframe_split", "dataframe_records"],
)
def test_each_format_is_answered_and_bad_tokens_are_refused_with_the_reason(
    request_of: Callable[[Any], dict[str, Any]], ask: Ask, model: SleepModel
) -> None:
    expected = answers(model, np.array(GOOD))
    assert ask(request_of(GOOD)) == (200, {"predictions": {"answer": expected}})
    assert ask(request_of([[*row, -1] for row in GOOD])) == (200, {"predictions": {"answer": expected}})
    for tokens, reason in BAD:
        if isinstance(tokens, str) or tokens == []:
            continue  # not every format can say it; `inputs` does, below
        status, said = ask(request_of(tokens))
        assert status == 400 and reason in said["message"], (tokens, said)


@pytest.mark.parametrize(("tokens", "reason"), BAD[-2:])
def test_what_is_no_list_of_rows_is_refused(tokens: Any, reason: str, ask: Ask) -> None:
    status, said = ask({"inputs": {"tokens": tokens}})
    assert status == 400 and reason in said["message"], said


@pytest.mark.parametrize("n", [0, -1, 4, 1.5, "2", True, None])
def test_a_number_of_tokens_that_is_none_is_refused(n: object, ask: Ask) -> None:
    status, said = ask({"inputs": {"tokens": GOOD}, "params": {"n": n}})
    assert status == 400 and "n" in said["message"]


def test_a_file_of_requests_is_answered(
    environment: dict[str, str], model: SleepModel, prompts: npt.NDArray[np.int64], tmp_path: Path
) -> None:
    (tmp_path / "request.json").write_text(json.dumps({"inputs": {"tokens": prompts.tolist()}}))
    done = execute(mlflow(PREDICT), cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"predictions": {"answer": answers(model, prompts)}}
