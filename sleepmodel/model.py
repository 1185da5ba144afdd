"""The model and its sleep: Algorithm 1 of the paper, in reading order.

A hybrid language model reads a row window by window. On a window without answers it sleeps: it runs the blocks N times,
passes the hidden vectors h and the states S from each pass to the next, and then drops h and the KV cache. A window
with answers is read once, awake. With `sleep_on = "all"` it is predicted awake and then slept on: the waking pass is
the first of the N. Only what `evict` keeps of the states crosses the border of a window.

A row is one document. Rows share no state, and windows after the end of a row are not computed, so a batch may hold
documents of different lengths. Do not pack several into one row: a pass begins with the state that the pass before left
at the end of the window, so two documents in one window would mix.

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
from datagen.tokenizer import Tokenizer
from sleepmodel.config.model import MAX_SIZE, ModelConfig
from sleepmodel.config.training import Truncation
from sleepmodel.inputs import check_batch, predicting_windows, predictors
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
    """A sequence mixer and an MLP, each with pre-norm, perhaps a norm after it (sandwich), and a residual. A block
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
    `vocabulary`: the text of each token, or None if it is not known; tokens above have no text. `tokenizer`,
    `license`: of a pretrained model, or None.
    """

    def __init__(self, config: ModelConfig, recompute: str = "nothing", truncation: Truncation = NO_TRUNCATION) -> None:
        super().__init__()
        self.config, self.recompute, self.truncation = config, recompute, truncation
        self.vocabulary: tuple[str, ...] | None = None
        self.tokenizer: Tokenizer | None = None
        self.license: str | None = None
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
            answers in different windows; windows after a row's last prediction are not read.
        sleep_passes: N for this batch; None is the config's.

        With `config.sleep_on = "all"`, a window with answers is slept on too if answers follow in later windows: the
        pass that predicts is the first of the N. The first token of a window is then predicted from the last one of the
        window before, so that every token of a row except its first can be an answer, and all logits are those of a
        Session that reads the row.

        Raises ValueError if an answer is the first token of a row or, with "prompts", of a window (no output crosses a
        border), if there are pads between tokens, if a token is not in the vocabulary, if a row is too long, or if
        there is no answer.
        """
        check_batch(tokens, loss_mask, self.config)
        asked, predicting = predicting_windows(loss_mask, self.config.window), predictors(loss_mask)
        cuts, reached = self._truncated(asked)
        passes, real = self.checked_passes(sleep_passes), (tokens >= 0).cpu()
        states, position = self.initial_states(len(tokens)), torch.zeros(1, 1, dtype=torch.int64, device=tokens.device)
        logits, places = [], []
        for i in range(asked.shape[1]):
            begin, here = i * self.config.window, slice(i * self.config.window, (i + 1) * self.config.window)
            chunk, inside, mask = tokens[:, here], real[:, here], predicting[:, here]
            span = _span(inside, chunk.device)
            # a row is idle if its chunk holds only pads, or if its last answer is predicted in an earlier window
            awake, asleep = asked[:, i], asked[:, i + 1 :].any(1) & inside.any(1)
            if self.config.sleep_on == "prompts":
                asleep &= ~awake
            states = _detached(states, cuts[:, i])
            with torch.set_grad_enabled(torch.is_grad_enabled() and bool(reached[:, i].any())):
                h = self.embedded(chunk, position, span)
                if (wanted := asleep & ~awake).any():  # consolidation phase: N passes
                    rows, part = _select(wanted, h, states, inside)
                    states = merge_rows(states, self.sleep(*part, passes), rows)
                # prediction phase: one pass, or the first of N
                for wanted, n in ((awake & ~asleep, 1), (awake & asleep, passes)):
                    if wanted.any():
                        rows, part = _select(wanted, h, states, inside)
                        out, after = self.predict(*part, n)
                        states = merge_rows(states, after, rows)
                        row, column = (mask if rows is None else mask[rows]).nonzero(as_tuple=True)
                        logits.append(self.readout(out[row, column]))
                        places.append((row if rows is None else rows[row]) * tokens.shape[1] + begin + column)
            position = position + span.length()
        out = torch.cat(logits)[torch.cat(places).argsort()]  # from window by window to row by row
        wide = out.to(torch.promote_types(out.dtype, torch.float32))
        return Output(F.cross_entropy(wide, tokens[loss_mask]), out)

    def predict(self, h: Tensor, states: States, span: Span, passes: int) -> tuple[Tensor, States]:
        """Read a window of embedded tokens awake, run the other N - 1 passes, and evict: h [B, T, d] -> (h, states).

        The returned h is that after the waking pass, for the readout. passes: N.
        """

        def run(h: Tensor, states: States, span: Span) -> tuple[Tensor, States]:
            looped, out, woken = self._recomputed(self.recompute in ("pass", "both"), self.wake, h, states, span)
            return out, self.refine(looped, woken, states, span, passes)

        return self._recomputed(self.recompute in ("window", "both"), run, h, states, span)

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

    # A waking pass over a window is also the first pass of the sleep on it. A Session wakes token by token.

    def wake(self, h: Tensor, states: States, span: Span) -> tuple[Tensor, Tensor, States]:
        """One pass through all blocks, h [B, T, d] -> (h after the last block of the loop, h, states). `refine`
        continues from the first of these."""
        end = self.loop[1]
        looped, states = self._pass(range(end), h, states, span)
        h, states = self._pass(range(end, len(self.blocks)), looped, states, span)
        return looped, h, states

    def refine(self, h: Tensor, states: States, before: States, span: Span, passes: int | None = None) -> States:
        """Sleep on a window that `wake` has read: run the other N - 1 passes, then evict.

        h: [B, T, d], after the last block of the loop; states: after the waking pass; before: when the window began.
        """
        schedule = self.sleep_schedule(self.checked_passes(passes))
        repeated = {i for blocks in schedule[1:] for i in blocks}
        # the last pass runs the blocks after the loop anew, so their waking states are discarded
        woken = [before[i] if i in repeated and i >= self.loop[1] else state for i, state in enumerate(states)]
        slept = self._run_passes(schedule, h, before, span, tuple(woken))
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

    def _run_passes(
        self, schedule: list[list[int]], h: Tensor, states: States, span: Span, woken: States | None = None
    ) -> States:
        """The states after the passes of a schedule. With truncation, only the last K passes are differentiated.

        woken: the states after the first pass, if `wake` has run it and h is what it left; states: those before it.
        """
        last, kept, learning = len(schedule) - 1, self.truncation.passes or len(schedule), torch.is_grad_enabled()
        for i, blocks in enumerate(schedule):
            if i:
                fresh = self.begin_pass(states)
                states = tuple(fresh[j] if j in blocks else state for j, state in enumerate(states))
            run = self._write_pass if blocks and i == last else self._pass
            differentiated = i > last - kept
            with torch.set_grad_enabled(learning and differentiated):
                if i == 0 and woken is not None:
                    after = woken
                else:
                    h = self.norm(h) if i and self.config.loop_norm else h
                    h, after = self._recomputed(self.recompute in ("pass", "both"), run, blocks, h, states, span)
            if learning and not differentiated:
                # the state of a block that did not run still has its own gradient
                h, constant = h.detach(), map_tensors(Tensor.detach, after)
                each = zip(self.stack, states, constant, strict=True)
                passed = [block.mixer.straight_through(old, new) for block, old, new in each]
                after = tuple(passed[j] if j in blocks else state for j, state in enumerate(after))
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

    def _truncated(self, asked: Tensor) -> tuple[Tensor, Tensor]:
        """Before which windows the states of a row are detached, and through which any loss is differentiated, both
        bool [B, windows] (see Truncation). asked: the windows that predict answers, bool [B, windows]."""
        reach, cuts, reached = self.truncation.windows, torch.zeros_like(asked), asked.clone()
        windows = asked.shape[1]
        if reach is not None:
            first = asked & ~F.pad(asked, (1, 0))[:, :-1]  # the first of several windows in a row with answers
            cuts = F.pad(first[:, reach - 1 :], (0, min(reach - 1, windows)))
            if self.config.sleep_on == "all":
                since = torch.zeros(len(asked))  # windows since the last cut
                for i in range(windows):
                    cuts[:, i] |= asked[:, i] & (since >= reach)
                    since = torch.where(cuts[:, i], 1, since + 1)
        for i in range(windows - 2, -1, -1):
            reached[:, i] |= reached[:, i + 1] & ~cuts[:, i + 1]
        return cuts, reached


