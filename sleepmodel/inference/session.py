"""A model that reads on and on: awake token by token, asleep whenever its window is full."""

from __future__ import annotations

import functools
import time
from typing import NamedTuple

import torch
from torch import Tensor

from sleepmodel.accounting import fingerprint
from sleepmodel.inference.memory import Memory
from sleepmodel.inference.sampling import _choose
from sleepmodel.mixers.base import FAR, PAD, Span
from sleepmodel.model import SleepModel, States
from sleepmodel.states import map_tensors, merge_rows, named_tensors, select_rows


class SessionState(NamedTuple):
    """All that a session knows, by row.

    states: of the blocks; before: those of the blocks behind the loop, as the window began;
    h, place: the window's tokens as the loop left them, [B, J, d], and where they stand (Span), [B, J];
    filled: tokens in the window; skipped: its places that a row's left pads took; read: tokens in all; slept: sleeps,
    each int64 [B, 1];
    logits: [B, vocab], of the last token; zeros before the first.
    """

    states: States
    before: States
    h: Tensor
    place: Tensor
    filled: Tensor
    skipped: Tensor
    read: Tensor
    slept: Tensor
    logits: Tensor

    @classmethod
    def empty(cls, model: SleepModel, batch: int) -> SessionState:
        weight = model.lm_head.weight
        states, logits = model.initial_states(batch), weight.new_zeros(batch, model.config.vocab_size)
        zero = torch.zeros(batch, 1, dtype=torch.int64, device=weight.device)
        h = weight.new_zeros(batch, 0, weight.shape[1])
        return cls(states, states[model.loop[1] :], h, zero[:, :0], zero, zero, zero, zero, logits)


