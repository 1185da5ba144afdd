"""FLOPs, bytes and number of weights of a model, computed from its sizes, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import torch

from datagen.checks import require
from sleepmodel.mixers.attention import Attention
from sleepmodel.model import Pass, SleepModel
from sleepmodel.states import named_tensors

# (block, whether in a pass that begins with tokens) -> how often its forward's FLOPs count
Times = Callable[[int, bool], int]


def flops(
    model: SleepModel,
    tokens: int,
    sleep_passes: int | None = None,
    asked: Sequence[bool] | None = None,
    traces: int = 0,
) -> int:
    """Forward matmul FLOPs of the blocks for one row of `tokens` tokens. A multiplication with its addition counts as 2
    FLOPs. Readouts do not count: neither that of the answers nor those between passes, for traces or `config.carry`.

    sleep_passes: N; None is the config's. asked: for each window, whether answers are predicted in it (see
    `predicting_windows`); None: in the last one alone. A row without answers costs nothing. traces: P, the passes with
    a loss of their own.
    """
    return _row_flops(model, tokens, sleep_passes, asked, traces, lambda block, from_tokens: 1)


def training_flops(
    model: SleepModel,
    tokens: int,
    sleep_passes: int | None = None,
    asked: Sequence[bool] | None = None,
    traces: int = 0,
) -> int:
    """Matmul FLOPs of forward and backward for one row; arguments as in `flops`.

    The backward of a block costs two forwards: the gradients of its inputs and of its weights. A block without trained
    weights needs only the first, and one that comes before all trained blocks, in a pass that begins with tokens, none.
    With a truncated backward (`model.truncation`) this is an upper bound: it counts the whole one.
    """
    trained = [any(weight.requires_grad for weight in block.parameters()) for block in model.stack]
    lowest = trained.index(True) if any(trained) else len(trained)

    def forwards(block: int, from_tokens: bool) -> int:
        return 3 if trained[block] else 1 if from_tokens and block < lowest else 2

    return _row_flops(model, tokens, sleep_passes, asked, traces, forwards)


def n_params(model: SleepModel) -> int:
    """Number of weights, whether they are trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())


def state_bytes(model: SleepModel, batch_size: int) -> int:
    """Bytes of the fast weights of `batch_size` rows. Under hard eviction nothing else survives a full window."""
    return sum(leaf.nbytes for _, leaf in named_tensors(model.initial_states(batch_size), "states"))


def kv_bytes(model: SleepModel, batch_size: int, tokens: int) -> int:
    """Bytes of the keys and values of `tokens` tokens of `batch_size` rows. A session holds at most L tokens, and local
    attention at most `local_span`."""
    mixers = (block.mixer for block in model.stack if isinstance(block.mixer, Attention))
    values = sum(2 * min(tokens, mixer.window) * mixer.kv_heads * mixer.head_size for mixer in mixers)
    return batch_size * values * model.embed.weight.element_size()


def local_bytes(model: SleepModel) -> dict[int, int]:
    """Bytes of a token's keys and values in the caches of one row that hold fewer tokens than a window, by the tokens
    that they hold, as those of local attention."""
    found = Counter[int]()
    for block in model.stack:
        if isinstance(block.mixer, Attention) and block.mixer.window < model.config.window:
            size = 2 * block.mixer.kv_heads * block.mixer.head_size
            found[block.mixer.window] += size * model.embed.weight.element_size()
    return dict(found)


def fingerprint(model: SleepModel) -> str:
    """16 hex digits that identify config and weights: a hash. A Memory holds the fingerprint of its model."""
    # with spaces, unlike canonical_json: existing memories hold this fingerprint
    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    for name, weight in model.state_dict().items():
        digest.update(name.encode())
        digest.update(weight.cpu().reshape(-1).contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _row_flops(
    model: SleepModel, tokens: int, sleep_passes: int | None, asked: Sequence[bool] | None, traces: int, times: Times
) -> int:
    config, schedule = model.config, model.sleep_schedule(model.checked_passes(sleep_passes), traces)
    windows = -(-tokens // config.window)
    asked = [False] * (windows - 1) + [True] if asked is None else asked
    require(not any(asked[windows:]), "asked", asked, f"False behind the {windows} windows of {tokens} tokens")
    last = max((i for i, answers in enumerate(asked) if answers), default=-1)  # later windows are not computed
    # a window's tokens, whether others come before it, whether it is predicted, and whether it is slept on
    kinds = Counter(
        (
            min(config.window, tokens - i * config.window),
            i > 0,
            answers,
            i < last and (not answers or config.sleep_on == "all"),
        )
        for i, answers in enumerate(asked[: last + 1])
    )
    return sum(count * _window_flops(model, schedule, times, *kind) for kind, count in kinds.items())


def _window_flops(
    model: SleepModel, schedule: list[Pass], times: Times, tokens: int, follows: bool, awake: bool, asleep: bool
) -> int:
    kept = model.config.window - 1 if follows and model.config.eviction == "sliding" else 0
    total = _pass_flops(model, range(len(model.stack)), tokens, kept, times) if awake else 0
    if not asleep:
        return total
    for i, part in enumerate(schedule):
        if i == 0 and awake:  # the waking pass was the first one
            continue
        begins = i <= int(model.config.reads_first)
        total += _pass_flops(model, part.whole, tokens, 0 if i else kept, times, begins)
        if part.written is not None:
            total += times(part.written, begins) * model.stack[part.written].mixer.write_flops(tokens)
    return total


def _pass_flops(
    model: SleepModel, blocks: Iterable[int], tokens: int, kept: int, times: Times, from_tokens: bool = True
) -> int:
    return sum(times(i, from_tokens) * model.stack[i].flops(tokens, kept) for i in blocks)
