"""New layers in a pretrained model: where they stand, and the weights that they begin with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch

from datagen.checks import require, require_whole
from sleepmodel.mixers.attention import Attention
from sleepmodel.mixers.gated_delta import GatedDelta
from sleepmodel.model import Block, SleepModel

INITS = ("attention", "zero")


def check_insert(insert: Mapping[int, str], init: str, layers: int) -> None:
    """Raise ValueError unless each key of `insert` is a layer of the model, and `init` one of INITS."""
    require(isinstance(insert, Mapping), "insert", insert, "a dict from layers to mixers, such as {8: 'jet'}")
    for layer in insert:
        require_whole("insert", layer, 0, layers - 1)
    require(init in INITS, "init", init, f"one of {', '.join(INITS)}")


def layer_blocks(insert: Mapping[int, str], layers: int) -> list[int]:
    """The block that each layer of the base becomes, as an inserted block moves all behind it by one."""
    return [layer + sum(place < layer for place in insert) for layer in range(layers)]


def attention_sources(model: SleepModel) -> dict[int, int]:
    """The attention block that each inserted block begins with: the next of the base, or, behind the last, that one.

    Raises ValueError if an inserted mixer has no fast weights, or if the base has no attention.
    """
    base = [i for i, block in enumerate(model.stack) if isinstance(block.mixer, Attention)]
    base = [i for i in base if i not in model.config.inserted]
    for number in model.config.inserted:
        name, trouble = model.config.mixers[number], "has no fast weights to copy q, k and v of attention to"
        if not isinstance(model.stack[number].mixer, GatedDelta):
            raise ValueError(f"insert = {name!r}: {trouble}; use init='zero'")
        require(bool(base), "init", "attention", "zero for a model without attention")
    return {number: next((i for i in base if i > number), base[-1]) for number in model.config.inserted}


@torch.no_grad()
def copy_attention(block: Block, source: Block) -> None:
    """Give a block of fast weights the norm in front, and q, k and v, of a block of attention.

    Fast-weight head h gets query head h modulo n_heads, and the key and value head that this query head reads. Of each
    head, as many rows are copied as both have. The other rows stay as they are; biases, QK-norms and rotations have no
    counterpart.
    """
    new, old = cast(GatedDelta, block.mixer), cast(Attention, source.mixer)
    block.mixer_norm.weight.copy_(source.mixer_norm.weight)
    queries = old.q.out_features // old.head_size
    for name, size in (("q", new.key_dim), ("k", new.key_dim), ("v", new.value_dim)):
        theirs = getattr(old, name).weight.unflatten(0, (-1, old.head_size))
        shared, rows = queries // len(theirs), min(size, old.head_size)
        for head, weight in enumerate(getattr(new, name).weight.unflatten(0, (-1, size))):
            weight[:rows] = theirs[head % queries // shared, :rows]
