"""The model and its sleep: Algorithm 1 of the paper, in reading order.

A hybrid language model reads a row window by window. On a window without answers it sleeps: it runs the blocks N times,
passes the hidden vectors h and the states S from each pass to the next, and then drops h and the KV cache. A window
with answers is read once. Only what `evict` keeps of the states crosses the border of a window.

reference.py implements the same algorithm token by token. The tests compare this file with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from datagen.checks import require_whole
from sleepmodel.config.model import MAX_SIZE, ModelConfig
from sleepmodel.config.training import Truncation
from sleepmodel.inputs import answering_windows
from sleepmodel.mixers import mixer_class
from sleepmodel.mixers.base import Mixer, Span, zero_linear
from sleepmodel.states import map_tensors, merge_rows, select_rows

States = tuple[Any, ...]  # the state of each block's mixer
NO_TRUNCATION = Truncation()
T = TypeVar("T")


class Output(NamedTuple):
    """loss: scalar, mean cross-entropy of the answer tokens in nats; logits: [answers, vocab], in row-major order."""

    loss: Tensor
    logits: Tensor


class MLP(nn.Module):
    """Two linear layers with a squared ReLU between them, or SwiGLU, whose third layer is the gate."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, hidden, bias = config.d_model, config.mlp_size, config.mlp_bias
        self.gate = nn.Linear(width, hidden, bias=bias) if config.mlp == "swiglu" else None
        self.up = nn.Linear(width, hidden, bias=bias)
        self.down = zero_linear(hidden, width, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, T, d] -> [B, T, d]."""
        if self.gate is None:
            return self.down(F.relu(self.up(x)).square())
        return self.down(F.silu(self.gate(x)) * self.up(x))

    def flops(self, tokens: int) -> int:
        """Forward FLOPs for one row of `tokens` tokens."""
        return (4 if self.gate is None else 6) * tokens * self.up.weight.numel()


class Block(nn.Module):
    """A sequence mixer and an MLP, each with pre-norm, perhaps a norm behind it (sandwich), and a residual. A block
    that was inserted into a pretrained model is a mixer with pre-norm and a residual."""

    def __init__(self, config: ModelConfig, number: int) -> None:
        super().__init__()
        whole = number not in config.inserted
        sandwich = whole and config.sandwich_norms
        self.mixer_norm = _norm(config)
        self.mixer: Mixer = mixer_class(config.mixers[number])(config)
        self.mixer_post_norm = _norm(config) if sandwich else nn.Identity()
        self.mlp_norm = _norm(config) if whole else None
        self.mlp = MLP(config) if whole else None
        self.mlp_post_norm = _norm(config) if sandwich else nn.Identity()

    def forward(self, h: Tensor, state: Any, span: Span) -> tuple[Tensor, Any]:
        """h: [B, T, d] -> (h, the mixer's state after these tokens)."""
        y, state = self.mixer(self.mixer_norm(h), state, span)
        h = h + self.mixer_post_norm(y)
        if self.mlp is not None and self.mlp_norm is not None:
            h = h + self.mlp_post_norm(self.mlp(self.mlp_norm(h)))
        return h, state

    def write(self, h: Tensor, state: Any, span: Span) -> Any:
        """The state that `forward` would return, without computing the output."""
        return self.mixer.write(self.mixer_norm(h), state, span)

    def flops(self, tokens: int, kept: int) -> int:
        """Forward FLOPs for one row; arguments as in Mixer.flops."""
        return self.mixer.flops(tokens, kept) + (0 if self.mlp is None else self.mlp.flops(tokens))


class SleepModel(nn.Module):
    """Embedding, blocks and readout.

    recompute: which activations the backward recomputes instead of keeping (see Scale).
    truncation: how far the backward reaches.
    `vocabulary`: the text of each token, or None if it is not known.
    """

    def __init__(self, config: ModelConfig, recompute: str = "nothing", truncation: Truncation = NO_TRUNCATION) -> None:
        super().__init__()
        self.config, self.recompute, self.truncation = config, recompute, truncation
        self.vocabulary: tuple[str, ...] | None = None
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        if config.max_positions is not None:
            self.position_embed = nn.Embedding(config.max_positions, config.d_model)
        self.blocks = nn.ModuleList(Block(config, number) for number in range(len(config.mixers)))
        self.norm = _norm(config)
        # a tied readout has no parameter of its own, which would be counted, saved and hashed beside the embedding
        self.lm_head = None if config.tied else nn.Linear(config.d_model, config.vocab_size, bias=False)

    @property
    def stack(self) -> list[Block]:
        """The blocks, first to last."""
        return cast(list[Block], list(self.blocks))

    @property
    def loop(self) -> tuple[int, int]:
        """The half-open range of blocks that every pass of a sleep runs."""
        return self.config.loop or (0, len(self.blocks))

    def forward(self, tokens: Tensor, loss_mask: Tensor, sleep_passes: int | None = None) -> Output:
        """Algorithm 1: sleep on each window without answers, and predict the answers of the other windows in one pass.

        tokens: int64 [B, T]; negative tokens are pads. They may stand only at the ends of a row and have no effect.
        loss_mask: bool [B, T], True at answer tokens. Each is predicted from the token before it. Rows may have their
            answers in different windows; tokens after a row's last window with answers are not read.
        sleep_passes: N for this batch; None is the config's.

        Raises ValueError if an answer is the first token of a window (no output crosses a border), if there are pads
        between tokens, if a token is not in the vocabulary, if a row is too long, or if there is no answer.
        """
        answers = answering_windows(tokens, loss_mask, self.config)
        passes, window, padded = self.checked_passes(sleep_passes), self.config.window, bool((tokens < 0).any())
        states, position = self.initial_states(len(tokens)), torch.zeros(1, 1, dtype=torch.int64, device=tokens.device)
        logits, places = [], []
        for i, chunk in enumerate(tokens.split(window, 1)):
            span = Span.of(chunk >= 0) if padded else Span.whole(chunk.shape[1], chunk.device)
            answering = answers[:, i]
            # a row is idle if its chunk holds only pads, or if its last answer lies in an earlier window
            sleeping = ~answering & answers[:, i:].any(1) & (chunk >= 0).any(1).to(answers.device)
            states, differentiated = self._truncated(states, answers, i)
            with torch.set_grad_enabled(torch.is_grad_enabled() and differentiated):
                h = self.embedded(chunk, position, span)
                if sleeping.any():  # consolidation phase: N passes
                    rows, part = _select(sleeping, (h, states, span))
                    states = merge_rows(states, self.sleep(*part, passes), rows)
                if answering.any():  # prediction phase: one pass
                    rows, (h, read, part_span) = _select(answering, (h, states, span))
                    h, read = self.run_blocks(h, read, part_span)
                    states = merge_rows(states, self.evict(read, part_span), rows)
                    mask = loss_mask[:, i * window : (i + 1) * window]
                    row, column = (mask if rows is None else mask[rows]).nonzero(as_tuple=True)
                    logits.append(self.readout(h[row, column - 1]))
                    places.append((row if rows is None else rows[row]) * tokens.shape[1] + i * window + column)
            position = position + span.length()
        out = torch.cat(logits)[torch.cat(places).argsort()]  # from window by window to row by row
        wide = out.to(torch.promote_types(out.dtype, torch.float32))
        return Output(F.cross_entropy(wide, tokens[loss_mask]), out)

    def sleep(self, h: Tensor, states: States, span: Span, passes: int | None = None) -> States:
        """Run N passes over a window of embedded tokens h [B, T, d], then evict. passes: N; None is the config's.

        The first pass can also attend to the tokens that the previous eviction kept; later passes see only the window.
        Every pass runs the blocks of the loop; the first also runs those before the loop, the last those after it.
        """
        schedule = self.sleep_schedule(self.checked_passes(passes))
        states = self._recomputed(self.recompute in ("window", "both"), self._run_passes, schedule, h, states, span)
        return self.evict(states, span)

    def evict(self, states: States, span: Span, earlier: Sequence[Any] | None = None) -> States:
        """What remains of the states when the window ends; `earlier` as in Mixer.evict."""
        length, eviction = span.length(), self.config.eviction
        each = zip(self.stack, states, earlier or [None] * len(states), strict=True)
        return tuple(block.mixer.evict(state, length, eviction, before) for block, state, before in each)

    def readout(self, h: Tensor) -> Tensor:
        """h: [..., d] -> logits [..., vocab]."""
        h = self.norm(h)
        return F.linear(h, self.embed.weight) if self.lm_head is None else self.lm_head(h)

    def embedded(self, tokens: Tensor, position: Tensor, span: Span) -> Tensor:
        """Embed tokens [B, T] as h [B, T, d]. position: int64 [B or 1, 1], tokens of each row before this window."""
        h = self.embed(tokens.clamp(min=0))
        if self.config.max_positions is not None:
            h = h + self.position_embed((position + span.place).clamp(min=0))
        return h

    def initial_states(self, batch: int) -> States:
        """The states of `batch` rows that have read nothing."""
        return tuple(block.mixer.initial_state(batch) for block in self.stack)

    def run_blocks(self, h: Tensor, states: States, span: Span) -> tuple[Tensor, States]:
        """One waking pass through all blocks: h [B, T, d] -> (h, states)."""
        wanted = self.recompute in ("pass", "window", "both")
        return self._recomputed(wanted, self._pass, range(len(self.blocks)), h, states, span)

    # For a Session, which reads token by token: its waking pass over a window is also the first pass of the sleep.

    def wake(self, h: Tensor, states: States, span: Span) -> tuple[Tensor, Tensor, States]:
        """As `run_blocks`; also returns h [B, T, d] after the last block of the loop, from which `refine` continues."""
        end = self.loop[1]
        looped, states = self._pass(range(end), h, states, span)
        h, states = self._pass(range(end, len(self.blocks)), looped, states, span)
        return looped, h, states

    def refine(self, h: Tensor, states: States, before: States, span: Span, passes: int | None = None) -> States:
        """Sleep on a window that `wake` has read: run the other N - 1 passes, then evict.

        h: [B, T, d], after the last block of the loop; states: after the waking pass; before: when the window began.
        """
        schedule = [[], *self.sleep_schedule(self.checked_passes(passes))[1:]]  # `wake` ran the first pass
        repeated = {i for blocks in schedule for i in blocks}
        # the last pass runs the blocks after the loop anew, so their waking states are discarded
        start = [before[i] if i in repeated and i >= self.loop[1] else state for i, state in enumerate(states)]
        slept = self._run_passes(schedule, h, tuple(start), span)
        earlier = [state if i in repeated else None for i, state in enumerate(states)]
        return self.evict(slept, span, earlier)

    # The passes of a sleep: which blocks each of them runs, and which of them the backward sees.

    def sleep_schedule(self, passes: int) -> list[list[int]]:
        """The blocks that each pass runs. It ends with the last block whose state outlives the window."""
        start, end = self.loop
        schedule = [list(range(start, end)) for _ in range(passes)]
        schedule[0][:0] = range(start)
        schedule[-1] += range(end, len(self.blocks))
        while schedule and not (schedule[-1] and self.stack[schedule[-1][-1]].mixer.keeps_state(self.config.eviction)):
            if schedule[-1]:
                schedule[-1].pop()
            else:
                schedule.pop()
        return schedule

    def begin_pass(self, states: States) -> States:
        """The states with which a further pass over the same window begins; see Mixer.begin_pass."""
        return tuple(block.mixer.begin_pass(state) for block, state in zip(self.stack, states, strict=True))

    def checked_passes(self, passes: int | None) -> int:
        """N: `passes`, or the config's if it is None. Raises ValueError if it is not a valid number of passes."""
        if passes is None:
            return self.config.sleep_passes
        require_whole("sleep_passes", passes, 1, MAX_SIZE)
        return passes

    def _run_passes(self, schedule: list[list[int]], h: Tensor, states: States, span: Span) -> States:
        """The states after the passes of a schedule. With truncation, only the last K passes are differentiated."""
        last, kept, learning = len(schedule) - 1, self.truncation.passes or len(schedule), torch.is_grad_enabled()
        for i, blocks in enumerate(schedule):
            if i:
                fresh = self.begin_pass(states)
                states = tuple(fresh[j] if j in blocks else state for j, state in enumerate(states))
            run = self._write_pass if blocks and i == last else self._pass
            differentiated = i > last - kept
            with torch.set_grad_enabled(learning and differentiated):
                h = self.norm(h) if i and self.config.loop_norm else h
                h, after = self._recomputed(self.recompute in ("pass", "both"), run, blocks, h, states, span)
            if learning and not differentiated:
                each = zip(self.stack, states, after, strict=True)
                passed = (block.mixer.straight_through(old, new) for block, old, new in each)
                # the state of a block that did not run still has its own gradient
                after = tuple(state if j in blocks else after[j] for j, state in enumerate(passed))
            states = after
        return states

    def _pass(self, blocks: Iterable[int], h: Tensor, states: States, span: Span) -> tuple[Tensor, States]:
        after = list(states)
        for i in blocks:
            h, after[i] = self._recomputed(self.recompute == "block", self.stack[i], h, states[i], span)
        return h, tuple(after)

    def _write_pass(self, blocks: Sequence[int], h: Tensor, states: States, span: Span) -> tuple[Tensor, States]:
        """As `_pass`, but the last block computes only its state."""
        *before, last = blocks
        h, states = self._pass(before, h, states, span)
        return h, (*states[:last], self.stack[last].write(h, states[last], span), *states[last + 1 :])

    def _recomputed(self, wanted: bool, function: Callable[..., T], *arguments: Any) -> T:
        if wanted and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
        return function(*arguments)

    def _truncated(self, states: States, answers: Tensor, i: int) -> tuple[States, bool]:
        """The states with which window i begins, and whether any loss is differentiated through this window.

        The states of a row are detached M - 1 windows before its answers begin (see Truncation).
        """
        reach = self.truncation.windows
        if reach is None or not torch.is_grad_enabled():
            return states, True
        first = answers & ~F.pad(answers, (1, 0))[:, :-1]  # the first of several windows in a row with answers
        if i + reach <= answers.shape[1] and first[:, i + reach - 1].any():
            cut = first[:, i + reach - 1].to(self.embed.weight.device)

            def detach(leaf: Tensor) -> Tensor:
                return torch.where(cut.view(-1, *[1] * (leaf.dim() - 1)), leaf.detach(), leaf)

            states = map_tensors(lambda leaf: detach(leaf) if leaf.requires_grad else leaf, states)
        return states, bool(answers[:, i].any() or first[:, i : i + reach].any())


def _norm(config: ModelConfig) -> nn.RMSNorm:
    return nn.RMSNorm(config.d_model, eps=config.norm_eps)


def _select(selected: Tensor, batch: tuple[Tensor, States, Span]) -> tuple[Tensor | None, tuple[Tensor, States, Span]]:
    """The indices of the selected rows (bool [B]), and h, states and span of these rows. If all rows are selected, the
    indices are None."""
    if selected.all():
        return None, batch
    h, states, span = batch
    rows = selected.nonzero()[:, 0].to(h.device)
    real = None if span.real is None else span.real[rows]
    return rows, (h[rows], select_rows(states, rows), Span(span.place if real is None else span.place[rows], real))
