"""The model and its sleep: Algorithm 1 of the paper, in reading order.

A hybrid language model reads a row window by window. On a window without answers it sleeps: it runs the blocks N times,
passes the hidden vectors h and the states S from each pass to the next, and then drops h and the KV cache. A window
with answers is read once, awake. With `sleep_on = "all"` it is predicted awake and then slept on: the waking pass is
the first of the N. `config.carry` says what a pass hands to the next in place of h, and `traces` say in training what
the readout of each pass should give. Only what `evict` keeps of the states crosses the border of a window.

A row is one document. Rows share no state, and windows after the end of a row are not computed, so a batch may hold
documents of different lengths. Do not pack several into one row: a pass begins with the state that the pass before left
at the end of the window, so two documents in one window would mix.

reference.py implements the same algorithm token by token. The tests compare this file with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.checkpoint import checkpoint

from datagen.checks import require_whole
from datagen.tokenizer import Tokenizer
from sleepmodel.batch_plan import NO_TRUNCATION, BatchPlan, Labels, plan_batch
from sleepmodel.blocks import Block, residual_norm
from sleepmodel.config.model import MAX_SIZE, ModelConfig
from sleepmodel.config.training import Recompute, Truncation
from sleepmodel.mixers.base import Span, product_dtype
from sleepmodel.states import merge_rows, select_rows
from sleepmodel.truncation import cut_between_passes, detached

CHUNK_LOGITS = 2**22  # what a caller that keeps no logits reads out at a time: 16 MiB in float32
States = tuple[Any, ...]  # the state of each block's mixer
T = TypeVar("T")


class Output(NamedTuple):
    """loss: scalar, mean cross-entropy of the answer tokens in nats; logits: [answers, vocab], in row-major order;
    trace_loss: scalar, that of all labels of the traces, 0 if none counts; None without traces."""

    loss: Tensor
    logits: Tensor
    trace_loss: Tensor | None = None


class Pass(NamedTuple):
    """The blocks that a pass of a sleep runs: `whole`, then `written`, of which only the state is computed (if any)."""

    whole: list[int]
    written: int | None

    @property
    def blocks(self) -> list[int]:
        return self.whole if self.written is None else [*self.whole, self.written]


class _Unfilled(TorchFunctionMode):
    """Embeddings are left as they are. To fill one without memory, torch imports its compiler: more than a second."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        return kwargs["tensor"] if func is nn.init.normal_ else func(*args, **kwargs)


