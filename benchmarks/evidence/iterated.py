"""Iterated sleep: each pass computes one step of Rule 110. moonshot.py trains and tests its variants with this module.

Attention is causal, so in one pass a token cannot know its cell's right neighbour. Labels therefore move one cell to
the right with each step: position p computes the new state of cell p - 1, from positions p - 2 to p. Only positions 0
and 1 need the end of the window, which they read from the fast weights that the pass before has written. The first pass
therefore only reads.
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
DRAWN = 6400  # rows generated at a time
ASKED = (1, 2, 4, 8, 16, 32, 64, 128, 256)
DIFFERENTIATED = 2  # passes between two truncations of the gradient
FRONT = 0.5  # share of batches with the deepest open t; the others draw t uniformly from the open ones
TRAIN = TrainConfig(warmup_steps=50)
VERSION = 1  # raise it when a change here or in the model changes the result of a training


@dataclass(frozen=True)
class Recipe:
    """How a variant is trained.

    steps: optimiser steps, each on `batch` fresh rows.
    iterated: t + 1 passes for t steps (t without `reads_first`); else one pass for every t.
    shallowest, deepest: t in training. It starts at `shallowest`; each further t opens when the one before is learned.
    carry: what a pass hands to the next. "token": the embedding of the token that its readout finds most likely, with
        the gradient of "mixture" (straight-through); "mixture": the embeddings weighted by the readout's probabilities;
        "hidden": its normalised hidden vectors.
    frame: cells by which the labels move to the right with each step.
    traced: whether the readout of each pass has a loss against the state after as many steps.
    reads_first: whether the first pass only writes fast weights, so that the second starts from the window's tokens.
    opens_at: the share of validation cells right at which the next t opens.
    eta: the learning rate of the fast weights; states: windows in a row, of `cells` cells each.
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
        """A model for rows of `states` windows and as many windows of answers."""
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
    """traces: for each pass, the logits of the window, float32 [rows, windows, cells, vocab]; answers: logits of the
    answers, of the same shape."""

    traces: list[Tensor]
    answers: Tensor


class Rows:
    """An endless supply of fresh rows of a split."""

    def __init__(self, recipe: Recipe, split: str, seed: int) -> None:
        self.recipe, self.split, self.seed = recipe, split, seed
        self.task = Rule110(recipe.cells, recipe.states, steps=0)
        self.shards = count()
        self.left = np.empty((0, recipe.states, recipe.cells), np.uint8)

    def draw(self, rows: int, t: int) -> list[Tensor]:
        """The states after 0, 1, ..., t steps: int64 [rows, windows, cells], moved right by `frame` cells per step."""
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
    """Sleep on each window of `states`, then predict every cell of `answers` from the fast weights, given the answers
    before it. states, answers: int64 [rows, windows, cells]."""
    rows, windows, cells = states.shape
    weights = model.initial_states(rows)
    traces: list[list[Tensor]] = [[] for _ in range(passes)]
    for i in range(windows):
        span = Span.whole(cells, states.device, i * cells)
        begin = h = model.embedded(states[:, i], span)
        empty = begin - model.embed(states[:, i])  # the position embeddings alone
        for j in range(passes):
            if j:
                if j % DIFFERENTIATED == 0:
                    h, weights = h.detach(), map_tensors(Tensor.detach, weights)
                h = begin if j == recipe.reads_first else _carried(model, recipe, h, empty)
                weights = model.begin_pass(weights)
            _, h, weights = model.wake(h, weights, span)
            traces[j].append(model.readout(h))
        weights = model.evict(weights, span)
    found = []
    for i in range(windows):
        asked = torch.cat((torch.full((rows, 1), QUERY), answers[:, i, :-1]), 1)
        span = Span.whole(cells, states.device, (windows + i) * cells)
        h = model.embedded(asked, span)
        found.append(model.readout(model.wake(h, weights, span)[1]))
    return Read([torch.stack(trace, 1) for trace in traces], torch.stack(found, 1))


def _carried(model: SleepModel, recipe: Recipe, h: Tensor, empty: Tensor) -> Tensor:
    if recipe.carry == "hidden":
        return F.rms_norm(h, (h.shape[-1],))
    mixture = torch.softmax(model.readout(h)[..., :QUERY], -1)
    if recipe.carry == "token":
        mixture = F.one_hot(mixture.argmax(-1), QUERY) + mixture - mixture.detach()
    return empty + mixture @ model.embed.weight[:QUERY]


def loss_of(model: SleepModel, recipe: Recipe, states: list[Tensor], t: int) -> Tensor:
    """The mean cross-entropy of the answers in nats, plus that of the traces if the recipe is `traced`.

    states: as `Rows.draw` returns them.
    """
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
    """The shares right of all cells ("cells"), of rows by the first cell of each window, which is the paper's question
    ("first"), and of rows by all cells ("rows")."""
    right = read(model, recipe, states[0], states[t], recipe.passes(t)).answers.argmax(-1) == states[t]
    first = right[..., recipe.frame * t % recipe.cells].all(1)
    shares = {"cells": right, "first": first, "rows": right.flatten(1).all(1)}
    return {name: share.float().mean().item() for name, share in shares.items()}


def unread(recipe: Recipe, t: int, seed: int) -> float:
    """The share of cells that are right when each is guessed from the right answers before it, without reading the row.

    The guess is the most frequent next cell after these answers, in as many rows as a training reads. This is a floor
    for the "cells" of `accuracy`. The recipe must have one state in a row.
    """
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


def trained(recipe: Recipe, seed: int, report: Callable[[str], None]) -> dict[str, Any]:
    """Train a model of this recipe and return its record: the validation curve, and the shares right on held-out test
    rows, at each t when it was learned ("learned") and at every t of ASKED after the training ("test"; a model with one
    pass is tested at its deepest open t alone). report: called with a line of text after each validation."""
    torch.manual_seed(seed)
    model, draw = SleepModel(recipe.model), np.random.default_rng(seed)
    optimizers = build_optimizers(model, TRAIN)
    peaks, begin = peak_rates(optimizers), time.perf_counter()
    rows, held_out, test = (Rows(recipe, split, seed) for split in ("train", "validation", "test"))
    t, passes, learned, curve = recipe.shallowest, 0, list[dict[str, Any]](), list[dict[str, Any]]()
    for step in range(1, recipe.steps + 1):
        # a model with one pass cannot tell which t is meant, so it trains one t at a time
        drawn = t if not recipe.iterated or draw.random() < FRONT else int(draw.integers(recipe.shallowest, t + 1))
        loss_of(model, recipe, rows.draw(recipe.batch, drawn), drawn).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), TRAIN.grad_clip)
        # decay linearly to 0: a pass that is repeated hundreds of times has to be exact
        set_rates(optimizers, peaks, min(step / TRAIN.warmup_steps, 1 - (step - 1) / recipe.steps))
        for optimizer in optimizers:
            optimizer.step()
        model.zero_grad()
        passes += recipe.passes(drawn) + 1
        if step % VALIDATE_EVERY == 0:
            found = accuracy(model, recipe, held_out.draw(VALIDATION_ROWS, t), t)
            curve.append({"step": step, "t": t, **found})
            report(f"step {step:,} of {recipe.steps:,}, t = {t}: {found['cells']:.4f} of cells")
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
