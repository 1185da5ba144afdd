"""Inference on a stream of tokens: a session reads awake, and sleeps whenever its window is full."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from datagen.checks import require, require_whole
from sleepmodel.accounting import fingerprint
from sleepmodel.halting import Halting, refine_until_halted
from sleepmodel.inference.memory import Memory
from sleepmodel.inference.sampling import NONE, choose_tokens
from sleepmodel.inference.stopwatch import Stopwatch
from sleepmodel.mixers.base import FAR, PAD, Span
from sleepmodel.model import SleepModel, States
from sleepmodel.modes import in_mode
from sleepmodel.states import map_tensors, merge_rows, named_tensors, select_rows
from sleepmodel.transfers import moved


class SessionState(NamedTuple):
    """Everything that a session knows. B is the number of rows, J the number of tokens in the fullest window.

    states: of the blocks; before: of the blocks after the loop, at the start of the window;
    h: [B, J, d_model], the vectors of the window's tokens from which a sleep goes on (the first result of
    `SleepModel.wake`); place: int64 [B, J], their positions in the window (see Span);
    filled, skipped, read, slept: int64 [B, 1], tokens in the window, positions of it that left pads take, tokens read
    in all, and sleeps;
    logits: [B, vocab], after the last token; zeros before the first.

    The integers from `place` to `slept` are on the CPU, where a session decides what to do; the rest is on the model's
    device. The host waits for a GPU only where it needs a token.
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
        weight = model.embed.weight
        states, logits = model.initial_states(batch), weight.new_zeros(batch, model.config.vocab_size)
        zero = torch.zeros(batch, 1, dtype=torch.int64, device="cpu")
        h = weight.new_zeros(batch, 0, weight.shape[1])
        return cls(states, states[model.loop[1] :], h, zero[:, :0], zero, zero, zero, zero, logits)


