"""The model and its sleep (paper, Algorithm 1): a stack of blocks that is run N times over every window to remember.

States are a tuple with one entry a block: the fast weights of that block, or None where its mixer keeps nothing.
They are all that crosses a window's border.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sleepmodel.config import ModelConfig
from sleepmodel.layers import MIXERS, MLP, Mixer

States = tuple[Tensor | None, ...]
T = TypeVar("T")


class Output(NamedTuple):
    """loss: scalar, mean cross-entropy of the answer tokens in nats; logits: [answers, vocab], row-major order."""

    loss: Tensor
    logits: Tensor


class Block(nn.Module):
    """A sequence mixer and an MLP, each behind an RMSNorm and beside a residual."""

    def __init__(self, config: ModelConfig, mixer: str) -> None:
        super().__init__()
        self.mixer_norm = nn.RMSNorm(config.d_model)
        self.mixer: Mixer = MIXERS[mixer](config)
        self.mlp_norm = nn.RMSNorm(config.d_model)
        self.mlp = MLP(config)

    def forward(self, h: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """h: [B, T, d] -> (h, the mixer's state after the window)."""
        y, state = self.mixer(self.mixer_norm(h), state)
        h = h + y
        return h + self.mlp(self.mlp_norm(h)), state

    def write(self, h: Tensor, state: Tensor) -> Tensor:
        """The state that `forward` would return, without the output that nobody reads."""
        return self.mixer.write(self.mixer_norm(h), state)


class SleepModel(nn.Module):
    """Embed, blocks, readout. `checkpoint_activations` recomputes each pass over the blocks in the backward."""

    def __init__(self, config: ModelConfig, checkpoint_activations: bool = False) -> None:
        super().__init__()
        self.config = config
        self.checkpoint_activations = checkpoint_activations
        self.embed = nn.Embedding(config.vocab_size, config.d_model)
        if config.max_positions is not None:
            self.position_embed = nn.Embedding(config.max_positions, config.d_model)
        self.blocks = nn.ModuleList(Block(config, mixer) for mixer in config.mixers)
        self.norm = nn.RMSNorm(config.d_model)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        # the last block whose state survives a window: what lies behind it does nothing for a sleep
        keeping = [i for i, block in enumerate(self.stack) if block.mixer.keeps_state]
        self.last_write = keeping[-1] if keeping else None

    @property
    def stack(self) -> list[Block]:
        """The blocks, first to last."""
        return cast(list[Block], list(self.blocks))

    def forward(self, tokens: Tensor, loss_mask: Tensor) -> Output:
        """Algorithm 1: sleep on the windows without an answer, predict the answers in the others in one pass.

        tokens: int64 [B, T]; loss_mask: bool [B, T], True at the answer tokens, each predicted from the one before.
        Raises ValueError where an answer is first in its window (no output survives the border), where the rows of a
        batch disagree on which windows hold answers, and where a row is too long or has no answer.
        """
        holds_answers = self._check(tokens, loss_mask)
        states = self.initial_states(len(tokens))
        logits, places = [], []
        for start in range(0, tokens.shape[1], self.config.window):
            window = slice(start, min(start + self.config.window, tokens.shape[1]))
            h = self.embedded(tokens[:, window], start)
            if not holds_answers[start // self.config.window]:
                states = self.sleep(h, states)
                continue
            h, states = self.run_blocks(h, states)
            row, column = loss_mask[:, window].nonzero(as_tuple=True)
            logits.append(self.readout(h[row, column - 1]))
            places.append(row * tokens.shape[1] + start + column)
        order = torch.cat(places).argsort()
        out = torch.cat(logits)[order]
        wide = out.to(torch.promote_types(out.dtype, torch.float32))
        return Output(F.cross_entropy(wide, tokens[loss_mask]), out)

    def sleep(self, h: Tensor, states: States) -> States:
        """N passes over a full window of embedded tokens h [B, L, d]; only the fast weights come out."""
        if self.last_write is None:
            return states
        for _ in range(self.config.sleep_passes - 1):
            h, states = self.run_blocks(h, states)
        return self._recomputed(self._consolidate, h, states)

    def run_blocks(self, h: Tensor, states: States) -> tuple[Tensor, States]:
        """One pass of every block over a window: h [B, T, d] -> (h, states)."""
        return self._recomputed(self._pass, h, states)

    def embedded(self, tokens: Tensor, start: int) -> Tensor:
        """Tokens [B, T], the first of which is token `start` of its row, as vectors [B, T, d]."""
        h = self.embed(tokens)
        if self.config.max_positions is not None:
            h = h + self.position_embed(torch.arange(start, start + tokens.shape[1], device=tokens.device))
        return h

    def readout(self, h: Tensor) -> Tensor:
        """h: [..., d] -> logits [..., vocab]."""
        return self.lm_head(self.norm(h))

    def initial_states(self, batch: int) -> States:
        """Empty fast weights for `batch` rows."""
        device = self.lm_head.weight.device
        return tuple(b.mixer.initial_state(batch, device) if b.mixer.keeps_state else None for b in self.stack)

    @torch.no_grad()
    def answer(self, tokens: Tensor, n: int = 1) -> Tensor:
        """Greedy answers int64 [B, n] to prompts tokens int64 [B, T], all in the window of the last prompt token."""
        for _ in range(n):
            tokens = F.pad(tokens, (0, 1))
            mask = torch.zeros_like(tokens, dtype=torch.bool)
            mask[:, -1] = True
            tokens[:, -1] = self(tokens, mask).logits.argmax(-1)
        return tokens[:, -n:]

    def n_params(self) -> int:
        """Number of trained weights."""
        return sum(p.numel() for p in self.parameters())

    def state_bytes(self, batch_size: int) -> int:
        """Bytes of fast weights for `batch_size` rows: all that the model keeps of what it has read."""
        return sum(s.nbytes for s in self.initial_states(batch_size) if s is not None)

    def flops(self, tokens: int) -> int:
        """Forward matmul FLOPs of one row of `tokens` tokens: every window is slept on but the last, which answers."""
        slept = (tokens - 1) // self.config.window
        last = tokens - slept * self.config.window
        return slept * self._sleep_flops() + self._blocks_flops(last)

    def _sleep_flops(self) -> int:
        window, passes = self.config.window, self.config.sleep_passes
        if self.last_write is None:
            return 0
        last_pass = self._blocks_flops(window, self.last_write) + self.stack[self.last_write].mixer.write_flops(window)
        return (passes - 1) * self._blocks_flops(window) + last_pass

    def _blocks_flops(self, tokens: int, blocks: int | None = None) -> int:
        return sum(block.mixer.flops(tokens) + block.mlp.flops(tokens) for block in self.stack[:blocks])

    def _pass(self, h: Tensor, states: States) -> tuple[Tensor, States]:
        after = []
        for block, state in zip(self.stack, states, strict=True):
            h, state = block(h, state)
            after.append(state)
        return h, tuple(after)

    def _consolidate(self, h: Tensor, states: States) -> States:
        """The last pass of a sleep: as `_pass`, but nothing is computed behind the last write."""
        assert self.last_write is not None
        after, kept = list(states), states[self.last_write]
        assert kept is not None
        for i, block in enumerate(self.stack[: self.last_write]):
            h, after[i] = block(h, states[i])
        after[self.last_write] = self.stack[self.last_write].write(h, kept)
        return tuple(after)

    def _recomputed(self, function: Callable[[Tensor, States], T], h: Tensor, states: States) -> T:
        if self.checkpoint_activations and torch.is_grad_enabled():
            return checkpoint(function, h, states, use_reentrant=False)
        return function(h, states)

    def _check(self, tokens: Tensor, loss_mask: Tensor) -> list[bool]:
        """Which windows hold answers; raises ValueError on a batch that has no meaning under Algorithm 1."""
        if tokens.dim() != 2 or tokens.shape != loss_mask.shape or loss_mask.dtype != torch.bool:
            raise ValueError(
                f"tokens {tuple(tokens.shape)} and loss_mask {tuple(loss_mask.shape)} ({loss_mask.dtype}): "
                "must both be [B, T], the mask boolean"
            )
        if self.config.max_positions is not None and tokens.shape[1] > self.config.max_positions:
            raise ValueError(
                f"row length {tokens.shape[1]}: must be at most max_positions = {self.config.max_positions}"
            )
        window = self.config.window
        mask = F.pad(loss_mask, (0, -tokens.shape[1] % window)).unflatten(1, (-1, window)).cpu()
        first = mask[:, :, 0].any(1)
        if first.any():
            row = int(first.nonzero()[0])
            raise ValueError(
                f"row {row}: an answer stands first in a window of {window} tokens, where nothing can predict it"
            )
        held = mask.any(2)
        if (held != held[:1]).any():
            row = int((held != held[:1]).any(1).nonzero()[0])
            raise ValueError(
                f"row {row}: its answers lie in other windows than those of row 0; batch rows of one layout"
            )
        if not held.any():
            raise ValueError("loss_mask: must have at least one answer in each row")
        return [bool(h) for h in held[0]]
