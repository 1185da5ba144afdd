"""`python -m sleepmodel`: what a person types and reads."""

import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from sleepmodel import save
from sleepmodel.inference.session import Session
from sleepmodel.inference.terminal import Terminal
from tests.sleepmodel.conftest import build_small
from tests.sleepmodel.greedy import greedy
from tests.waiting import Background, run, scaled

WORDS = ("a", "b", "c", "d", "e")


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    model = build_small(dtype=torch.float32, sleep_passes=2)
    model.vocabulary = WORDS
    save(model, path)
    return path


def converse(*arguments: str, said: str = "", status: int = 0) -> str:
    command = [sys.executable, "-m", "sleepmodel", *arguments]
    result = run(command, input=said)
    assert result.returncode == status, result.stderr
    return result.stdout if status == 0 else result.stderr


def test_a_conversation(model_path: Path, tmp_path: Path) -> None:
    """Context, a sleep when the window is full, two questions on one memory, an answer of the model's own; what it says
    is what the training forward says."""
    memory = tmp_path / "memory"
    typed = ["abcd e ab", "/tokens 2", "/ask cc", "/ask cc", "/save " + str(memory), "/say 1", "/sleep 3", "/quit"]
    out = converse(str(model_path), said="\n".join(typed) + "\nnever read")
    model = build_small(dtype=torch.float32, sleep_passes=2)
    context = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 2]])
    answer = " ".join(WORDS[t] for t in greedy(model, context, 2)[0].tolist())
    assert out.count(f"{answer}\n") == 2
    assert "window 1/6 | 1 sleeps, N = 2 | fast weights 512 B, KV 128 B" in out and "slept 1 x in" in out
    said = WORDS[int(greedy(model, context[:, :7], 1))]
    assert f"{said}\n[window 2/6" in out
    assert "window 0/6 | 2 sleeps" in out
    resumed = converse(str(model_path), "--memory", str(memory), said="/tokens 2\n/ask cc\n")
    assert f"{answer}\n" in resumed


def test_a_time_is_that_after_which_the_gpu_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that takes a second for all that it was given before the host waits for it."""
    now, told = [0.0], list[str]()
    model = build_small(dtype=torch.float32)
    terminal = Terminal(model, Session(model), print, told.append)
    terminal.session.device = torch.device("cuda")
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: now.append(now.pop() + 1.0))
    terminal.timed(lambda: None)
    assert now == [2.0] and told[0].endswith("| awake 1000.0 ms]")


def test_a_token_beyond_the_vocabulary_is_shown_by_its_number() -> None:
    """A model's vocabulary may be padded."""
    model = build_small(dtype=torch.float32, vocab_size=40)
    model.vocabulary = WORDS
    shown: list[str] = []
    Terminal(model, Session(model), shown.append, lambda _: None).enter("/ask abc")
    token = int(greedy(model, torch.tensor([[0, 1, 2]]), 1))
    assert token >= len(WORDS) and shown == [f"<{token}>"]


def test_mistakes_are_explained_and_survived(model_path: Path, tmp_path: Path) -> None:
    several = tmp_path / "several"
    Session(build_small(dtype=torch.float32, sleep_passes=2), 2).memory.save(several)
    lines = [
        "axb",
        "/ask",
        "/dance",
        "/passes none",
        f"/load {tmp_path / 'gone'}",
        f"/load {several}",
        "/passes 3",
        "ab",
    ]
    out = converse(str(model_path), said="\n".join(lines))
    assert "'x' is not a token; this model's tokens are: a b c d e" in out and "error: there are no tokens" in out
    assert "/dance: no such command" in out and "'none': must be a whole number of at least 1" in out
    assert "gone: no memory here" in out and "several: a memory of 2 rows, but a terminal takes 1" in out
    assert "window 2/6 | 0 sleeps, N = 3" in out


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--passes", "0"), "--passes 0: must be at least 1"),
        (("--memory", "gone"), "no memory here"),
        (("--memory", ""), "--memory: must not be empty"),
    ],
)
def test_bad_options_end_it_at_once(model_path: Path, extra: tuple[str, ...], message: str) -> None:
    assert message in converse(str(model_path), *extra, status=2)


def test_ctrl_c_ends_it_quietly(model_path: Path) -> None:
    with Background([sys.executable, "-m", "sleepmodel", str(model_path)], stdin=subprocess.PIPE) as process:
        process.until_it_prints("> ")
        process.send_signal(signal.SIGINT)
        assert process.until_it_ends() == 130
        assert process.output().endswith("/help for commands\n> \n")


def test_ctrl_c_ends_it_as_it_loads(tmp_path: Path) -> None:
    """The import of a package that swallows what is raised in it."""
    swallows = "try:\n    import time\n    time.sleep(10**6)\nexcept BaseException:\n    pass\n"
    (tmp_path / "torch.py").write_text(f"print('imports', flush=True)\n{swallows}")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    with Background([sys.executable, "-m", "sleepmodel", "no-model"], env=environment) as process:
        process.until_it_prints("imports\n")
        process.send_signal(signal.SIGINT)
        assert process.until_it_ends() == 130 and process.output() == "imports\n"


def test_ctrl_d_ends_it_with_a_line_of_its_own(model_path: Path) -> None:
    ours, its = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "sleepmodel", str(model_path)], stdin=its, stdout=its, stderr=its
    ) as it:
        os.close(its)
        printed = b""
        while not printed.endswith(b"> "):
            printed += os.read(ours, 65536)
        os.write(ours, b"\x04")
        assert it.wait(scaled()) == 0
        assert os.read(ours, 65536).endswith(b"\r\n")
        os.close(ours)


@pytest.mark.parametrize(("redirection", "status"), [("<&- >&- 2>&-", 0), ("| head -1", 1)])
def test_without_a_reader_or_a_writer_it_ends(model_path: Path, redirection: str, status: int) -> None:
    shell = f'set -o pipefail; "$0" -m sleepmodel "$1" {redirection}'
    done = run(["bash", "-c", shell, sys.executable, str(model_path)], input="a b\n" * 1000)
    assert done.returncode == status and done.stderr == ""


def test_a_store_without_credentials_is_an_error_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    said = converse("s3://bucket/model", status=2)
    assert "s3://bucket/model: the object store cannot be used" in said and "Traceback" not in said