class Session:
    """Batched inference. Logits equal those of the training forward, up to the end of the first window that holds
    answers, for every split of the tokens into reads; every full window is slept on, also what the model said itself.

    batch_size: rows; None is the memory's, or one. seconds_asleep: time spent on sleeps, all of them together.
    """

    def __init__(
        self,
        model: SleepModel,
        batch_size: int | None = None,
        memory: Memory | None = None,
        sleep_passes: int | None = None,
    ) -> None:
        self.model, self.seconds_asleep = model, 0.0
        self._sleep_passes = model.checked_passes(sleep_passes)
        self._state = (
            SessionState.empty(model, 1 if batch_size is None else batch_size)
            if memory is None
            else _restored_state(memory, model)
        )
        if batch_size is not None and batch_size != self.batch_size:
            raise ValueError(f"batch_size = {batch_size}: must be {self.batch_size}, the memory's rows, or be left out")

    @property
    def sleep_passes(self) -> int:
        """N; it may be set at any time."""
        return self._sleep_passes

    @sleep_passes.setter
    def sleep_passes(self, passes: int) -> None:
        self._sleep_passes = self.model.checked_passes(passes)

    @property
    def batch_size(self) -> int:
        """Rows."""
        return len(self._state.filled)

    @property
    def filled(self) -> Tensor:
        """Tokens in each row's window, int64 [B]."""
        return self._state.filled[:, 0]

    @property
    def sleeps(self) -> Tensor:
        """Sleeps of each row so far, int64 [B]."""
        return self._state.slept[:, 0]

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV caches keep of the longest row, at most L."""
        caches = [leaf for name, leaf in named_tensors(self._state.states, "states") if name.endswith(".place")]
        return max((int((leaf > FAR // 2).sum(1).max()) for leaf in caches if leaf.numel()), default=0)

    @property
    def memory(self) -> Memory:
        """A snapshot, which later reads do not change."""
        tensors = {name: tensor.clone() for name, tensor in named_tensors(self._state, "state")}
        return Memory(tensors, self._fingerprint)

    @functools.cached_property
    def _fingerprint(self) -> str:
        return fingerprint(self.model)

    def fork(self, copies: int = 1) -> Session:
        """An independent session that knows what this one knows, each row `copies` times: row r's are
        r * copies ... r * copies + copies - 1."""
        session = Session(self.model, 0, sleep_passes=self.sleep_passes)
        rows = torch.arange(self.batch_size).repeat_interleave(copies).to(self._state.filled.device)
        session._state = map_tensors(lambda leaf: leaf.expand(self.batch_size, *leaf.shape[1:])[rows], self._state)
        return session

    @torch.no_grad()
    def read(self, tokens: Tensor, last: bool = False) -> Tensor:
        """Read int64 [B, T], negative where a row has fewer tokens than others: such pads are passed over, but those
        before a row's first token, of this read and of earlier ones, take up places of its first window, as in
        training.

        Returns the logits of what follows each token, [B, T, vocab], zeros at pads; with `last` those of each row's
        last token so far alone, [B, vocab], zeros before the first. Raises ValueError on other shapes, tokens that are
        not in the vocabulary, and rows that become longer than max_positions.
        """
        self._check(tokens)
        # an interrupted sleep leaves a full window
        self._sleep_where(self._room()[:, 0] == 0, self.sleep_passes)
        tokens = tokens.to(self._state.filled.device)
        real = tokens >= 0
        pads = (real.cumsum(1) == 0).sum(1, keepdim=True).masked_fill(self._state.read > 0, 0)
        self._state = self._state._replace(skipped=(self._state.skipped + pads) % self.model.config.window)
        # each row's own tokens first
        order = (~real).to(torch.int8).argsort(dim=1, stable=True)
        left, taken = real.sum(1, keepdim=True), torch.zeros_like(self._state.filled)
        packed = tokens.gather(1, order)
        out = [] if last else [self._state.h.new_zeros(*tokens.shape, self.model.config.vocab_size)]
        while (left > taken).any():
            take = torch.minimum(self._room(), left - taken)
            at = taken + torch.arange(int(take.max()), device=tokens.device)
            reading = at < taken + take
            piece = packed.gather(1, at.clamp(max=tokens.shape[1] - 1)).masked_fill(~reading, PAD)
            logits = self._wake(piece, reading, last)
            if out:
                row, column = reading.nonzero(as_tuple=True)
                out[0][row, order[row, at[row, column]]] = logits[row, column].to(out[0].dtype)
            taken = taken + take
            self._sleep_where(self._room()[:, 0] == 0, self.sleep_passes)
        return out[0] if out else self._state.logits

    @torch.no_grad()
    def sleep(self, passes: int | None = None) -> None:
        """Sleep now, on what is in the window; a row whose window is empty has nothing to sleep on."""
        passes = self.sleep_passes if passes is None else self.model.checked_passes(passes)
        self._sleep_where(self._state.filled[:, 0] > 0, passes)

    @torch.no_grad()
    def generate(
        self,
        n: int,
        temperature: float = 0.0,
        top_p: float = 1.0,
        stop: tuple[int, ...] = (),
        seed: int | None = None,
    ) -> Tensor:
        """Say and read n tokens: int64 [B, n], with pads (-1) behind a row's first token of `stop`.

        temperature 0 takes the likeliest token; above 0 they are sampled, from the fewest tokens that hold `top_p` of
        the probability. The same seed gives the same tokens to the same rows; None takes torch's global generator.
        Raises ValueError where nothing has been read yet, where n tokens are too many for max_positions, or on n,
        temperature or top_p out of range.
        """
        if n < 0 or not temperature >= 0 or not 0 < top_p <= 1:
            given = f"n = {n}, temperature = {temperature}, top_p = {top_p}"
            raise ValueError(f"{given}: must be at least 0, at least 0, and in (0, 1]")
        if (self._state.read == 0).any():
            row = int((self._state.read[:, 0] == 0).nonzero()[0])
            raise ValueError(f"row {row} has nothing to go on from: read at least one token before generate")
        self._check_length(torch.full_like(self._state.read, n))
        device = self._state.filled.device
        generator = None if seed is None else torch.Generator(device).manual_seed(seed)
        ends, stopped = torch.tensor(stop, dtype=torch.int64, device=device), torch.zeros_like(self.filled) > 0
        said = []
        for _ in range(n):
            token = _choose(self._state.logits.double(), temperature, top_p, generator).masked_fill(stopped, PAD)
            said.append(token)
            self.read(token[:, None], last=True)
            stopped |= torch.isin(token, ends)
        return torch.stack(said, 1) if said else self.filled.new_zeros(self.batch_size, 0)

    def _check(self, tokens: Tensor) -> None:
        size = self.model.config.vocab_size
        if tokens.dim() != 2 or len(tokens) != self.batch_size or tokens.dtype != torch.int64:
            shape = f"{tokens.dtype} {list(tokens.shape)}"
            raise ValueError(f"tokens: must be int64 [{self.batch_size}, T], one row each of the session, is {shape}")
        if tokens.numel() and int(tokens.max()) >= size:
            row, column = map(int, (tokens >= size).nonzero()[0])
            raise ValueError(f"tokens[{row}, {column}] = {int(tokens[row, column])}: must be below vocab_size = {size}")
        self._check_length((tokens >= 0).sum(1, keepdim=True).to(self._state.read.device))

    def _check_length(self, more: Tensor) -> None:
        most, length = self.model.config.max_positions, self._state.read + more
        if most is not None and (length > most).any():
            raise ValueError(
                f"row length {int(length.max())} with these tokens: must be at most max_positions = {most}"
            )

    def _room(self) -> Tensor:
        """Tokens that each row's window still takes, int64 [B, 1]."""
        return self.model.config.window - self._state.filled - self._state.skipped

    def _wake(self, piece: Tensor, reading: Tensor, last: bool) -> Tensor:
        """Read a piece [B, T] that ends inside every row's window; its logits, or those of the last tokens alone."""
        model, state = self.model, self._state
        count = reading.sum(1, keepdim=True)
        span = Span.of(reading, state.filled)
        if reading.all():
            span = span._replace(real=None)
        h = model.embedded(piece, state.read - state.filled, span)
        looped, h, states = model.wake(h, state.states, span)
        kept, place = torch.cat((state.h, looped), 1), torch.cat((state.place, span.place), 1)
        if span.real is not None:
            place, order = place.sort(dim=1, stable=True)
            kept = kept.gather(1, order[..., None].expand(-1, -1, kept.shape[2]))
        filled = state.filled + count
        longest = int(filled.max())
        rows, end = torch.arange(len(piece), device=piece.device), (count[:, 0] - 1).clamp(min=0)
        logits = model.readout(h[rows, end] if last else h)
        newest = torch.where(count > 0, logits if last else logits[rows, end], state.logits)
        self._state = state._replace(
            states=states,
            h=kept[:, -longest:],
            place=place[:, -longest:],
            filled=filled,
            read=state.read + count,
            logits=newest.to(state.logits.dtype),
        )
        return logits

    def _sleep_where(self, wanted: Tensor, passes: int) -> None:
        if not wanted.any():
            return
        start = time.perf_counter()
        model, state = self.model, self._state
        rows = None if wanted.all() else wanted.nonzero()[:, 0]
        part = state if rows is None else select_rows(state, rows)
        longest = int(part.filled.max())
        span = Span(part.place[:, -longest:], part.place[:, -longest:] >= 0)
        if (part.filled == longest).all():
            span = Span.whole(longest, span.place.device)
        before = (*part.states[: model.loop[1]], *part.before)
        states = model.refine(part.h[:, -longest:], part.states, before, span, passes)
        empty = part._replace(
            states=states,
            before=states[model.loop[1] :],
            h=part.h[:, :0],
            place=part.place[:, :0],
            filled=torch.zeros_like(part.filled),
            skipped=torch.zeros_like(part.skipped),
            slept=part.slept + 1,
        )
        self._state = merge_rows(state, empty, rows)
        self.seconds_asleep += time.perf_counter() - start


