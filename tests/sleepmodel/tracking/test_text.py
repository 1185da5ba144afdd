"""A registered model with a tokenizer: text in and text out, in Python and served as docs/serving.md says."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
import sysconfig
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
import torch
from mlflow.models import Model
from mlflow.pyfunc.model import PythonModelContext

from sleepmodel import Session, SleepModel
from sleepmodel.tracking.pyfunc import Answers
from sleepmodel.tracking.registry import promote, register
from sleepmodel.tracking.runs import TrackingStore, start_run
from tests.sleepmodel.speaking import speaking_model
from tests.sleepmodel.tracking.helpers import client, fresh_identity
from tests.sleepmodel.tracking.server import free_port
from tests.waiting import Background, scaled
from tests.waiting import run as execute

pytestmark = pytest.mark.slow

NAME, N = "sleep-text", 4
PAGE = (Path(__file__).parents[3] / "docs/serving.md").read_text()
(SERVE,) = re.findall(r"^mlflow models serve .*", PAGE, re.MULTILINE)
REQUESTS = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)]
# of different lengths, the last longer than a window
TEXTS = ["Pine Ridge has 3 adult owls.", "Why?", "How many adult owls does Pine Ridge have? " * 4]
BAD: list[tuple[Any, str]] = [
    ([], "must be a list of strings"),
    ([1, 2], "must be a list of strings"),
    (["a", None], "must be a list of strings"),
    (["Why?", ""], "text[1]: text is empty"),
    (["\ud800"], "text[0]: text is not valid Unicode"),
]


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> SleepModel:
    return speaking_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def champion(store: TrackingStore, speaking: SleepModel) -> str:
    """The URI of the champion."""
    run = start_run(store, "train", fresh_identity(), None, {}, {})
    promote(store, NAME, register(store, run, speaking, NAME, np.array([[1, 2, 3]]), N, {}))
    return f"models:/{NAME}@champion"


def pyfunc(model: SleepModel) -> Callable[..., Any]:
    """The pyfunc of a model, without MLflow's own checks."""
    answers, context = Answers(), PythonModelContext({}, None)  # type: ignore[no-untyped-call]
    answers.model = model
    return lambda inputs, **params: answers.predict(context, inputs, params)


def told(model: SleepModel, text: str, n: int) -> tuple[list[int], str]:
    """The answer to a text alone: its tokens, padded, and what they say up to the end."""
    tokenizer = model.tokenizer
    assert tokenizer is not None
    session = Session(model)
    session.read(torch.tensor([tokenizer.encode(text)]))
    tokens: list[int] = session.generate(n)[0].tolist()
    end = tokens.index(0) if 0 in tokens else n
    return [*tokens[: end + 1], *[-1] * (n - end - 1)], tokenizer.decode(tokens[:end])


def reply(model: SleepModel, texts: list[str], n: int) -> dict[str, list[Any]]:
    answers = [told(model, text, n) for text in texts]
    return {"answer": [tokens for tokens, _ in answers], "text": [text for _, text in answers]}


def plain(answer: dict[str, Any]) -> dict[str, list[Any]]:
    return {"answer": answer["answer"].tolist(), "text": answer["text"]}


def test_each_text_is_answered_as_if_it_were_alone(speaking: SleepModel) -> None:
    """Also over the end of a window, where the model sleeps and goes on."""
    for n in (1, N, 30):
        assert plain(pyfunc(speaking)({"text": TEXTS}, n=n)) == reply(speaking, TEXTS, n)
    assert any(len(set(row)) > 3 for row in reply(speaking, TEXTS, 30)["answer"])
    chat = pyfunc(speaking)({"text": TEXTS[:2]}, n=N, chat=True)
    assert plain(chat) == reply(speaking, [f"<user>{text}<assistant>" for text in TEXTS[:2]], N)
    assert pyfunc(speaking)({"tokens": [[1, 2, 3]]}, n=2).keys() == {"answer"}


@pytest.mark.parametrize(
    ("inputs", "params", "message"),
    [
        *(({"text": texts}, {}, re.escape(message)) for texts, message in BAD),
        ({"text": ["a"], "tokens": [[1]]}, {}, r"input \['text', 'tokens'\]: must be"),
        ({"text": ["a"]}, {"n": 0}, "n = 0: must be 1 to 4096"),
        ({"text": ["a"]}, {"n": 10**6}, "n = 1000000: must be 1 to 4096"),
        ({"tokens": [[1, 2]]}, {"chat": True}, "chat = True: must be False for tokens"),
        ({"tokens": [[1, 600]]}, {}, r"tokens\[0, 1\] = 600: must be in the vocabulary"),
    ],
)
def test_a_text_that_cannot_be_answered_is_refused(
    inputs: Any, params: dict[str, Any], message: str, speaking: SleepModel
) -> None:
    with pytest.raises(ValueError, match=message):
        pyfunc(speaking)(inputs, **params)


def test_a_model_that_takes_no_text_says_so(model: SleepModel, tmp_path: Path) -> None:
    """For want of a tokenizer, of a chat template, of a vocabulary for the tokenizer, or of positions."""
    with pytest.raises(ValueError, match="the model has no tokenizer: give tokens, not text"):
        pyfunc(model)({"text": ["a"]})
    silent = speaking_model(tmp_path, template=None, max_positions=40)
    with pytest.raises(ValueError, match=r"text\[0\]: tokenizer .* has no chat template: give plain text"):
        pyfunc(silent)({"text": ["a"]}, chat=True)
    with pytest.raises(ValueError, match=r"row 1: prompt and answer have \d+ tokens: must have at most max_positions"):
        pyfunc(silent)({"text": ["a", TEXTS[2]]})
    small = speaking_model(tmp_path, vocab_size=100)
    with pytest.raises(ValueError, match=r"makes token \d+ of the text: must be below vocab_size = 100"):
        pyfunc(small)({"text": TEXTS})


