"""A model that reads on and on: awake token by token, asleep whenever its window is full.

`python -m sleepmodel.session MODEL` is a small terminal program around it (terminal.py).
"""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sleepmodel.layers import FAR, PAD, Span
from sleepmodel.model import SleepModel, States
from sleepmodel.saving import read_tensors, write_tensors
from sleepmodel.tree import map_tensors, merge_rows, named_tensors, select_rows

FORMAT, VERSION = "sleepmodel-memory", "1"
MIN_TEMPERATURE = 1e-6  # below it nothing but the likeliest token is left


class Mind(NamedTuple):
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
    def empty(cls, model: SleepModel, batch: int) -> Mind:
        weight = model.lm_head.weight
        states, logits = model.initial_states(batch), weight.new_zeros(batch, model.config.vocab_size)
        zero = torch.zeros(batch, 1, dtype=torch.int64, device=weight.device)
        h = weight.new_zeros(batch, 0, weight.shape[1])
        return cls(states, states[model.loop[1] :], h, zero[:, :0], zero, zero, zero, zero, logits)


@dataclass(frozen=True)
class Memory:
    """What a session knows, apart from its model: resume it anywhere with `model.session(memory=...)`.

    tensors: by name; right after a sleep under hard eviction almost all of it is fast weights;
    fingerprint: of the model (SleepModel.fingerprint), without which it means nothing.
    """

    tensors: dict[str, Tensor]
    fingerprint: str

    @property
    def batch_size(self) -> int:
        """Rows."""
        return len(self.tensors["mind.filled"])

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.nbytes for tensor in self.tensors.values())

    def save(self, path: str | Path) -> None:
        """Write a safetensors file; it appears whole or not at all."""
        write_tensors(Path(path), self.tensors, {"format": FORMAT, "version": VERSION, "model": self.fingerprint})

    @classmethod
    def load(cls, path: str | Path) -> Memory:
        """Read a file that `save` wrote. Raises FileNotFoundError where there is none, ValueError where it is damaged,
        was changed since, or is of another kind or version. The sum guards against accidents, not against forgers."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no memory here; give a file that Memory.save wrote")
        facts, tensors = read_tensors(Path(path))
        if facts.get("format") != FORMAT:
            raise ValueError(f"{path}: a safetensors file, but no memory; give a file that Memory.save wrote")
        if facts.get("version") != VERSION:
            version = facts.get("version")
            raise ValueError(
                f"{path}: memory of version {version}, this code reads {VERSION}; use the code that wrote it"
            )
        return cls(tensors, facts.get("model", ""))


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
        self._mind = (
            Mind.empty(model, 1 if batch_size is None else batch_size) if memory is None else _mind_of(memory, model)
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
        return len(self._mind.filled)

    @property
    def filled(self) -> Tensor:
        """Tokens in each row's window, int64 [B]."""
        return self._mind.filled[:, 0]

    @property
    def sleeps(self) -> Tensor:
        """Sleeps of each row so far, int64 [B]."""
        return self._mind.slept[:, 0]

    @property
    def kv_tokens(self) -> int:
        """Tokens that the KV caches keep of the longest row, at most L."""
        caches = [leaf for name, leaf in named_tensors(self._mind.states, "states") if name.endswith(".place")]
        return max((int((leaf > FAR // 2).sum(1).max()) for leaf in caches if leaf.numel()), default=0)

    @property
    def memory(self) -> Memory:
        """A snapshot, which later reads do not change."""
        tensors = {name: tensor.clone() for name, tensor in named_tensors(self._mind, "mind")}
        return Memory(tensors, self._fingerprint)

    @functools.cached_property
    def _fingerprint(self) -> str:
        return self.model.fingerprint()

    def fork(self, copies: int = 1) -> Session:
        """An independent session that knows what this one knows, each row `copies` times: row r's are
        r * copies ... r * copies + copies - 1."""
        session = Session(self.model, 0, sleep_passes=self.sleep_passes)
        rows = torch.arange(self.batch_size).repeat_interleave(copies).to(self._mind.filled.device)
        session._mind = map_tensors(lambda leaf: leaf.expand(self.batch_size, *leaf.shape[1:])[rows], self._mind)
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
        tokens = tokens.to(self._mind.filled.device)
        real = tokens >= 0
        pads = (real.cumsum(1) == 0).sum(1, keepdim=True).masked_fill(self._mind.read > 0, 0)
        self._mind = self._mind._replace(skipped=(self._mind.skipped + pads) % self.model.config.window)
        # each row's own tokens first
        order = (~real).to(torch.int8).argsort(dim=1, stable=True)
        left, taken = real.sum(1, keepdim=True), torch.zeros_like(self._mind.filled)
        packed = tokens.gather(1, order)
        out = [] if last else [self._mind.h.new_zeros(*tokens.shape, self.model.config.vocab_size)]
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
        return out[0] if out else self._mind.logits

    @torch.no_grad()
    def sleep(self, passes: int | None = None) -> None:
        """Sleep now, on what is in the window; a row whose window is empty has nothing to sleep on."""
        passes = self.sleep_passes if passes is None else self.model.checked_passes(passes)
        self._sleep_where(self._mind.filled[:, 0] > 0, passes)

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
        if (self._mind.read == 0).any():
            row = int((self._mind.read[:, 0] == 0).nonzero()[0])
            raise ValueError(f"row {row} has nothing to go on from: read at least one token before generate")
        self._check_length(torch.full_like(self._mind.read, n))
        device = self._mind.filled.device
        generator = None if seed is None else torch.Generator(device).manual_seed(seed)
        ends, stopped = torch.tensor(stop, dtype=torch.int64, device=device), torch.zeros_like(self.filled) > 0
        said = []
        for _ in range(n):
            token = _choose(self._mind.logits.double(), temperature, top_p, generator).masked_fill(stopped, PAD)
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
        self._check_length((tokens >= 0).sum(1, keepdim=True).to(self._mind.read.device))

    def _check_length(self, more: Tensor) -> None:
        most, length = self.model.config.max_positions, self._mind.read + more
        if most is not None and (length > most).any():
            raise ValueError(
                f"row length {int(length.max())} with these tokens: must be at most max_positions = {most}"
            )

    def _room(self) -> Tensor:
        """Tokens that each row's window still takes, int64 [B, 1]."""
        return self.model.config.window - self._mind.filled - self._mind.skipped

    def _wake(self, piece: Tensor, reading: Tensor, last: bool) -> Tensor:
        """Read a piece [B, T] that ends inside every row's window; its logits, or those of the last tokens alone."""
        model, mind = self.model, self._mind
        count = reading.sum(1, keepdim=True)
        span = Span.of(reading, mind.filled)
        if reading.all():
            span = span._replace(real=None)
        h = model.embedded(piece, mind.read - mind.filled, span)
        looped, h, states = model.wake(h, mind.states, span)
        kept, place = torch.cat((mind.h, looped), 1), torch.cat((mind.place, span.place), 1)
        if span.real is not None:
            place, order = place.sort(dim=1, stable=True)
            kept = kept.gather(1, order[..., None].expand(-1, -1, kept.shape[2]))
        filled = mind.filled + count
        longest = int(filled.max())
        rows, end = torch.arange(len(piece), device=piece.device), (count[:, 0] - 1).clamp(min=0)
        logits = model.readout(h[rows, end] if last else h)
        newest = torch.where(count > 0, logits if last else logits[rows, end], mind.logits)
        self._mind = mind._replace(
            states=states,
            h=kept[:, -longest:],
            place=place[:, -longest:],
            filled=filled,
            read=mind.read + count,
            logits=newest.to(mind.logits.dtype),
        )
        return logits

    def _sleep_where(self, wanted: Tensor, passes: int) -> None:
        if not wanted.any():
            return
        start = time.perf_counter()
        model, mind = self.model, self._mind
        rows = None if wanted.all() else wanted.nonzero()[:, 0]
        part = mind if rows is None else select_rows(mind, rows)
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
        self._mind = merge_rows(mind, empty, rows)
        self.seconds_asleep += time.perf_counter() - start


def _choose(logits: Tensor, temperature: float, top_p: float, generator: torch.Generator | None) -> Tensor:
    """One token of each row of logits [B, vocab]: int64 [B]."""
    if temperature == 0:
        return logits.argmax(-1)
    scaled = (logits - logits.amax(-1, keepdim=True)) / max(temperature, MIN_TEMPERATURE)
    probability, token = scaled.softmax(-1).sort(-1, descending=True)
    # a token is kept as long as those before it hold less than top_p, the likeliest one always
    kept = probability.cumsum(-1) - probability < top_p
    kept[:, 0] = True
    probability = probability * kept
    return token.gather(1, torch.multinomial(probability, 1, generator=generator))[:, 0]


def _mind_of(memory: Memory, model: SleepModel) -> Mind:
    """The mind that a memory holds; ValueError where it is not this model's, or not what a session can have written."""
    if memory.fingerprint != model.fingerprint():
        raise ValueError(
            f"this memory is of model {memory.fingerprint}, not of this one, {model.fingerprint()}: fast weights mean "
            "something to the model alone that wrote them; load the model that they came from"
        )
    empty = Mind.empty(model, 1)
    wanted = dict(named_tensors(empty, "mind"))
    if set(wanted) != set(memory.tensors):
        raise ValueError(f"this memory lacks {sorted(set(wanted) ^ set(memory.tensors))}; take another copy of it")
    rows = memory.batch_size if memory.tensors["mind.filled"].dim() else 0
    lengths: dict[str, int] = {}
    for name, leaf in wanted.items():
        found = memory.tensors[name]
        fits = found.dim() == leaf.dim() and found.dtype == leaf.dtype and len(found) in {1, rows}
        for size, fixed in zip(found.shape[1:], leaf.shape[1:], strict=False):
            # an axis that is empty in the beginning holds tokens: as many as all of that state
            fits &= size == (fixed or lengths.setdefault(name.rpartition(".")[0], size))
        if not fits or not found.isfinite().all():
            shape = f"{found.dtype} {list(found.shape[:9])}"
            raise ValueError(f"this memory's {name} is {shape}, or not finite; take another copy of it")
    tensors = iter(memory.tensors[name].to(model.lm_head.weight.device) for name in wanted)
    mind: Mind = map_tensors(lambda leaf: next(tensors), empty)
    counts = (mind.filled, mind.skipped, mind.read, mind.slept)
    window = model.config.window
    wrong = any(len(count) != rows or (count < 0).any() for count in counts) or not rows
    if (
        wrong
        or (mind.filled + mind.skipped > window).any()
        or (mind.filled > mind.read.clamp(max=lengths["mind"])).any()
    ):
        raise ValueError("this memory's counts of tokens are not those of a session; take another copy of it")
    return mind


if __name__ == "__main__":
    from sleepmodel.terminal import main

    main()