class SleepModel(nn.Module):
    """Embedding, blocks and readout.

    recompute: which activations the backward recomputes instead of keeping (see Scale).
    truncation: how far the backward reaches.
    `resting`: the names of the weights that the latest training left as they were (TrainConfig.trained).
    `vocabulary`: the text of each token, or None if it is not known; tokens above have no text. `tokenizer`,
    `license`: of a pretrained model, or None.
    """

    def __init__(
        self, config: ModelConfig, recompute: Recompute = "nothing", truncation: Truncation = NO_TRUNCATION
    ) -> None:
        super().__init__()
        self.config, self.recompute, self.truncation = config, recompute, truncation
        self.resting: tuple[str, ...] = ()
        self.vocabulary: tuple[str, ...] | None = None
        self.tokenizer: Tokenizer | None = None
        self.license: str | None = None
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        if config.max_positions is not None:
            self.position_embed = nn.Embedding(config.max_positions, config.d_model)
        if config.pass_embed:
            self.pass_embed = nn.Parameter(torch.zeros(config.d_model))
        self.blocks = nn.ModuleList(Block(config, number) for number in range(len(config.mixers)))
        self.norm = residual_norm(config)
        # a tied readout has no parameter of its own, which would be counted, saved and hashed beside the embedding
        self.lm_head = None if config.tied else nn.Linear(config.d_model, config.vocab_size, bias=False)

    @classmethod
    def without_weights(cls, config: ModelConfig) -> SleepModel:
        """The model on the meta device: its shapes, and no memory for them."""
        with torch.device("meta"), _Unfilled():
            return cls(config)

    @property
    def stack(self) -> list[Block]:
        """The blocks, first to last."""
        return cast(list[Block], list(self.blocks))

    @property
    def has_fast_weights(self) -> bool:
        """Whether any block has fast weights."""
        return any(block.mixer.has_fast_weights for block in self.stack)

    @property
    def loop(self) -> tuple[int, int]:
        """The half-open range of blocks that every pass of a sleep runs."""
        return self.config.loop or (0, len(self.blocks))

    def forward(
        self,
        tokens: Tensor,
        loss_mask: Tensor,
        sleep_passes: int | None = None,
        traces: Tensor | None = None,
        plan: BatchPlan | None = None,
    ) -> Output:
        """Algorithm 1: sleep on each window without answers, and predict the answers of the other windows in one pass.

        tokens: int64 [B, T]; negative tokens are pads. They may stand only at the ends of a row and have no effect.
        loss_mask: bool [B, T], True at answer tokens. Each is predicted from the token before it. Rows may have their
            answers in different windows; windows after a row's last prediction are not read.
        sleep_passes: N for this batch; None is the config's.
        traces: int64 [B, P, T], what the readout should give at each token after each of the first P passes (with
            `reads_first`, after those that follow the first); negative: no label. The readout is of h after the loop.
            Labels count in the windows that are slept on, and not at pads.
        plan: what `self.plan` returned for these arguments. The forward then reads nothing else, and never waits for
            a GPU.

        With `config.sleep_on = "all"`, a window with answers is slept on too if answers follow in later windows: the
        pass that predicts is the first of the N. The first token of a window is then predicted from the last one of the
        window before, so that every token of a row except its first can be an answer, and all logits are those of a
        Session that reads the row.

        Raises ValueError if an answer is the first token of a row or, with "prompts", of a window (no output crosses a
        border), if there are pads between tokens, if a token or label is not in the vocabulary, if a row is too long,
        if there is no answer, or if traces have another shape or are for more passes than there are.
        """
        plan = (plan or self.plan(tokens, loss_mask, sleep_passes, traces)).to(self.embed.weight.device)
        learning, logits, losses = torch.is_grad_enabled(), list[Tensor](), list[Tensor]()
        states = self.initial_states(len(plan.windows[0].tokens))
        for window in plan.windows:
            states = states if window.cut is None else detached(states, window.cut)
            with torch.set_grad_enabled(learning and window.learning):
                embedded = self.embedded(window.tokens, window.span)
                for rows, span, at, passes, labels in window.groups:
                    h, before = (embedded, states) if rows is None else select_rows((embedded, states), rows)
                    h = h[:, : span.place.shape[1]]
                    if at is None:  # consolidation phase: N passes
                        after, loss = self.sleep(h, before, span, passes, labels)
                    else:  # prediction phase: one pass, or the first of N
                        out, after, loss = self.predict(h, before, span, passes, labels)
                        logits.append(self.readout(out.flatten(0, 1).index_select(0, at)))
                    states = merge_rows(states, after, rows)
                    losses.append(loss)
        found = torch.cat(logits).index_select(0, plan.order)
        trace_loss = None if plan.labelled is None else torch.stack(losses).sum() / plan.labelled
        return Output(F.cross_entropy(_wide(found), plan.targets), found, trace_loss)

    def plan(
        self, tokens: Tensor, loss_mask: Tensor, sleep_passes: int | None = None, traces: Tensor | None = None
    ) -> BatchPlan:
        """The plan of a batch, on the CPU. Arguments and errors are those of `forward`; from tensors on the CPU, a plan
        is made without waiting for a GPU."""
        passes = self.checked_passes(sleep_passes)
        return plan_batch(tokens, loss_mask, self.config, passes, traces, self.truncation)

    def predict(
        self, h: Tensor, states: States, span: Span, passes: int, labels: tuple[Labels, ...] | None = None
    ) -> tuple[Tensor, States, Tensor]:
        """Read a window of embedded tokens awake, run the other N - 1 passes, and evict: (h, states, trace loss).

        The returned h [B, T, d] is that after the waking pass, for the readout. The other arguments and results are
        those of `sleep`.
        """

        def run(h: Tensor, states: States, span: Span) -> tuple[Tensor, States, Tensor]:
            begin, out, woken = self._recomputed(self.recompute in ("pass", "both"), self.wake, h, states, span)
            return out, *self.refine(begin, woken, states, span, passes, labels)

        return self._recomputed(self.recompute in ("window", "both"), run, h, states, span)

    def sleep(
        self, h: Tensor, states: States, span: Span, passes: int | None = None, labels: tuple[Labels, ...] | None = None
    ) -> tuple[States, Tensor]:
        """Run N passes over a window of embedded tokens h [B, T, d], then evict: (states, trace loss).

        The first pass can also attend to the tokens that the previous eviction kept; later passes see only the window.
        Every pass runs the blocks of the loop; the first also runs those before the loop, the last those after it.

        passes: N; None is the config's. labels: of the traces, by pass. The trace loss is the sum of the cross-entropy
        over all labels, in nats.
        """
        schedule = self.sleep_schedule(self.checked_passes(passes), len(labels or ()))
        whole = self.recompute in ("window", "both")
        states, loss = self._recomputed(whole, self._run_passes, schedule, h, states, span, None, labels)
        return self.evict(states, span), loss

    def evict(self, states: States, span: Span, earlier: Sequence[Any] | None = None) -> States:
        """What remains of the states when the window ends; `earlier` as in Mixer.evict."""
        length, eviction = span.length(), self.config.eviction
        each = zip(self.stack, states, earlier or [None] * len(states), strict=True)
        return tuple(block.mixer.evict(state, length, eviction, before) for block, state, before in each)

    def readout(self, h: Tensor) -> Tensor:
        """h: [..., d] -> logits [..., vocab]."""
        h = self.norm(h)
        return F.linear(h, self.embed.weight) if self.lm_head is None else self.lm_head(h)

    def embedded(self, tokens: Tensor, span: Span) -> Tensor:
        """Embed tokens [B, T] as h [B, T, d]."""
        return self._with_positions(self.embed(tokens.clamp(min=0)), span)

    def handed_on(self, h: Tensor, span: Span) -> Tensor:
        """What a later pass begins with, from h [B, T, d] after the loop of the one before, as `config.carry` says:
        [B, T, d]."""
        if self.config.carry == "hidden":
            return self.norm(h) if self.config.loop_norm else h
        if self.config.carry == "normalized":
            return F.rms_norm(h, h.shape[-1:], eps=self.config.norm_eps)
        logits = self.readout(h)
        likely, embeddings = torch.softmax(_wide(logits), -1).to(h.dtype), self.embed.weight
        if self.config.carry == "mixture":
            return self._again(self._with_positions((likely @ embeddings).to(h.dtype), span))
        vectors = self.embed(logits.argmax(-1))
        if torch.is_grad_enabled():
            soft = likely @ embeddings.detach()
            vectors = vectors + (soft - soft.detach())  # exactly 0, with the gradient of the mixture
        return self._again(self._with_positions(vectors, span))

    def _with_positions(self, vectors: Tensor, span: Span) -> Tensor:
        if self.config.max_positions is None:
            return vectors
        return vectors + self.position_embed((span.start + span.place).clamp(min=0))

    def _again(self, embedded: Tensor) -> Tensor:
        """Embedded tokens [B, T, d] as they enter a later pass."""
        return embedded + self.pass_embed if self.config.pass_embed else embedded

    def initial_states(self, batch: int) -> States:
        """The states of `batch` rows that have read nothing."""
        return tuple(block.mixer.initial_state(batch) for block in self.stack)

    # A waking pass over a window is also the first pass of the sleep on it. A Session wakes token by token.

    def wake(self, h: Tensor, states: States, span: Span) -> tuple[Tensor, Tensor, States]:
        """One pass through all blocks, from embedded tokens h [B, T, d]: (what `refine` continues from, h, states).

        The first of these is h after the last block of the loop, or with `config.reads_first` the tokens again.
        """
        looped, out, states = self.run_blocks(Pass([*range(len(self.blocks))], None), h, states, span)
        return h if self.config.reads_first else looped, out, states

    def refine(
        self,
        h: Tensor,
        states: States,
        before: States,
        span: Span,
        passes: int | None = None,
        labels: tuple[Labels, ...] | None = None,
    ) -> tuple[States, Tensor]:
        """Sleep on a window that `wake` has read: run the other N - 1 passes, then evict.

        h: [B, T, d], the first result of `wake`; states: after the waking pass; before: when the window began. The
        other arguments and results are those of `sleep`.
        """
        schedule = self.sleep_schedule(self.checked_passes(passes), len(labels or ()))
        repeated = {i for part in schedule[1:] for i in part.blocks}
        # the last pass runs the blocks after the loop anew, so their waking states are discarded
        woken = [before[i] if i in repeated and i >= self.loop[1] else state for i, state in enumerate(states)]
        slept, loss = self._run_passes(schedule, h, before, span, tuple(woken), labels)
        earlier = [state if i in repeated else None for i, state in enumerate(states)]
        return self.evict(slept, span, earlier), loss

    # The passes of a sleep: which blocks each of them runs, and which of them the backward sees.

    def sleep_schedule(self, passes: int, traces: int = 0) -> list[Pass]:
        """The blocks that each pass runs: no more than the states that outlive the window need, and h after the loop
        where another pass or a trace begins with it. traces: P."""
        (start, end), first = self.loop, int(self.config.reads_first)
        schedule: list[Pass] = []  # last to first
        for i in reversed(range(passes)):
            blocks = [*range(start if i else 0, end), *range(end, len(self.blocks) if i == passes - 1 else end)]
            needed = end if i >= first and (schedule or i < first + traces) else 0
            while len(blocks) and blocks[-1] >= needed and not self._keeps_state(blocks[-1]):
                blocks.pop()
            if blocks or schedule:
                schedule.append(Pass(blocks, blocks.pop() if blocks and blocks[-1] >= needed else None))
        return schedule[::-1]

    def begin_pass(self, states: States, blocks: Sequence[int] | None = None) -> States:
        """The states with which a further pass over the same window begins; see Mixer.begin_pass. blocks: those that
        it runs; None: all of them."""
        runs = range(len(states)) if blocks is None else blocks
        each = enumerate(zip(self.stack, states, strict=True))
        return tuple(block.mixer.begin_pass(state) if i in runs else state for i, (block, state) in each)

    def checked_passes(self, passes: int | None) -> int:
        """N: `passes`, or the config's if it is None. Raises ValueError if it is not a valid number of passes."""
        if passes is None:
            return self.config.sleep_passes
        require_whole("sleep_passes", passes, 1, MAX_SIZE)
        return passes

    def _run_passes(
        self,
        schedule: list[Pass],
        h: Tensor,
        states: States,
        span: Span,
        woken: States | None = None,
        labels: tuple[Labels, ...] | None = None,
    ) -> tuple[States, Tensor]:
        """The states after the passes of a schedule, and the trace loss.

        woken: the states after the first pass, if `wake` has run it and h is its first result; states: those before it.
        """
        begin, before, first = h, states, int(self.config.reads_first)
        kept, every = self.truncation.passes or len(schedule), self.truncation.every or len(schedule)
        recomputed, learning = self.recompute in ("pass", "both"), torch.is_grad_enabled()
        loss, span = _wide(h.new_zeros(())), self._prepared(span, h)
        for i, part in enumerate(schedule):
            if i and learning and (i == len(schedule) - kept or i % every == 0):
                h, states = h.detach(), cut_between_passes((block.mixer for block in self.stack), before, states)
            with torch.set_grad_enabled(learning and i >= len(schedule) - kept):
                if i == 0 and woken is not None:
                    states = woken
                else:
                    entering = h if i > first else begin
                    h, states = self._recomputed(recomputed, self.run_pass, i, part, entering, states, span)
                if labels is not None and first <= i < first + len(labels):
                    loss = loss + self._recomputed(recomputed, self._trace_loss, h, labels[i - first])
        return states, loss

    def run_pass(self, number: int, part: Pass, h: Tensor, states: States, span: Span) -> tuple[Tensor, States]:
        """Pass `number` of a sleep, from 0: (h after the loop, states).

        h: [B, T, d], embedded tokens for the first pass, and with `reads_first` for the second, else h after the loop
        of the pass before; states: after the pass before.
        """
        if number > 0:
            states = self.begin_pass(states, part.blocks)
        if number > int(self.config.reads_first):
            h = self.handed_on(h, span)
        elif number > 0:
            h = self._again(h)
        looped, _, states = self.run_blocks(part, h, states, span)
        return looped, states

    def run_blocks(self, part: Pass, h: Tensor, states: States, span: Span) -> tuple[Tensor, Tensor, States]:
        """(h after the last whole block that is in the loop or before it, h after the last whole one, states)"""
        looped, after, span = h, list(states), self._prepared(span, h)
        for i in part.whole:
            h, after[i] = self._recomputed(self.recompute == "block", self.stack[i], h, states[i], span)
            looped = h if i < self.loop[1] else looped
        if (last := part.written) is not None:
            after[last] = self.stack[last].write(h, states[last], span)
        return looped, h, tuple(after)

    def _prepared(self, span: Span, h: Tensor) -> Span:
        for block in self.stack:
            span = block.mixer.prepare(span, product_dtype(h))
        return span

    def _trace_loss(self, h: Tensor, labels: Labels) -> Tensor:
        logits = self.readout(h.flatten(0, 1).index_select(0, labels.at))
        return F.cross_entropy(_wide(logits), labels.tokens, reduction="sum")

    def _recomputed(self, wanted: bool, function: Callable[..., T], *arguments: Any) -> T:
        if wanted and torch.is_grad_enabled():
            return checkpoint(function, *arguments, use_reentrant=False)
        return function(*arguments)

    def _keeps_state(self, block: int) -> bool:
        return self.stack[block].mixer.keeps_state(self.config.eviction)


def _wide(x: Tensor) -> Tensor:
    """x in at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
