"""A terminal for a session and its commands; `python -m sleepmodel` starts one."""

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
Type tokens for the model to read, separated by spaces (optional if every token is one character), or a command:
  /ask TOKENS       show what the model generates after TOKENS; the session itself does not change
  /tokens N         generate N tokens after each question (1 at the start)
  /say [N]          generate N tokens (1 by default) and read them
  /sleep [N]        sleep now, with N passes
  /passes N         set the passes of all further sleeps
  /save FILE        save the memory
  /load FILE        load a memory
  /forget           start a new session
  /help             show this text
  /quit             end"""


class Terminal:
    """A session of one row that is driven by lines of text. `show` is called with each line of output."""

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
        """Execute a line of input; False if it is /quit or /exit. Errors are shown."""
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
                self.show(f"{command}: no such command; the commands are:\n{HELP}")
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
        self.session = resumed_session(self.model, path, self.session.sleep_passes)
        self.timed(lambda: None)

    def forget(self, _: str) -> None:
        self.session = Session(self.model, sleep_passes=self.session.sleep_passes)
        self.timed(lambda: None)

    def _read(self, context: Tensor) -> None:
        self.session.read(context, last=True)

    def timed(self, work: Callable[[], Tensor | None], session: Session | None = None) -> None:
        """Run `work`; show the tokens [1, n] that it returns, if any, the status of the session, and the time."""
        session = session or self.session
        slept, asleep, start = int(session.sleeps[0]), session.seconds_asleep, time.perf_counter()
        generated = work()
        seconds = time.perf_counter() - start
        if generated is not None:
            self.show(" ".join(self.words[token] for token in generated[0].tolist()))
        slept, asleep = int(session.sleeps[0]) - slept, session.seconds_asleep - asleep
        times = f"awake {1e3 * (seconds - asleep):.1f} ms"
        if slept:
            times += f", slept {slept} x in {1e3 * asleep:.1f} ms"
        self.show(f"[{self.status(session)} | {times}]")

    def status(self, session: Session) -> str:
        """Tokens in the window, sleeps, and bytes of fast weights and KV cache."""
        state, kv = state_bytes(self.model, 1), kv_bytes(self.model, 1, session.kv_tokens)
        filled, window = int(session.filled[0]), self.model.config.window
        sleeps = f"{int(session.sleeps[0])} sleeps, N = {session.sleep_passes}"
        return f"window {filled}/{window} | {sleeps} | fast weights {state:,} B, KV {kv:,} B"

    def encode(self, text: str) -> Tensor:
        """Encode text as tokens, int64 [1, T]. Raises ValueError for text that is not a token of the model."""
        places = {word: token for token, word in enumerate(self.words)}
        words = text.split()
        if all(len(word) == 1 for word in self.words):
            words = [character for word in words for character in word]
        unknown = [word for word in words if word not in places]
        if unknown or not words:
            known = " ".join(self.words[:20]) + (" ..." if len(self.words) > 20 else "")
            what = f"{unknown[0]!r} is not a token" if unknown else "there are no tokens"
            raise ValueError(f"{what}; this model's tokens are: {known}")
        return torch.tensor([[places[word] for word in words]])


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
