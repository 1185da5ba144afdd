"""Text in a terminal and in one command: files are read, questions answered, memories kept."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console

from sleepmodel import Memory, Session, SleepModel, load, save, save_pretrained
from sleepmodel.__main__ import _bar, main
from sleepmodel.inference.terminal import Terminal
from tests.sleepmodel.conftest import ARCHITECTURES, build_small
from tests.sleepmodel.speaking import speaking_model

TEXT = "Pine Ridge has 3 adult owls.\r\nHow many foxes does it have? “Nine”, she said.\n" * 3
READ = TEXT.replace("\r\n", "\n")
QUESTION = "How many owls?"
PROMPT = "<user>How many owls?<assistant>"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> SleepModel:
    return speaking_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def place(model: SleepModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("model")
    save(model, directory)
    return str(directory)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my [bold]report[].md"
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.encode())
    return path


def tokens(model: SleepModel, text: str) -> torch.Tensor:
    assert model.tokenizer is not None
    return torch.tensor([model.tokenizer.encode(text)])


def session_after(model: SleepModel, *texts: str) -> Session:
    session = Session(model)
    for text in texts:
        session.read(tokens(model, text))
    return session


def answer(session: Session, prompt: str, count: int) -> str:
    """What a session says after a prompt, up to what ends it."""
    tokenizer = session.model.tokenizer
    assert tokenizer is not None
    fork = session.fork()
    fork.read(tokens(session.model, prompt))
    said: list[int] = fork.generate(count)[0].tolist()
    return tokenizer.decode(said[: said.index(0)] if 0 in said else said)


def test_files_are_read_and_a_question_is_answered(
    model: SleepModel, place: str, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints the answers alone; what it saves is what it has read, without the questions."""
    (tmp_path / "more.txt").write_text("Beverly Forest")
    reading = ["--read", str(file), str(tmp_path / "more.txt"), "--save", str(tmp_path / "memory")]
    main([place, *reading, "--ask", QUESTION, "--ask", "Why?", "--tokens", "5"])
    after = session_after(model, READ, "Beverly Forest")
    said = capsys.readouterr()
    filled, sleeps = int(after.filled[0]), int(after.sleeps[0])
    assert f"[window {filled}/24 | {sleeps} sleeps" in said.err and sleeps > 1
    room = 24 - filled
    for question, line in zip((QUESTION, "Why?"), said.out.split("\n"), strict=False):
        prompt = f"<user>{question}<assistant>"
        asked = after.fork()
        if tokens(model, prompt).shape[1] + 5 > room:
            asked.sleep()
        assert line == answer(asked, prompt, 5)
    saved = Session(model, memory=Memory.load(tmp_path / "memory"))
    assert torch.equal(saved.generate(3), after.generate(3))
    main([place, "--memory", str(tmp_path / "memory"), "--ask", QUESTION, "--tokens", "5"])
    assert capsys.readouterr().out.split("\n")[0] == said.out.split("\n")[0]


def test_a_conversation_in_text(model: SleepModel, file: Path) -> None:
    said: list[str] = []
    told: list[str] = []
    terminal = Terminal(model, Session(model), said.append, told.append)
    for line in ("Pine Ridge has 3 owls.", "", f"/read '{file}'", "/tokens 3", f"/ask {QUESTION}", "/say 2"):
        assert terminal.enter(line)
    after = session_after(model, "Pine Ridge has 3 owls.\n\n", READ)
    asked = after.fork()
    if int(after.filled[0]) + tokens(model, PROMPT).shape[1] + 3 > 24:
        asked.sleep()
    assert said[0] == answer(asked, PROMPT, 3) and len(said) == 2
    after.generate(2, stop=(0,))
    assert torch.equal(terminal.session.memory.tensors["state.read"], after.memory.tensors["state.read"])


def test_a_question_stands_whole_in_a_window(model: SleepModel) -> None:
    """The model sleeps before a question that does not fit into the window with its answer, and before no other."""
    length = tokens(model, PROMPT).shape[1]
    assert length + 4 < 24
    for filled in (0, 24 - length - 4, 24 - length - 3, 23):
        said: list[str] = []
        terminal = Terminal(model, Session(model), said.append)
        terminal.count = 4
        if filled:
            terminal.session.read(torch.arange(filled)[None])
        asked = terminal.session.fork()
        sleeps = filled + length + 4 > 24
        if sleeps:
            asked.sleep()
        terminal.ask(QUESTION)
        assert any("the model sleeps first" in line for line in said) == sleeps
        assert answer(asked, PROMPT, 4) in said and int(terminal.session.filled[0]) == filled
    said.clear()
    terminal.ask("How many owls are there? " * 9)
    assert "more than a window of 24: the model sleeps inside it" in "".join(said)


