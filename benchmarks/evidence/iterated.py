"""A sleep whose passes are steps of Rule 110: how moonshot.py trains a line and asks it.

A token sees what stands before it, so that in one pass it cannot know its cell's right neighbour. In a frame that
moves by a cell each step it need not: position p then holds cell p - 1, made from positions p - 2 to p. Positions 0 and
1 alone want the end of the window, which the fast weights hold of the pass before; so a first pass only reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datagen.rule110 import QUERY, Rule110, evolved
from sleepmodel import ModelConfig, SleepModel, TrainConfig
from sleepmodel.accounting import flops
from sleepmodel.mixers.base import Span
from sleepmodel.states import map_tensors
from sleepmodel.training.optim import build_optimizers, peak_rates, set_rates

VALIDATE_EVERY, VALIDATION_ROWS, TEST_ROWS = 100, 256, 512
DRAWN = 6400  # rows that are made at a time
ASKED = (1, 2, 4, 8, 16, 32, 64, 128, 256)
DIFFERENTIATED = 2  # passes that a gradient goes through
FRONT = 0.5  # share of batches with the deepest open t; the others draw theirs below it
TRAIN = TrainConfig(warmup_steps=50)
VERSION = 1  # raised by a change here or in the model that changes what is trained


@dataclass(frozen=True)
class Recipe:
    """How a line is trained.

    steps       of the optimizer, each on `batch` fresh rows.
    iterated    t + 1 passes for t steps; else one pass for whatever t is open.
    shallowest  t in training, from here to `deepest`: each opens when the one before it is learned.
    carry       what a pass hands to the next: "token", the embeddings of what its readout finds likeliest (with the
                gradient of their mixture); "mixture", that mixture; "hidden", its normalised hidden vectors.
    frame       cells by which the labels move to the right with each step.
    traced      each pass's own readout of the window is trained on the state that it should hold.
    reads_first the first pass only writes its fast weights; the second begins with the window's tokens again.
    opens_at    share of validation cells at which the next t opens.
    """

    steps: int = 2400
    iterated: bool = True
    carry: Literal["token", "mixture", "hidden"] = "token"
    frame: int = 1
    traced: bool = True
    reads_first: bool = True
    shallowest: int = 1
    deepest: int = 4
    opens_at: float = 0.995
    mixers: tuple[str, ...] = ("attention", "gated_delta")
    fast_heads: int = 2
    eta: float = 2.0
    cells: int = 24
    states: int = 1
    batch: int = 64

    @property
    def model(self) -> ModelConfig:
        """Of a row of `states` windows, and a window of answers for each of them."""
        return ModelConfig(
            vocab_size=3,
            d_model=64,
            n_heads=2,
            mixers=self.mixers,
            window=self.cells,
            fast_heads=self.fast_heads,
            fast_weight_lr=self.eta,
            max_positions=2 * self.states * self.cells,
        )

    def passes(self, t: int) -> int:
        """N for t steps."""
        return t + self.reads_first if self.iterated else 1


class Read(NamedTuple):
    """traces: of each pass, logits [rows, windows, cells, vocab] of the window; answers: logits of the same shape."""

    traces: list[Tensor]
    answers: Tensor


class Rows:
    """Fresh rows of a split, without end."""

    def __init__(self, recipe: Recipe, split: str, seed: int) -> None:
        self.recipe, self.split, self.seed = recipe, split, seed
        self.task = Rule110(recipe.cells, recipe.states, steps=0)
        self.shards = count()
        self.left = np.empty((0, recipe.states, recipe.cells), np.uint8)

    def draw(self, rows: int, t: int) -> list[Tensor]:
        """The states after 0, 1, ..., t steps, each in its frame: int64 [rows, windows, cells]."""
        while len(self.left) < rows:
            tokens = self.task.sample(self.split, self.seed, next(self.shards), max(rows, DRAWN)).tokens
            context = tokens[:, : self.task.context_length].astype(np.uint8)
            self.left = np.concatenate((self.left, context.reshape(-1, *self.left.shape[1:])))
        state, self.left = self.left[:rows], self.left[rows:]
        found = [state]
        for step in range(1, t + 1):
            state = evolved(state.reshape(-1, self.recipe.cells), 1, self.recipe.cells).reshape(state.shape)
            found.append(np.roll(state, self.recipe.frame * step, axis=-1))
        return [torch.from_numpy(each.astype(np.int64)) for each in found]


def read(model: SleepModel, recipe: Recipe, states: Tensor, answers: Tensor, passes: int) -> Read:
    """Sleep on each window of `states`, then be asked every cell. states, answers: int64 [rows, windows, cells]."""
    rows, windows, cells = states.shape
    span, weights = Span.whole(cells, states.device), model.initial_states(rows)
    traces: list[list[Tensor]] = [[] for _ in range(passes)]
    for i in range(windows):
        place = torch.tensor([[i * cells]])
        begin = h = model.embedded(states[:, i], place, span)
        empty = begin - model.embed(states[:, i])  # where the tokens stand, and no token
        for j in range(passes):
            if j:
                if j % DIFFERENTIATED == 0:
                    h, weights = h.detach(), map_tensors(Tensor.detach, weights)
                h = begin if j == recipe.reads_first else _carried(model, recipe, h, empty)
                weights = model.begin_pass(weights)
            h, weights = model.run_blocks(h, weights, span)
            traces[j].append(model.readout(h))
        weights = model.evict(weights, span)
    found = []
    for i in range(windows):
        asked = torch.cat((torch.full((rows, 1), QUERY), answers[:, i, :-1]), 1)
        h = model.embedded(asked, torch.tensor([[(windows + i) * cells]]), span)
        found.append(model.readout(model.run_blocks(h, weights, span)[0]))
    return Read([torch.stack(trace, 1) for trace in traces], torch.stack(found, 1))


def _carried(model: SleepModel, recipe: Recipe, h: Tensor, empty: Tensor) -> Tensor:
    if recipe.carry == "hidden":
        return F.rms_norm(h, (h.shape[-1],))
    mixture = torch.softmax(model.readout(h)[..., :QUERY], -1)
    if recipe.carry == "token":
        mixture = F.one_hot(mixture.argmax(-1), QUERY) + mixture - mixture.detach()
    return empty + mixture @ model.embed.weight[:QUERY]


def loss_of(model: SleepModel, recipe: Recipe, states: list[Tensor], t: int) -> Tensor:
    """Mean cross-entropy of the answers in nats, and that of the traces."""
    found = read(model, recipe, states[0], states[t], recipe.passes(t))
    loss = _cross_entropy(found.answers, states[t])
    if recipe.iterated and recipe.traced:
        traces = zip(found.traces[recipe.reads_first :], states[1:], strict=True)
        loss = loss + torch.stack([_cross_entropy(trace, state) for trace, state in traces]).mean()
    return loss


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten())


@torch.no_grad()
def accuracy(model: SleepModel, recipe: Recipe, states: list[Tensor], t: int) -> dict[str, float]:
    """Shares of cells, of first cells of all windows together (what the paper asks), and of whole rows right."""
    right = read(model, recipe, states[0], states[t], recipe.passes(t)).answers.argmax(-1) == states[t]
    first = right[..., recipe.frame * t % recipe.cells].all(1)
    shares = {"cells": right, "first": first, "rows": right.flatten(1).all(1)}
    return {name: share.float().mean().item() for name, share in shares.items()}


def unread(recipe: Recipe, t: int, seed: int) -> float:
    """Share of cells right for who has not read the row and goes by the right answers before each alone: the commonest
    next cell in as many rows as a training reads. It is a floor for the `cells` of `accuracy`; states: 1."""
    rows, test = (Rows(recipe, split, seed) for split in ("train", "test"))
    known = np.concatenate([rows.draw(DRAWN, t)[t][:, 0] for _ in range(recipe.steps * recipe.batch // DRAWN)])
    asked = test.draw(DRAWN, t)[t][:, 0].numpy()
    right = []
    for p in range(recipe.cells):
        before = 1 << np.arange(p)
        found = known[:, :p] @ before
        ones = np.bincount(found, known[:, p] - 0.5, minlength=1 << p)
        guess = np.where(ones == 0, known[:, p].mean() > 0.5, ones > 0)
        right.append((guess[asked[:, :p] @ before] == asked[:, p]).mean())
    return float(np.mean(right))


def trained(recipe: Recipe, seed: int, told: Callable[[str], None]) -> dict[str, Any]:
    """How a model of this recipe came about: shares right on held-out test rows at each t when it was learned
    and, at the end, at every t of ASKED (or the deepest open one). `told` hears of each validation."""
    torch.manual_seed(seed)
    model, draw = SleepModel(recipe.model), np.random.default_rng(seed)
    optimizers = build_optimizers(model, TRAIN)
    peaks, begin = peak_rates(optimizers), time.perf_counter()
    rows, held_out, test = (Rows(recipe, split, seed) for split in ("train", "validation", "test"))
    t, passes, learned, curve = recipe.shallowest, 0, list[dict[str, Any]](), list[dict[str, Any]]()
    for step in range(1, recipe.steps + 1):
        # one pass does not see how many steps are asked, so that there is one answer to learn at a time
        drawn = t if not recipe.iterated or draw.random() < FRONT else int(draw.integers(recipe.shallowest, t + 1))
        loss_of(model, recipe, rows.draw(recipe.batch, drawn), drawn).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), TRAIN.grad_clip)
        # linear to nothing: what a thousand passes repeat has to be exact
        set_rates(optimizers, peaks, min(step / TRAIN.warmup_steps, 1 - (step - 1) / recipe.steps))
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()
        passes += recipe.passes(drawn) + 1
        if step % VALIDATE_EVERY == 0:
            found = accuracy(model, recipe, held_out.draw(VALIDATION_ROWS, t), t)
            curve.append({"step": step, "t": t, **found})
            told(f"step {step:,} of {recipe.steps:,}, t = {t}: {found['cells']:.4f} of cells")
            if found["cells"] >= recipe.opens_at and t < recipe.deepest:
                learned.append({"step": step, "t": t, **accuracy(model, recipe, test.draw(TEST_ROWS, t), t)})
                t += 1
    each, asked = recipe.batch * recipe.states, ASKED if recipe.iterated else (t,)
    return {
        "seed": seed,
        "curve": curve,
        "learned": learned,
        "test": [{"step": recipe.steps, "t": t, **accuracy(model, recipe, test.draw(TEST_ROWS, t), t)} for t in asked],
        "tokens": 2 * recipe.steps * each * recipe.cells,
        "flops": 3 * passes * each * flops(model, recipe.cells),
        "seconds": time.perf_counter() - begin,
    }