def test_what_is_registered_says_what_it_takes_and_needs(
    store: TrackingStore, champion: str, speaking: SleepModel
) -> None:
    version = client(store).get_model_version_by_alias(NAME, "champion").version
    place = Path(client(store).get_model_version_download_uri(NAME, version).removeprefix("file://"))
    signature = Model.load(place).signature
    assert {name: column.required for name, column in signature.inputs.input_dict().items()} == {
        "tokens": False,
        "text": False,
    }
    assert [(param.name, param.default) for param in signature.params] == [("n", N), ("chat", False)]
    needed = {line.split("==")[0] for line in (place / "requirements.txt").read_text().split()}
    assert needed == {"mlflow", "numpy", "safetensors", "torch", "tokenizers", "jinja2"}


ELSEWHERE = """
import json, sys
sys.path.append(sys.argv[1])
import mlflow.pyfunc, pandas
asked = json.load(sys.stdin)
served = mlflow.pyfunc.load_model(asked["uri"])
given = {"dict": {"text": asked["texts"]}, "one": {"text": asked["texts"][:1]}}
given["frame"] = pandas.DataFrame({"text": asked["texts"]})
told = {name: served.predict(inputs) for name, inputs in given.items()}
import sleepmodel
told = {name: {"answer": answer["answer"].tolist(), "text": answer["text"]} for name, answer in told.items()}
json.dump({**told, "code": sleepmodel.__file__}, sys.stdout)
"""


def test_a_machine_without_this_repository_answers_text(
    champion: str, store: TrackingStore, root: Path, speaking: SleepModel, tmp_path: Path
) -> None:
    """By the code that is stored with the model."""
    fresh = execute(
        [sys.executable, "-I", "-S", "-c", ELSEWHERE, sysconfig.get_path("purelib")],
        input=json.dumps({"uri": champion, "texts": TEXTS}),
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": store.uri},
    )
    assert fresh.returncode == 0, fresh.stderr
    got = json.loads(fresh.stdout)
    assert Path(got["code"]).is_relative_to(root / "mlartifacts")
    expected = reply(speaking, TEXTS, N)
    assert got["dict"] == got["frame"] == expected
    assert got["one"] == {name: rows[:1] for name, rows in expected.items()}


def test_the_code_of_the_page_keeps_a_memory_for_a_user(
    champion: str, store: TrackingStore, speaking: SleepModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    server: dict[str, Any] = {}
    exec(re.sub(r"models:/[^\"]+", champion, code), server)
    for text in TEXTS[::2]:
        server["read"](tmp_path / "memory", text)
    before = (tmp_path / "memory").read_bytes()
    session = Session(speaking)
    for text in (*TEXTS[::2], TEXTS[1]):
        session.read(server["tokens"](text))
    said: list[int] = session.generate(64, stop=(0,))[0].tolist()
    before_end = said[: said.index(0)]  # the model does end
    assert server["answer"](tmp_path / "memory", TEXTS[1]) == server["tokenizer"].decode(before_end)
    assert (tmp_path / "memory").read_bytes() == before


@pytest.fixture(scope="module")
def ask(champion: str, store: TrackingStore) -> Iterator[Callable[[dict[str, Any]], tuple[int, Any]]]:
    """Posts a request to a server, which the page's command starts; returns the status and the answer."""
    port = free_port()
    command = shlex.split(re.sub(r"models:/\S+", champion, SERVE).replace("5001", str(port)), comments=True)
    # MLflow looks for its own programs on the path
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def post(request: dict[str, Any]) -> tuple[int, Any]:
        body, kind = json.dumps(request).encode(), {"Content-Type": "application/json"}
        address = f"http://127.0.0.1:{port}/invocations"
        try:
            with urllib.request.urlopen(urllib.request.Request(address, body, kind), timeout=scaled()) as answer:
                return answer.status, json.load(answer)
        except HTTPError as error:
            return error.code, json.load(error)

    environment = {**os.environ, "MLFLOW_TRACKING_URI": store.uri, "PATH": path}
    with Background([sys.executable, "-m", *command], env=environment) as process:
        process.until_it_prints("Application startup complete")
        yield post


def test_the_server_of_the_page_answers_text_with_text(
    ask: Callable[[dict[str, Any]], tuple[int, Any]], speaking: SleepModel
) -> None:
    assert "--port 5001" in SERVE and " http://127.0.0.1:5001/invocations " in PAGE
    first, second = REQUESTS
    texts, n = first["inputs"]["text"], first["params"]["n"]
    assert ask(first) == (200, {"predictions": reply(speaking, texts, n)})
    chat = [f"<user>{text}<assistant>" for text in second["inputs"]["text"]]
    assert second["params"]["chat"] is True
    assert ask(second) == (200, {"predictions": reply(speaking, chat, second["params"]["n"])})
    expected = {"predictions": reply(speaking, TEXTS, N)}
    for request in (
        {"inputs": {"text": TEXTS}},
        {"instances": [{"text": text} for text in TEXTS]},
        {"dataframe_split": {"columns": ["text"], "data": [[text] for text in TEXTS]}},
        {"dataframe_records": [{"text": text} for text in TEXTS]},
    ):
        assert ask(request) == (200, expected), request
    assert ask({"inputs": {"tokens": [[1, 2, 3]]}})[0] == 200
    for texts, message in BAD:
        status, said = ask({"inputs": {"text": texts}})
        assert status == 400 and message in said["message"], (texts, said)
    status, said = ask({"inputs": {"text": ["Why?"], "memory": "/etc/passwd"}})
    assert status == 200 and said == {"predictions": reply(speaking, ["Why?"], N)}
