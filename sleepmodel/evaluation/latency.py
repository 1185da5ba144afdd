"""The cost of a trained model at inference: milliseconds awake and asleep, and bytes of its state."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from sleepmodel.accounting import kv_bytes, local_bytes, state_bytes
from sleepmodel.inference.session import Session
from sleepmodel.inference.stopwatch import wait_for
from sleepmodel.model import SleepModel

ROUNDS, WARMUP = 12, 2
TIMED_TOKENS = 8


@dataclass(frozen=True)
class InferenceCost:
    """The cost of one row in a Session on one core.

    awake_ms: median milliseconds to read a token; sleep_ms: median milliseconds to sleep on a full window with
    N = `sleep_passes`; state_bytes: of the fast weights; token_bytes: of a token's keys and values; window: L;
    local_bytes: of token_bytes, what caches of fewer than L tokens have, by the tokens that they hold.
    """

    variant: str
    sleep_passes: int
    window: int
    awake_ms: float
    sleep_ms: float
    state_bytes: int
    token_bytes: int
    local_bytes: dict[int, int] = field(default_factory=dict)

    def bytes(self, tokens: int) -> int:
        """Peak bytes while reading `tokens` tokens: fast weights, and the keys and values of at most one window, or of
        as many tokens of it as local attention keeps."""
        held = min(tokens, self.window)
        dropped = sum(size * max(0, held - most) for most, size in self.local_bytes.items())
        return self.state_bytes + self.token_bytes * held - dropped


@torch.no_grad()
def measure_inference_costs(models: Sequence[tuple[str, SleepModel, int]], rounds: int = ROUNDS) -> list[InferenceCost]:
    """Measure models, each given as (variant, model, N), in turns whose order rotates, so that other load on the
    machine affects all of them alike. A turn reads one window in a fresh session: most of it at once, its end token by
    token."""
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
            state_bytes=state_bytes(model, 1),
            token_bytes=kv_bytes(model, 1, 1),
            local_bytes=local_bytes(model),
        )
        for i, (variant, model, passes) in enumerate(models)
    ]


def _one_window(model: SleepModel, passes: int) -> tuple[float, float]:
    """Seconds for each token awake, and for the sleep: 0 where max_positions ends a row before its window is full."""
    session, config = Session(model, sleep_passes=passes), model.config
    tokens = torch.arange(min(config.window, config.max_positions or config.window)) % config.vocab_size
    timed = min(TIMED_TOKENS, len(tokens) - 1)
    # the last token triggers the sleep
    session.read(tokens[None, : len(tokens) - 1 - timed], last=True)
    wait_for(session.device)
    start = time.perf_counter()
    for token in tokens[len(tokens) - 1 - timed : -1]:
        session.read(token.view(1, 1), last=True)
    wait_for(session.device)
    seconds = time.perf_counter() - start
    session.read(tokens[None, -1:], last=True)
    return seconds / timed, session.seconds_asleep
