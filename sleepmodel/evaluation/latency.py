"""What a trained model costs its user: milliseconds awake and asleep, and bytes of what it remembers."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sleepmodel.model import SleepModel

ROUNDS, WARMUP = 12, 2
TIMED_TOKENS = 8


@dataclass(frozen=True)
class InferenceCost:
    """Of one row, read by a Session on one core.

    awake_ms: of reading a token, median; sleep_ms: of sleeping on a full window with `sleep_passes`, median;
    state_bytes: of the fast weights; token_bytes: of a token's keys and values; window: tokens after which it sleeps.
    """

    variant: str
    sleep_passes: int
    window: int
    awake_ms: float
    sleep_ms: float
    state_bytes: int
    token_bytes: int

    def bytes(self, tokens: int) -> int:
        """The most that is kept while `tokens` tokens are read: fast weights, keys and values of one window."""
        return self.state_bytes + self.token_bytes * min(tokens, self.window)


@torch.no_grad()
def measure_inference_costs(models: Sequence[tuple[str, SleepModel, int]], rounds: int = ROUNDS) -> list[InferenceCost]:
    """models: variant, model and N. They take turns, and so does who is first, so that what else the machine does falls
    on all of them. Each turn is a fresh session that reads one window: most of it at once, its end token by token."""
    awake: list[list[float]] = [[] for _ in models]
    asleep: list[list[float]] = [[] for _ in models]
    for turn in range(WARMUP + rounds):
        for shift in range(len(models)):
            i = (turn + shift) % len(models)
            seconds = _one_window(*models[i][1:])
            if turn >= WARMUP:
                awake[i].append(seconds[0])
                asleep[i].append(seconds[1])
    return [
        InferenceCost(
            variant=variant,
            sleep_passes=passes,
            window=model.config.window,
            awake_ms=1e3 * statistics.median(awake[i]),
            sleep_ms=1e3 * statistics.median(asleep[i]),
            state_bytes=model.state_bytes(1),
            token_bytes=model.kv_bytes(1, 1),
        )
        for i, (variant, model, passes) in enumerate(models)
    ]


def _one_window(model: SleepModel, passes: int) -> tuple[float, float]:
    """Seconds a token awake, and seconds of the sleep: 0 where rows end before the window does."""
    session, config = model.session(sleep_passes=passes), model.config
    tokens = torch.arange(min(config.window, config.max_positions or config.window)) % config.vocab_size
    timed = min(TIMED_TOKENS, len(tokens) - 1)
    # the last token brings the sleep
    session.read(tokens[None, : len(tokens) - 1 - timed], last=True)
    start = time.perf_counter()
    for token in tokens[len(tokens) - 1 - timed : -1]:
        session.read(token.view(1, 1), last=True)
    seconds = time.perf_counter() - start
    session.read(tokens[None, -1:], last=True)
    return seconds / timed, session.seconds_asleep