def _restored_state(memory: Memory, model: SleepModel) -> SessionState:
    """The state in a memory. Raises ValueError where it belongs to another model, or no session can have written it."""
    if memory.fingerprint != fingerprint(model):
        raise ValueError(
            f"this memory is of model {memory.fingerprint}, not of this one, {fingerprint(model)}: fast weights mean "
            "something to the model alone that wrote them; load the model that they came from"
        )
    empty = SessionState.empty(model, 1)
    wanted = dict(named_tensors(empty, "state"))
    if set(wanted) != set(memory.tensors):
        raise ValueError(f"this memory lacks {sorted(set(wanted) ^ set(memory.tensors))}; take another copy of it")
    rows = memory.batch_size if memory.tensors["state.filled"].dim() else 0
    lengths: dict[str, int] = {}
    for name, leaf in wanted.items():
        found = memory.tensors[name]
        # rows that agree may share their places, and a cache without tokens
        alike = name.endswith(".place") or not found.numel()
        fits = (
            found.dim() == leaf.dim() and found.dtype == leaf.dtype and len(found) in ({1, rows} if alike else {rows})
        )
        for size, fixed in zip(found.shape[1:], leaf.shape[1:], strict=False):
            # an axis that is empty in the beginning holds tokens: as many as all of that state
            fits &= size == (fixed or lengths.setdefault(name.rpartition(".")[0], size))
        if not fits or not found.isfinite().all():
            shape = f"{found.dtype} {list(found.shape[:9])}"
            raise ValueError(f"this memory's {name} is {shape}, or not finite; take another copy of it")
    tensors = iter(memory.tensors[name].to(model.lm_head.weight.device) for name in wanted)
    state: SessionState = map_tensors(lambda leaf: next(tensors), empty)
    counts = (state.filled, state.skipped, state.read, state.slept)
    window = model.config.window
    wrong = any(len(count) != rows or (count < 0).any() for count in counts) or not rows
    if (
        wrong
        or (state.filled + state.skipped > window).any()
        or (state.filled > state.read.clamp(max=lengths["state"])).any()
    ):
        raise ValueError("this memory's counts of tokens are not those of a session; take another copy of it")
    return state
