"""A terminal for a session and its commands; `python -m sleepmodel` starts one."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial

import torch
from torch import Tensor

from datagen.vocabulary import word_of
from sleepmodel.accounting import kv_bytes, state_bytes
from sleepmodel.inference.memory import Memory
from sleepmodel.inference.session import Session
from sleepmodel.inference.stopwatch import wait_for
from sleepmodel.inference.text import decode_answer, encode_text, read_text
from sleepmodel.model import SleepModel

ANSWER_TOKENS = 64  # at most, of a model with a tokenizer, which ends its answers itself
HELP = """\
Type text for the model to read, or a command. A model without a tokenizer takes tokens, separated by spaces (optional
if every token is one character).
  /ask TEXT         show what the model answers; the session itself does not change
  /read FILE...     read text files, in UTF-8
  /tokens N         generate at most N tokens after each question (64 at the start, 1 without a tokenizer)
  /say [N]          generate N tokens (1 by default) and read them
  /sleep [N]        sleep now, with N passes
  /passes N         set the passes of all further sleeps
  /save FILE        save the memory
  /load FILE        load a memory
  /forget           start a new session
  /help             show this text
  /quit             end"""

# goes through the pieces of a file, whose name is first, and shows how far it is, with a status
Track = Callable[[str, Sequence[Tensor], Callable[[], str]], Iterable[Tensor]]


class Terminal:
    """A session of one row that is driven by lines of text. `show` is called with each line that the model says, `tell`
    with those about it. `count` is the number of tokens in an answer, at most."""

    def __init__(
        self,
        model: SleepModel,
        session: Session,
        show: Callable[[str], None],
        tell: Callable[[str], None] | None = None,
        track: Track = lambda name, pieces, status: pieces,
    ) -> None:
        self.model, self.session, self.show, self.tell, self.track = model, session, show, tell or show, track
        self.count = 1 if model.tokenizer is None else ANSWER_TOKENS
        self.words = model.vocabulary or tuple(map(str, range(model.config.vocab_size)))
        self.commands: dict[str, Callable[[str], None]] = {
            "ask": self.ask,
            "read": lambda files: self.read(shlex.split(files)),
            "say": self.say,
            "sleep": self.sleep,
            "passes": self.passes,
            "tokens": self.tokens,
            "save": lambda path: self.session.memory.save(path),
            "load": self.load,
            "forget": self.forget,
            "help": lambda _: self.tell(HELP),
        }

    def enter(self, line: str) -> bool:
        """Execute a line of input; False if it is /quit or /exit. Errors are shown."""
        command, _, rest = line.strip().partition(" ")
        if command in ("/quit", "/exit"):
            return False
        try:
            if not command.startswith("/"):
                context = self.encode(line if self.model.tokenizer is None else f"{line}\n")
                self.timed(lambda: self._read(context))
            elif command[1:] in self.commands:
                self.commands[command[1:]](rest.strip())
            else:
                self.tell(f"{command}: no such command; the commands are:\n{HELP}")
        except (ValueError, OSError) as error:
            self.tell(f"error: {error}")
        return True

    def ask(self, rest: str) -> None:
        """Show the answer to a question.

        With a tokenizer the question is a user's message, where the tokenizer has a chat template, and it stands whole
        in one window: if it and an answer of `count` tokens do not fit into what is left of this one, the model sleeps
        first.
        """
        question, fork = self.question(rest), self.session.fork()

        def answer() -> Tensor:
            if self.model.tokenizer is not None:
                self._make_room(fork, question.shape[1])
            fork.read(question, last=True)
            return self._generate(fork, self.count)

        self.timed(answer, fork)

    def read(self, files: Sequence[str]) -> None:
        """Read text files, one after the other. Raises ValueError or OSError before it reads any, if it cannot read one
        of them; the session is then as before."""
        if not files:
            raise ValueError("no file: give the path of a text file")
        documents = []
        for file in files:
            try:
                documents.append((file, self.encode(read_text(file))))
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from error
        reader = self.session.fork()

        def read(name: str, tokens: Tensor) -> None:
            pieces = tokens.split(self.model.config.window, 1)
            for piece in self.track(name, pieces, lambda: self.status(reader)):
                reader.read(piece, last=True)

        for file, tokens in documents:
            self.tell(f"{file}: {tokens.shape[1]:,} tokens")
            self.timed(partial(read, file, tokens), reader)
        self.session = reader

    def say(self, rest: str) -> None:
        count = _positive(rest or "1")
        self.timed(lambda: self._generate(self.session, count))

    def sleep(self, rest: str) -> None:
        self.timed(lambda: self.session.sleep(_positive(rest) if rest else None))

    def passes(self, rest: str) -> None:
        self.session.sleep_passes = _positive(rest)

    def tokens(self, rest: str) -> None:
        self.count = _positive(rest)

    def load(self, path: str) -> None:
        self.session = resumed_session(self.model, path, self.session.sleep_passes)
        self.timed(lambda: None)

    def forget(self, _: str) -> None:
        self.session = Session(self.model, sleep_passes=self.session.sleep_passes)
        self.timed(lambda: None)

    def _read(self, context: Tensor) -> None:
        self.session.read(context, last=True)

    def _generate(self, session: Session, count: int) -> Tensor:
        return session.generate(count, stop=() if self.model.tokenizer is None else self.model.tokenizer.ends)

    def _make_room(self, session: Session, length: int) -> None:
        """Sleep if a question of that length and its answer do not fit into what is left of the window."""
        window, filled = self.model.config.window, int(session.filled[0])
        if filled and length + self.count > window - filled:
            self.tell(
                f"the question ({length} tokens) and {self.count} more do not fit into the {window - filled} that are "
                "left of the window: the model sleeps first"
            )
            session.sleep()
        if length > window:
            self.tell(f"the question has {length} tokens, more than a window of {window}: the model sleeps inside it")

    def timed(self, work: Callable[[], Tensor | None], session: Session | None = None) -> None:
        """Run `work`; show the tokens [1, n] that it returns, if any, the status of the session, and the time."""
        session = session or self.session
        wait_for(session.device)
        slept, asleep, start = int(session.sleeps[0]), session.seconds_asleep, time.perf_counter()
        generated = work()
        wait_for(session.device)
        seconds = time.perf_counter() - start
        if generated is not None:
            self.show(self.decode(generated[0].tolist()))
        slept, asleep = int(session.sleeps[0]) - slept, session.seconds_asleep - asleep
        times = f"awake {1e3 * (seconds - asleep):.1f} ms"
        if slept:
            times += f", slept {slept} x in {1e3 * asleep:.1f} ms"
        self.tell(f"[{self.status(session)} | {times}]")

    def status(self, session: Session) -> str:
        """Tokens in the window, sleeps, and bytes of fast weights and KV cache."""
        state, kv = state_bytes(self.model, 1), kv_bytes(self.model, 1, session.kv_tokens)
        filled, window = int(session.filled[0]), self.model.config.window
        sleeps = f"{int(session.sleeps[0])} sleeps, N = {session.sleep_passes}"
        return f"window {filled}/{window} | {sleeps} | fast weights {state:,} B, KV {kv:,} B"

    def question(self, text: str) -> Tensor:
        """Encode a question, int64 [1, T]: as a user's message if there is a chat template. Raises ValueError."""
        tokenizer = self.model.tokenizer
        if tokenizer is None:
            return self.encode(text)
        return torch.tensor([encode_text(self.model, text, chat=tokenizer.chat_template is not None)])

    def encode(self, text: str) -> Tensor:
        """Encode text as tokens, int64 [1, T]. Raises ValueError for text that is not a token of the model."""
        if self.model.tokenizer is not None:
            return torch.tensor([encode_text(self.model, text)])
        token_of = {word: token for token, word in enumerate(self.words)}
        words = text.split()
        if all(len(word) == 1 for word in self.words):
            words = [character for word in words for character in word]
        unknown = [word for word in words if word not in token_of]
        if unknown or not words:
            known = " ".join(self.words[:20]) + (" ..." if len(self.words) > 20 else "")
            what = f"{unknown[0]!r} is not a token" if unknown else "there are no tokens"
            raise ValueError(f"{what}; this model's tokens are: {known}")
        return torch.tensor([[token_of[word] for word in words]])

    def decode(self, tokens: list[int]) -> str:
        """The text of generated tokens."""
        if self.model.tokenizer is not None:
            return decode_answer(self.model.tokenizer, tokens)
        return " ".join(word_of(self.words, token) for token in tokens)


def resumed_session(model: SleepModel, path: str, passes: int | None) -> Session:
    """A session that resumes from a memory file. Raises ValueError if the memory has more than one row."""
    session = Session(model, memory=Memory.load(path), sleep_passes=passes)
    if session.batch_size != 1:
        raise ValueError(
            f"{path}: a memory of {session.batch_size} rows, but a terminal takes 1; use a memory of one row"
        )
    return session


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r}: must be a whole number of at least 1")
    return int(text)