def test_without_a_template_a_question_is_plain_text(tmp_path: Path) -> None:
    model, said = speaking_model(tmp_path, template=None), list[str]()
    terminal = Terminal(model, Session(model), said.append, lambda line: None)
    terminal.count = 3
    terminal.ask(QUESTION)
    assert said == [answer(Session(model), QUESTION, 3)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no file here; give the path of a text file"),
        (b"", "the file is empty"),
        (b" \n\t\n", "the file is empty"),
        (b"Pine \xff Ridge", "byte 5 is not UTF-8; convert the file"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_before_anything_is_read(
    content: bytes | None,
    message: str,
    model: SleepModel,
    place: str,
    file: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bad = tmp_path / "bad.txt"
    if content is not None:
        bad.write_bytes(content)
    with pytest.raises(SystemExit, match="1"):
        main([place, "--read", str(file), str(bad), "--save", str(tmp_path / "memory"), "--ask", QUESTION])
    said = capsys.readouterr()
    assert f"error: {bad}: {message}" in said.err and not said.out and not (tmp_path / "memory").exists()
    told: list[str] = []
    terminal = Terminal(model, Session(model), told.append)
    terminal.enter(f"/read '{file}' {bad}")
    assert len(told) == 1 and f"error: {bad}: {message}" in told[0]
    assert int(terminal.session.filled[0]) == 0


def test_an_error_while_reading_leaves_the_session_as_it_was(file: Path, tmp_path: Path) -> None:
    model, told = speaking_model(tmp_path, max_positions=40), list[str]()
    terminal = Terminal(model, Session(model), told.append)
    terminal.enter("Pine")
    terminal.enter(f"/read '{file}'")
    assert "must be at most max_positions = 40" in told[-1]
    assert int(terminal.session.filled[0]) == tokens(model, "Pine\n").shape[1] and int(terminal.session.sleeps[0]) == 0


def test_a_long_file_is_read_in_pieces_with_a_bar(model: SleepModel, file: Path) -> None:
    """No piece is longer than a window, so that memory does not grow with the file; the bar says how far it is."""
    console = Console(file=io.StringIO(), force_terminal=True, width=160, color_system=None)
    bar = _bar(console)
    lengths: list[int] = []

    def track(name, pieces, status):  # type: ignore[no-untyped-def]
        lengths.extend(piece.shape[1] for piece in pieces)
        return bar(name, pieces, status)

    terminal = Terminal(model, Session(model), lambda line: None, track=track)
    terminal.read([str(file)])
    total = tokens(model, READ).shape[1]
    assert max(lengths) == 24 and sum(lengths) == total > 48
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{file}" in shown and f"{total}/{total} tokens" in shown
    assert f"{total // 24} sleeps" in shown and "fast weights 512 B" in shown


def test_a_model_of_hugging_face_needs_a_window_and_one_of_ours_has_its_own(
    place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fields = {**ARCHITECTURES["llama"], "mixers": ("attention", "attention"), "inserted": ()}
    foreign = tmp_path / "foreign"
    speaking = speaking_model(tmp_path)
    save_pretrained(build_small(dtype=torch.float32, vocab_size=600, max_positions=None, **fields), foreign)
    assert speaking.tokenizer is not None
    speaking.tokenizer.write(foreign)
    main([str(foreign), "--window", "48", "--ask", QUESTION, "--tokens", "2"])
    said = capsys.readouterr()
    assert "eviction every 48 tokens" in said.err and "it has no fast weights" in said.err and said.out
    for arguments, message in (
        ([str(foreign)], "has Hugging Face's layout; give --window L"),
        ([place, "--window", "48"], "--window 48: .* has a window of its own; leave it out"),
        ([str(foreign), "--window", "0"], "--window 0: must be at least 1"),
        ([place, "--tokens", "0"], "--tokens 0: must be at least 1"),
        ([place, "--ask", ""], "--ask: must not be empty"),
        ([place, "--save", str(tmp_path / "gone" / "memory")], "there is no directory"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)
        assert re.search(message, capsys.readouterr().err), message
    assert load(place).tokenizer is not None
