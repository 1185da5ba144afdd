"""The commands of a terminal around a session; `python -m sleepmodel` starts one."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from sleepmodel.accounting import kv_bytes, state_bytes
from sleepmodel.inference.memory import Memory
from sleepmodel.inference.session import Session
from sleepmodel.model import SleepModel

HELP = """\
Type tokens for the model to read, with spaces between (or none, where every token is one character). Or a command:
  /ask TOKENS       what the model says next to TOKENS; it forgets the question: the memory stays as it is
  /tokens N         say N tokens to a question, 1 at first
  /say [N]          the model goes on by itself, and reads what it says
  /sleep [N]        sleep now, with N passes
  /passes N         sleep with N passes from now on
  /save FILE, /load FILE   the memory
  /forget           begin with nothing
  /help, /quit"""


class Terminal:
    """One conversation. Every line of input is answered by lines of text."""

    def __init__(self, model: SleepModel, session: Session, show: Callable[[str], None]) -> None:
        self.model, self.session, self.show, self.count = model, session, show, 1
        self.words = model.vocabulary or tuple(map(str, range(model.config.vocab_size)))
        self.commands: dict[str, Callable[[str], None]] = {
            "ask": self.ask,
            "say": self.say,
            "sleep": self.sleep,
            "passes": self.passes,
            "tokens": self.tokens,
            "save": lambda path: self.session.memory.save(path),
            "load": self.load,
            "forget": self.forget,
            "help": lambda _: self.show(HELP),
        }

    def enter(self, line: str) -> bool:
        """Do what a line says; False where it says to quit."""
        command, _, rest = line.strip().partition(" ")
        if command in ("/quit", "/exit"):
            return False
        try:
            if not command.startswith("/"):
                context = self.encode(line)
                self.timed(lambda: self._read(context))
            elif command[1:] in self.commands:
                self.commands[command[1:]](rest.strip())
            else:
                self.show(f"{command}: no such command\n{HELP}")
        except (ValueError, OSError) as error:
            self.show(f"error: {error}")
        return True

    def ask(self, rest: str) -> None:
        question = self.encode(rest)
        fork = self.session.fork()

        def answer() -> Tensor:
            fork.read(question, last=True)
            return fork.generate(self.count)

        self.timed(answer, fork)

    def say(self, rest: str) -> None:
        count = _positive(rest or "1")
        self.timed(lambda: self.session.generate(count))

    def sleep(self, rest: str) -> None:
        self.timed(lambda: self.session.sleep(_positive(rest) if rest else None))

    def passes(self, rest: str) -> None:
        self.session.sleep_passes = _positive(rest)

    def tokens(self, rest: str) -> None:
        self.count = _positive(rest)

    def load(self, path: str) -> None:
        self.session = remembering(self.model, path, self.session.sleep_passes)
        self.timed(lambda: None)

    def forget(self, _: str) -> None:
        self.session = Session(self.model, sleep_passes=self.session.sleep_passes)
        self.timed(lambda: None)

    def _read(self, context: Tensor) -> None:
        self.session.read(context, last=True)

    def timed(self, work: Callable[[], Tensor | None], session: Session | None = None) -> None:
        """Run `work`, show the tokens [1, n] that it said, if any, and how the session stands."""
        session = session or self.session
        slept, asleep, start = int(session.sleeps[0]), session.seconds_asleep, time.perf_counter()
        said = work()
        seconds = time.perf_counter() - start
        if said is not None:
            self.show(" ".join(self.words[token] for token in said[0].tolist()))
        slept, asleep = int(session.sleeps[0]) - slept, session.seconds_asleep - asleep
        times = f"awake {1e3 * (seconds - asleep):.1f} ms"
        if slept:
            times += f", slept {slept} x in {1e3 * asleep:.1f} ms"
        self.show(f"[{self.status(session)} | {times}]")

    def status(self, session: Session) -> str:
        """Window fill, sleeps, and the bytes of what is kept."""
        state, kv = state_bytes(self.model, 1), kv_bytes(self.model, 1, session.kv_tokens)
        filled, window = int(session.filled[0]), self.model.config.window
        sleeps = f"{int(session.sleeps[0])} sleeps, N = {session.sleep_passes}"
        return f"window {filled}/{window} | {sleeps} | fast weights {state:,} B, KV {kv:,} B"

    def encode(self, text: str) -> Tensor:
        """int64 [1, T]. Raises ValueError on what is no token of the model."""
        places = {word: token for token, word in enumerate(self.words)}
        words = text.split()
        if all(len(word) == 1 for word in self.words):
            words = [character for word in words for character in word]
        unknown = [word for word in words if word not in places]
        if unknown or not words:
            known = " ".join(self.words[:20]) + (" ..." if len(self.words) > 20 else "")
            what = f"{unknown[0]!r} is no token" if unknown else "no tokens"
            raise ValueError(f"{what}; this model's are: {known}")
        return torch.tensor([[places[word] for word in words]])


def remembering(model: SleepModel, path: str, passes: int | None) -> Session:
    """A session that goes on from a memory's file. Raises ValueError where that holds several conversations."""
    session = Session(model, memory=Memory.load(path), sleep_passes=passes)
    if session.batch_size != 1:
        raise ValueError(
            f"{path}: a memory of {session.batch_size} rows, a terminal takes 1; save a session of one row"
        )
    return session


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{text!r}: must be a whole number of at least 1")
    return int(text)