class Session:
    """Batched inference with sleep (paper, Algorithm 1).

    A session sleeps on every full window, including the tokens that it has generated. However the tokens are split into
    reads, the logits equal those of the training forward: with `config.sleep_on = "all"` everywhere, with "prompts" up
    to the end of the first window that holds answers, on which training does not sleep.

    batch_size: number of rows; None is that of the memory, or 1 without one. memory: a memory of this model, to resume
    from. sleep_passes: N; None is the model's. halting: ends the sleep of each row when a further pass changes at most
    `change`, so that N is the most that it makes; None: all rows make N. Raises ValueError if one of them does not fit.

    The attribute `passes`, int64 [B], counts the passes of each row's sleeps. A fork begins with those of its rows. A
    memory does not hold them: after resuming from one, `sleeps` includes those of earlier sessions, and `passes` does
    not.
    """

    def __init__(
        self,
        model: SleepModel,
        batch_size: int | None = None,
        memory: Memory | None = None,
        sleep_passes: int | None = None,
        halting: Halting | None = None,
    ) -> None:
        if batch_size is not None:
            require_whole("batch_size", batch_size, 0)
        self.model, self.halting, self.device = model, halting, model.embed.weight.device
        self._asleep = Stopwatch(self.device)
        self._sleep_passes = model.checked_passes(sleep_passes)
        if halting is not None:
            halting.check(model, self._sleep_passes)
        self._state = (
            SessionState.empty(model, 1 if batch_size is None else batch_size)
            if memory is None
            else _restored_state(memory, model)
        )
        if batch_size is not None and batch_size != self.batch_size:
            raise ValueError(
                f"batch_size = {batch_size}: must be {self.batch_size}, the rows of the memory; leave it out"
            )
        self.passes = torch.zeros_like(self.filled)

    @property
    def seconds_asleep(self) -> float:
        """Seconds that all sleeps of this session have taken so far. On a GPU it waits for the last of them."""
        return self._asleep.seconds

    @property
    def sleep_passes(self) -> int:
        """N, the passes of each sleep, with `halting` at most. It can be set at any time, with `halting` also to fewer
        passes than the rule compares: only the N of the constructor must leave the rule an effect."""
        return self._sleep_passes

    @sleep_passes.setter
    def sleep_passes(self, passes: int) -> None:
        self._sleep_passes = self.model.checked_passes(passes)

    @property
    def batch_size(self) -> int:
        """Number of rows."""
        return len(self._state.filled)

    @property
    def filled(self) -> Tensor:
        """Number of tokens in each row's window, int64 [B]."""
        return self._state.filled[:, 0].clone()

    @property
    def sleeps(self) -> Tensor:
        """Number of sleeps of each row so far, int64 [B], those before a memory or a fork included."""
        return self._state.slept[:, 0].clone()

    @property
    def kv_tokens(self) -> int:
        """Number of tokens in the KV caches of the longest row, at most L."""
        caches = [leaf for name, leaf in named_tensors(self._state.states, "states") if name.endswith(".place")]
        return max((int((leaf > FAR // 2).sum(1).max()) for leaf in caches if leaf.numel()), default=0)

    @property
    def memory(self) -> Memory:
        """A snapshot of the session, which later reads do not change. It is of the model's weights as they are now,
        which takes a hash of all of them."""
        tensors = {name: tensor.clone() for name, tensor in named_tensors(self._state, "state")}
        return Memory(tensors, fingerprint(self.model))

    def fork(self, copies: int = 1) -> Session:
        """An independent session with `copies` copies of each row. The copies of row r are the rows r * copies to
        r * copies + copies - 1."""
        require_whole("copies", copies, 1)
        session = Session(self.model, sleep_passes=self.sleep_passes)
        rows = torch.arange(self.batch_size, device="cpu").repeat_interleave(copies)
        on_device = rows.to(self.device)

        def copied(leaf: Tensor) -> Tensor:
            whole = leaf.expand(self.batch_size, *leaf.shape[1:])
            return whole.index_select(0, rows if leaf.device == rows.device else on_device)

        session._state = map_tensors(copied, self._state)
        session.halting, session.passes = self.halting, self.passes[rows]
        return session

    @torch.no_grad()
    def read(self, tokens: Tensor, last: bool = False) -> Tensor:
        """Read tokens, int64 [B, T], and sleep whenever a row's window is full.

        Negative tokens are pads, for rows with fewer tokens than others. Pads are skipped, except that pads before a
        row's first token, in this read or an earlier one, take positions of its first window, as in training.

        Returns the logits after each token, [B, T, vocab], zeros at pads. With `last`, returns only those after each
        row's last token so far, [B, vocab], zeros before its first. Raises ValueError for other shapes or dtypes,
        tokens outside the vocabulary, and rows that become longer than max_positions.
        """
        require(isinstance(tokens, Tensor), "tokens", tokens, f"an int64 tensor [{self.batch_size}, T]")
        tokens = tokens.cpu()
        self._check(tokens)
        # if a sleep was interrupted, its window is still full
        self._sleep_where(self._room()[:, 0] == 0, self.sleep_passes)
        real = tokens >= 0
        pads = (real.cumsum(1) == 0).sum(1, keepdim=True).masked_fill(self._state.read > 0, 0)
        self._state = self._state._replace(skipped=(self._state.skipped + pads) % self.model.config.window)
        # move the tokens of each row before its pads
        order = (~real).to(torch.int8).argsort(dim=1, stable=True)
        count, done = real.sum(1, keepdim=True), torch.zeros_like(self._state.filled)
        packed = tokens.gather(1, order)
        out = [] if last else [self._state.h.new_zeros(*tokens.shape, self.model.config.vocab_size)]
        while (done < count).any():
            part = torch.minimum(self._room(), count - done)
            at = done + torch.arange(int(part.max()), device="cpu")
            reading = at < done + part
            piece = packed.gather(1, at.clamp(max=tokens.shape[1] - 1)).masked_fill(~reading, PAD)
            logits = self._wake(piece, reading, last)
            if out:
                row, column = reading.nonzero(as_tuple=True)
                indices = row * tokens.shape[1] + order[row, at[row, column]], row * piece.shape[1] + column
                found, of = moved(indices, self.device)
                out[0].flatten(0, 1).index_copy_(0, found, logits.flatten(0, 1)[of].to(out[0].dtype))
            done = done + part
            self._sleep_where(self._room()[:, 0] == 0, self.sleep_passes)
        return out[0] if out else self._state.logits.clone()

    @torch.no_grad()
    def sleep(self, passes: int | None = None) -> None:
        """Sleep now, on the tokens in the window; rows with an empty window do not sleep. passes: N, with `halting` at
        most, and any number, as for `sleep_passes`; None is `sleep_passes`."""
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
        """Generate n tokens, int64 [B, n], and read them. After its first token of `stop`, a row has pads (-1).

        temperature: 0 takes the most likely token; above 0 tokens are sampled. top_p: sample from the fewest tokens
        whose probabilities sum to top_p (nucleus sampling). seed: the same seed gives the same rows the same tokens;
        None uses torch's global generator. Raises ValueError if a row has not read a token yet, if its length would
        exceed max_positions, if n, temperature or top_p is out of range, or, when the tokens before have been read, if
        a row's logits are not finite.
        """
        require_whole("n", n, 0)
        require(temperature >= 0, "temperature", temperature, "at least 0")
        require(0 < top_p <= 1, "top_p", top_p, "in (0, 1]")
        if (self._state.read == 0).any():
            row = int((self._state.read[:, 0] == 0).nonzero()[0])
            raise ValueError(f"row {row} has read no token: read at least one before generate")
        self._check_length(torch.full_like(self._state.read, n))
        generator = None if seed is None else torch.Generator(self.device).manual_seed(seed)
        ends, stopped = torch.tensor(stop, dtype=torch.int64, device="cpu"), torch.zeros_like(self.filled) > 0
        generated = []
        for _ in range(n):
            token = choose_tokens(self._state.logits.double(), temperature, top_p, generator).cpu()
            self._check_chosen(token, stopped)
            token = token.masked_fill(stopped, PAD)
            generated.append(token)
            self.read(token[:, None], last=True)
            stopped |= torch.isin(token, ends)
            if stopped.all():
                break
        found = torch.stack(generated, 1) if generated else self.filled.new_zeros(self.batch_size, 0)
        return moved(F.pad(found, (0, n - found.shape[1]), value=PAD), self.device)

    def _check_chosen(self, token: Tensor, stopped: Tensor) -> None:
        lost = (token == NONE) & ~stopped
        if lost.any():
            row = int(lost.nonzero()[0])
            raise ValueError(
                f"row {row}: after {int(self._state.read[row])} tokens its logits are not finite, so that there is no "
                f"token to choose; begin a new session, or if that gives the same, look for weights of the model that "
                f"are not finite or too large for {self.model.embed.weight.dtype}"
            )

    def _check(self, tokens: Tensor) -> None:
        size = self.model.config.vocab_size
        if tokens.dim() != 2 or len(tokens) != self.batch_size or tokens.dtype != torch.int64:
            shape = f"{tokens.dtype} {list(tokens.shape)}"
            raise ValueError(
                f"tokens: must be int64 [{self.batch_size}, T], one row for each of the session, is {shape}"
            )
        if tokens.numel() and int(tokens.max()) >= size:
            row, column = map(int, (tokens >= size).nonzero()[0])
            raise ValueError(f"tokens[{row}, {column}] = {int(tokens[row, column])}: must be below vocab_size = {size}")
        self._check_length((tokens >= 0).sum(1, keepdim=True))

    def _check_length(self, more: Tensor) -> None:
        most, length = self.model.config.max_positions, self._state.read + more
        if most is not None and (length > most).any():
            raise ValueError(
                f"row length {int(length.max())} with these tokens: must be at most max_positions = {most}"
            )

    def _room(self) -> Tensor:
        """The number of tokens that still fit in each row's window, int64 [B, 1]."""
        return self.model.config.window - self._state.filled - self._state.skipped

    def _wake(self, piece: Tensor, reading: Tensor, last: bool) -> Tensor:
        """Read the tokens of a piece [B, T] where `reading` is true; they must fit in every row's window. Returns the
        logits after each, [B, T, vocab], or with `last` those after each row's last token, [B, vocab]."""
        model, state, whole = self.model, self._state, bool(reading.all())
        count = reading.sum(1, keepdim=True)
        filled = state.filled + count
        longest = int(filled.max())
        span = Span.of(reading, state.filled, state.read - state.filled)
        span = span._replace(real=None) if whole else span
        place, order = torch.cat((state.place, span.place), 1), None
        if not whole:
            place, order = place.sort(dim=1, stable=True)
        end = torch.arange(len(piece), device="cpu") * piece.shape[1] + (count[:, 0] - 1).clamp(min=0)
        piece, span, order, end, reads = moved((piece, span, order, end, count > 0), self.device)
        with in_mode(model, training=False):
            begin, h, states = model.wake(model.embedded(piece, span), state.states, span)
            logits = model.readout(h.flatten(0, 1)[end] if last else h)
        kept = torch.cat((state.h, begin), 1)
        if order is not None:
            kept = kept.gather(1, order[..., None].expand(-1, -1, kept.shape[2]))
        newest = torch.where(reads, logits if last else logits.flatten(0, 1)[end], state.logits)
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
        model, state = self.model, self._state
        rows = None if wanted.all() else wanted.nonzero()[:, 0]
        counts = state.place, state.filled, state.read
        place, filled, read = counts if rows is None else select_rows(counts, rows)
        longest = int(filled.max())
        place, start = place[:, -longest:], read - filled
        span = Span(place, place >= 0, start)
        if (filled == longest).all():
            span = Span.whole(longest, place.device, start)
        span, chosen = moved((span, rows), self.device)
        with self._asleep.running(), in_mode(model, training=False):
            every = state.states, state.before, state.h
            states, woken, h = every if chosen is None else select_rows(every, chosen)
            before = (*states[: model.loop[1]], *woken)
            window = h[:, -longest:], states, before, span, passes
            if self.halting is None:
                states, made = model.refine(*window)[0], torch.full_like(filled[:, 0], passes)
            else:
                states, halted = refine_until_halted(model, *window, self.halting)
                made = halted.cpu()
            states, before, h = merge_rows(every, (states, states[model.loop[1] :], h[:, :0]), chosen)
        self._state = state._replace(
            states=states,
            before=before,
            h=h,
            place=merge_rows(state.place, place[:, :0], rows),
            filled=state.filled.masked_fill(wanted[:, None], 0),
            skipped=state.skipped.masked_fill(wanted[:, None], 0),
            slept=state.slept + wanted[:, None],
        )
        self.passes = self.passes.masked_scatter(wanted, self.passes[wanted] + made)


def _restored_state(memory: Memory, model: SleepModel) -> SessionState:
    """The state in a memory. Raises ValueError if it belongs to another model, or if no session can have written it."""
    if memory.fingerprint != fingerprint(model):
        raise ValueError(
            f"this memory is of model {memory.fingerprint}, not of this one, {fingerprint(model)}: fast weights are "
            "valid only for the model that wrote them; load that model"
        )
    empty = SessionState.empty(model, 1)
    wanted = dict(named_tensors(empty, "state"))
    if set(wanted) != set(memory.tensors):
        raise ValueError(
            f"this memory lacks or should not have {sorted(set(wanted) ^ set(memory.tensors))}; take another copy of it"
        )
    rows = memory.batch_size if memory.tensors["state.filled"].dim() else 0
    lengths: dict[str, int] = {}
    for name, leaf in wanted.items():
        found = memory.tensors[name]
        # rows may share their positions, if these are equal, and a cache without tokens
        alike = name.endswith(".place") or not found.numel()
        # under autocast, keys and values have its dtype
        low = found.dtype in (torch.bfloat16, torch.float16) and leaf.is_floating_point()
        typed = found.dtype == leaf.dtype or low
        fits = found.dim() == leaf.dim() and typed and len(found) in ({1, rows} if alike else {rows})
        for size, fixed in zip(found.shape[1:], leaf.shape[1:], strict=False):
            # a dimension that is 0 in a new session counts tokens, equally in all tensors of a state
            fits &= size == (fixed or lengths.setdefault(name.rpartition(".")[0], size))
        if not fits or not found.isfinite().all():
            shape = f"{found.dtype} {list(found.shape[:9])}"
            raise ValueError(
                f"this memory's {name} has the wrong shape or dtype ({shape}) or is not finite; take another copy of it"
            )
    tensors = iter(memory.tensors[name].to(leaf) for name, leaf in wanted.items())
    state: SessionState = map_tensors(lambda leaf: next(tensors), empty)
    counts = (state.filled, state.skipped, state.read, state.slept)
    window = model.config.window
    wrong = any(len(count) != rows or (count < 0).any() for count in counts) or not rows
    if (
        wrong
        or (state.filled + state.skipped > window).any()
        or (state.filled > state.read.clamp(max=lengths["state"])).any()
    ):
        raise ValueError(
            "this memory's token counts do not fit its model's window or its tensors; take another copy of it"
        )
    return state
