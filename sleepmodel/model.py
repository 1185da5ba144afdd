"""The model and its sleep (paper, Algorithm 1): a stack of blocks that is run N times over every window to remember.

States are a tuple with the state of each block's mixer. What `evict` leaves of them is all that crosses a border.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sleepmodel.config import WIDEST, ModelConfig, Truncation, require
from sleepmodel.mixers import MIXERS
from sleepmodel.mixers.attention import Attention
from sleepmodel.mixers.base import Mixer, Span, zero_linear
from sleepmodel.states import map_tensors, merge_rows, named_tensors, select_rows

if TYPE_CHECKING:
    from sleepmodel.inference.memory import Memory
    from sleepmodel.inference.session import Session

States = tuple[Any, ...]
WHOLE = Truncation()
T = TypeVar("T")


class Output(NamedTuple):
    """loss: scalar, mean cross-entropy of the answer tokens in nats; logits: [answers, vocab], row-major order."""

    loss: Tensor
    logits: Tensor


class MLP(nn.Module):
    """Two matrices with a squared ReLU between them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.mlp_ratio * config.d_model, bias=False)
        self.down = zero_linear(config.mlp_ratio * config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, d] -> [B, T, d]."""
        return self.down(F.relu(self.up(x)).square())

    def flops(self, tokens: int) -> int:
        """Forward FLOPs of one row of `tokens` tokens."""
        return 4 * tokens * self.up.weight.numel()


class Block(nn.Module):
    """A sequence mixer and an MLP, each behind an RMSNorm and beside a residual."""

    def __init__(self, config: ModelConfig, mixer: str) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(config.d_model)
        self.mixer: Mixer = MIXERS[mixer](config)
        self.mlp_norm = nn.RMSNorm(config.d_model)
        self.mlp = MLP(config)

    def forward(self, h: Tensor, state: Any, span: Span) -> tuple[Tensor, Any]:
        """h: [B, T, d] -> (h, the mixer's state after these tokens)."""
        y, state = self.mixer(self.mixer_norm(h), state, span)
        h = h + y
        return h + self.mlp(self.mlp_norm(h)), state

    def write(self, h: Tensor, state: Any, span: Span) -> Any:
        """The state that `forward` would return, without the output that nobody reads."""
        return self.mixer.write(self.mixer_norm(h), state, span)


class SleepModel(nn.Module):
    """Embed, blocks, readout.

    `recompute` names what the backward computes again instead of keeping it: "nothing", each "pass" over the blocks,
    each "window", or "both" (a window, and in it pass by pass: the least memory). `truncation` says how far it goes.
    `vocabulary` is what each token stands for, where that is known.
    """

    def __init__(self, config: ModelConfig, recompute: str = "nothing", truncation: Truncation = WHOLE) -> None:
        super().__init__()
        self.config, self.recompute, self.truncation = config, recompute, truncation
        self.vocabulary: tuple[str, ...] | None = None
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        if config.max_positions is not None:
            self.position_embed = nn.Embedding(config.max_positions, config.d_model)
        self.blocks = nn.ModuleList(Block(config, mixer) for mixer in config.mixers)
        self.norm = nn.RMSNorm(config.d_model)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)

    @property
    def stack(self) -> list[Block]:
        """The blocks, first to last."""
        return cast(list[Block], list(self.blocks))

    def forward(self, tokens: Tensor, loss_mask: Tensor, sleep_passes: int | None = None) -> Output:
        """Algorithm 1: sleep on the windows without an answer, predict the answers in the others in one pass.

        tokens: int64 [B, T], negative at pads, which stand before or behind a row's own tokens and change nothing;
        loss_mask: bool [B, T], True at the answer tokens, each predicted from the one before;
        sleep_passes: N of this batch, None is the config's. Rows may answer in different windows; what lies behind a
        row's last answer is not read.
        Raises ValueError where an answer is first in its window (no output survives the border), where pads stand
        between tokens, where a token is not in the vocabulary, and where a row is too long or no row has an answer.
        """
        answers = self._check(tokens, loss_mask)
        passes = self.checked_passes(sleep_passes)
        padded = bool((tokens < 0).any())
        states, position = self.initial_states(len(tokens)), torch.zeros(1, 1, dtype=torch.int64, device=tokens.device)
        logits, places = [], []
        for i, piece in enumerate(tokens.split(self.config.window, 1)):
            span = Span.of(piece >= 0) if padded else Span.whole(piece.shape[1], piece.device)
            answering = answers[:, i]
            # a window of pads alone is none
            sleeping = ~answering & answers[:, i:].any(1) & (piece >= 0).any(1).to(answers.device)
            states, differentiated = self._truncated(states, answers, i)
            with torch.set_grad_enabled(torch.is_grad_enabled() and differentiated):
                h = self.embedded(piece, position, span)
                if sleeping.any():
                    rows, part = _rows(sleeping, (h, states, span))
                    states = merge_rows(states, self.sleep(*part, passes), rows)
                if answering.any():
                    rows, (h, read, part_span) = _rows(answering, (h, states, span))
                    h, read = self.run_blocks(h, read, part_span)
                    states = merge_rows(states, self.evict(read, part_span), rows)
                    start = i * self.config.window
                    mask = loss_mask[:, start : start + self.config.window]
                    row, column = (mask if rows is None else mask[rows]).nonzero(as_tuple=True)
                    logits.append(self.readout(h[row, column - 1]))
                    places.append((row if rows is None else rows[row]) * tokens.shape[1] + start + column)
            position = position + span.length()
        order = torch.cat(places).argsort()
        out = torch.cat(logits)[order]
        wide = out.to(torch.promote_types(out.dtype, torch.float32))
        return Output(F.cross_entropy(wide, tokens[loss_mask]), out)

    def run_blocks(self, h: Tensor, states: States, span: Span) -> tuple[Tensor, States]:
        """One pass of every block, awake: h [B, T, d] -> (h, states)."""
        blocks = range(len(self.blocks))
        return self._recomputed(self.recompute != "nothing", self._pass, blocks, h, states, span)

    def wake(self, h: Tensor, states: States, span: Span) -> tuple[Tensor, Tensor, States]:
        """`run_blocks`, and also h [B, T, d] behind the loop's last block: what a sleep goes on from."""
        end = self.loop[1]
        looped, states = self._pass(range(end), h, states, span)
        h, states = self._pass(range(end, len(self.blocks)), looped, states, span)
        return looped, h, states

    def sleep(self, h: Tensor, states: States, span: Span, passes: int | None = None) -> States:
        """N passes over a window of embedded tokens h [B, T, d] (None: the config's N), and its eviction.

        The first pass may attend to what an earlier sleep kept, the others see the window alone. The blocks of the
        loop are in each pass, those before it in the first, those behind it in the last.
        """
        plan = self._plan(self.checked_passes(passes))
        states = self._recomputed(self.recompute in ("window", "both"), self._sleep, plan, h, states, span)
        return self.evict(states, span)

    def refine(self, h: Tensor, states: States, before: States, span: Span, passes: int | None = None) -> States:
        """`sleep` on a window that was read awake, which counts as the first pass: the other N - 1, and its eviction.

        h: [B, T, d] behind the loop's last block; states: as the waking pass left them; before: as the window began.
        """
        # the first pass is done
        plan = [[], *self._plan(self.checked_passes(passes))[1:]]
        again = {i for blocks in plan for i in blocks}
        # behind the loop, what was read awake only served to answer
        start = [before[i] if i in again and i >= self.loop[1] else state for i, state in enumerate(states)]
        slept = self._sleep(plan, h, tuple(start), span)
        return self.evict(slept, span, [state if i in again else None for i, state in enumerate(states)])

    def begin_pass(self, states: States) -> States:
        """What a further pass over the same window begins with, as in Mixer.again."""
        return tuple(block.mixer.begin_pass(state) for block, state in zip(self.stack, states, strict=True))

    def evict(self, states: States, span: Span, earlier: Sequence[Any] | None = None) -> States:
        """What the states keep when the window ends; `earlier` as in Mixer.evict."""
        length, earlier = span.length(), earlier or [None] * len(states)
        each = zip(self.stack, states, earlier, strict=True)
        return tuple(block.mixer.evict(state, length, before) for block, state, before in each)

    def embedded(self, tokens: Tensor, position: Tensor, span: Span) -> Tensor:
        """Tokens [B, T] as vectors [B, T, d]; position: int64 [B or 1, 1], tokens of each row before this window."""
        h = self.embed(tokens.clamp(min=0))
        if self.config.max_positions is not None:
            h = h + self.position_embed((position + span.place).clamp(min=0))
        return h

    def readout(self, h: Tensor) -> Tensor:
        """h: [..., d] -> logits [..., vocab]."""
        return self.lm_head(self.norm(h))

    def initial_states(self, batch: int) -> States:
        """The states of `batch` rows that have read nothing."""
        return tuple(block.mixer.initial_state(batch) for block in self.stack)

    def adopt(self, other: SleepModel) -> None:
        """Begin as another model of this width: its embeddings, readout and attention blocks, in their order.

        Raises ValueError where the two have not the same of these.
        """
        pairs: list[tuple[nn.Module, nn.Module]]
        pairs = [(self.embed, other.embed), (self.norm, other.norm), (self.lm_head, other.lm_head)]
        if self.config.max_positions is not None and other.config.max_positions is not None:
            pairs.append((self.position_embed, other.position_embed))
        mine, theirs = ([b for b in model.stack if isinstance(b.mixer, Attention)] for model in (self, other))
        if len(mine) != len(theirs):
            raise ValueError(f"{len(theirs)} attention blocks to begin with: must be {len(mine)}, as this model has")
        for new, old in (*pairs, *zip(mine, theirs, strict=True)):
            try:
                new.load_state_dict(old.state_dict())
            except RuntimeError as error:
                raise ValueError(f"the model to begin with has other sizes: {error}") from error

    def set_eviction(self, eviction: str) -> None:
        """From now on "hard" or "sliding", whatever the config says."""
        for block in self.stack:
            block.mixer.set_eviction(eviction)

    def session(
        self, batch_size: int | None = None, memory: Memory | None = None, sleep_passes: int | None = None
    ) -> Session:
        """Read and generate with this model, from nothing or from a memory; see session.py."""
        from sleepmodel.inference.session import Session

        return Session(self, batch_size, memory, sleep_passes)

    def fingerprint(self) -> str:
        """16 hex digits of config and weights."""
        digest = hashlib.sha256(json.dumps(self.config.to_dict(), sort_keys=True).encode())
        for name, weight in self.state_dict().items():
            digest.update(name.encode())
            digest.update(weight.cpu().contiguous().view(torch.uint8).numpy())
        return digest.hexdigest()[:16]

    def n_params(self) -> int:
        """Number of trained weights."""
        return sum(p.numel() for p in self.parameters())

    def state_bytes(self, batch_size: int) -> int:
        """Bytes of fast weights for `batch_size` rows: under hard eviction all that is kept of what was read."""
        return sum(leaf.nbytes for _, leaf in named_tensors(self.initial_states(batch_size), "states"))

    def kv_bytes(self, batch_size: int, tokens: int) -> int:
        """Bytes of keys and values of `tokens` tokens of `batch_size` rows; a window's L is the most there ever is."""
        attention = sum(isinstance(block.mixer, Attention) for block in self.stack)
        return 2 * attention * batch_size * tokens * self.config.d_model * self.lm_head.weight.element_size()

    def flops(self, tokens: int, sleep_passes: int | None = None) -> int:
        """Forward matmul FLOPs of one row of `tokens` tokens: every window is slept on but the last, which answers."""
        window, plan = self.config.window, self._plan(self.checked_passes(sleep_passes))
        slept = (tokens - 1) // window
        kept = window - 1 if self.config.eviction == "sliding" else 0
        sleeps = sum(self._sleep_flops(plan, kept if i else 0) for i in range(slept))
        return sleeps + self._pass_flops(range(len(self.blocks)), tokens - slept * window, kept if slept else 0)

    @property
    def loop(self) -> tuple[int, int]:
        """The half-open range of blocks that the passes repeat."""
        return self.config.loop or (0, len(self.blocks))

    def checked_passes(self, passes: int | None) -> int:
        """N as it is given, the config's for None; ValueError where it is no number of passes."""
        if passes is None:
            return self.config.sleep_passes
        allowed = f"an integer of at least 1, and at most {WIDEST}"
        require(type(passes) is int and 1 <= passes <= WIDEST, "sleep_passes", passes, allowed)
        return passes

    def _plan(self, passes: int) -> list[list[int]]:
        """The blocks of each pass of a sleep, up to the last one whose state is kept: nobody reads what lies behind."""
        start, end = self.loop
        plan = [list(range(start, end)) for _ in range(passes)]
        plan[0][:0] = range(start)
        plan[-1] += range(end, len(self.blocks))
        while plan and not (plan[-1] and self.stack[plan[-1][-1]].mixer.keeps_state):
            if plan[-1]:
                plan[-1].pop()
            else:
                plan.pop()
        return plan

    def _sleep(self, plan: list[list[int]], h: Tensor, states: States, span: Span) -> States:
        last, kept, learning = len(plan) - 1, self.truncation.passes or len(plan), torch.is_grad_enabled()
        for i, blocks in enumerate(plan):
            if i:
                again = self.begin_pass(states)
                states = tuple(again[j] if j in blocks else state for j, state in enumerate(states))
            run = self._write_pass if blocks and i == last else self._pass
            differentiated = i > last - kept
            with torch.set_grad_enabled(learning and differentiated):
                h, after = self._recomputed(self.recompute in ("pass", "both"), run, blocks, h, states, span)
            if learning and not differentiated:
                each = zip(self.stack, states, after, strict=True)
                passed = (block.mixer.straight_through(old, new) for block, old, new in each)
                # a block that did not run has its gradient already
                after = tuple(state if j in blocks else after[j] for j, state in enumerate(passed))
            states = after
        return states

    def _pass(self, blocks: Iterable[int], h: Tensor, states: States, span: Span) -> tuple[Tensor, States]:
        after = list(states)
        for i in blocks:
            h, after[i] = self.stack[i](h, states[i], span)
        return h, tuple(after)

    def _write_pass(self, blocks: Sequence[int], h: Tensor, states: States, span: Span) -> tuple[Tensor, States]:
        """As `_pass`, but the last block's output is not computed."""
        *before, last = blocks
        h, states = self._pass(before, h, states, span)
        return h, (*states[:last], self.stack[last].write(h, states[last], span), *states[last + 1 :])

    def _recomputed(self, wanted: bool, function: Callable[..., T], *arguments: Any) -> T:
        if wanted and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
        return function(*arguments)

    def _truncated(self, states: States, answers: Tensor, i: int) -> tuple[States, bool]:
        """The states as window i gets them, cut from what lies before the M windows of a run of answers; whether any
        answer needs this window's gradient."""
        near = self.truncation.windows
        if near is None or not torch.is_grad_enabled():
            return states, True
        first = answers & ~F.pad(answers, (1, 0))[:, :-1]
        if i + near <= answers.shape[1] and first[:, i + near - 1].any():
            cut = first[:, i + near - 1].to(self.lm_head.weight.device)

            def detach(leaf: Tensor) -> Tensor:
                return torch.where(cut.view(-1, *[1] * (leaf.dim() - 1)), leaf.detach(), leaf)

            states = map_tensors(lambda leaf: detach(leaf) if leaf.requires_grad else leaf, states)
        return states, bool(answers[:, i].any() or first[:, i : i + near].any())

    def _sleep_flops(self, plan: list[list[int]], kept: int) -> int:
        if not plan:
            return 0
        *passes, last = plan
        full = sum(self._pass_flops(blocks, self.config.window, 0 if i else kept) for i, blocks in enumerate(passes))
        written = self._pass_flops(last[:-1], self.config.window, 0 if passes else kept)
        return full + written + self.stack[last[-1]].mixer.write_flops(self.config.window)

    def _pass_flops(self, blocks: Iterable[int], tokens: int, kept: int) -> int:
        return sum(self.stack[i].mixer.flops(tokens, kept) + self.stack[i].mlp.flops(tokens) for i in blocks)

    def _check(self, tokens: Tensor, loss_mask: Tensor) -> Tensor:
        """Which windows hold answers, bool [B, windows] on the CPU; raises ValueError on a batch without meaning."""
        kinds = (tokens.dtype, loss_mask.dtype) == (torch.int64, torch.bool)
        if tokens.dim() != 2 or tokens.shape != loss_mask.shape or not kinds or not tokens.numel():
            raise ValueError(
                f"tokens {tuple(tokens.shape)} ({tokens.dtype}) and loss_mask {tuple(loss_mask.shape)} "
                f"({loss_mask.dtype}): must both be [B, T] with at least one token, int64 and bool"
            )
        tokens, mask, window = tokens.cpu(), loss_mask.cpu(), self.config.window
        real = tokens >= 0
        longest, most = int(real.sum(1).max()), self.config.max_positions
        if most is not None and longest > most:
            raise ValueError(f"row length {longest}: must be at most max_positions = {most}")
        if int(tokens.max()) >= self.config.vocab_size:
            row, column = map(int, (tokens >= self.config.vocab_size).nonzero()[0])
            limit = f"must be below vocab_size = {self.config.vocab_size}, or negative at a pad"
            raise ValueError(f"tokens[{row}, {column}] = {int(tokens[row, column])}: {limit}")
        before = F.pad(real, (1, 0))[:, :-1]
        if ((real & ~before).sum(1) > 1).any():
            row = int(((real & ~before).sum(1) > 1).nonzero()[0])
            raise ValueError(f"row {row}: pads between its tokens; they may stand at its ends alone")
        before[:, ::window] = False
        if (mask & ~(real & before)).any():
            row = int((mask & ~(real & before)).nonzero()[0, 0])
            raise ValueError(
                f"row {row}: an answer stands first in a window of {window} tokens, where nothing can predict it, "
                "or on a pad"
            )
        if not mask.any():
            raise ValueError("loss_mask: must have at least one answer")
        return F.pad(mask, (0, -mask.shape[1] % window)).unflatten(1, (-1, window)).any(2)


def _rows(wanted: Tensor, tree: tuple[Tensor, States, Span]) -> tuple[Tensor | None, tuple[Tensor, States, Span]]:
    """The wanted rows (bool [B]) as indices and of the tree; None and the tree itself where they are all."""
    if wanted.all():
        return None, tree
    h, states, span = tree
    rows = wanted.nonzero()[:, 0].to(h.device)
    real = None if span.real is None else span.real[rows]
    return rows, (h[rows], select_rows(states, rows), Span(span.place if real is None else span.place[rows], real))