def _norm(config: ModelConfig) -> nn.RMSNorm:
    return nn.RMSNorm(config.d_model, eps=config.norm_eps)


def _span(real: Tensor, device: torch.device) -> Span:
    """The span of a window from its first place on; real: bool [B, T], on the CPU, False at pads."""
    return Span.whole(real.shape[1], device) if real.all() else Span.of(real.to(device))


def _select(
    wanted: Tensor, h: Tensor, states: States, real: Tensor
) -> tuple[Tensor | None, tuple[Tensor, States, Span]]:
    """The indices of the wanted rows (bool [B]), None if it is all of them, and the h, states and span of these rows,
    cut off after the last token of the longest. real: bool [B, T], False at pads."""
    rows = None if wanted.all() else wanted.nonzero()[:, 0].to(h.device)
    real = real[wanted]
    real = real[:, : int(real.any(0).nonzero().max()) + 1]
    if rows is not None:
        h, states = h[rows], select_rows(states, rows)
    return rows, (h[:, : real.shape[1]], states, _span(real, h.device))


def _detached(states: States, rows: Tensor) -> States:
    """The states, with those of the rows (bool [B]) as constants."""
    if not rows.any():
        return states

    def detach(leaf: Tensor) -> Tensor:
        cut = rows.to(leaf.device).view(-1, *[1] * (leaf.dim() - 1))
        return torch.where(cut, leaf.detach(), leaf) if leaf.requires_grad else leaf

    return map_tensors(detach, states)
