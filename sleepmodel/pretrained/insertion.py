"""New layers in a pretrained model: where they stand, and the weights that they begin with."""

from __future__ import annotations

from collections.abc import Mapping

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


def start_as_attention(model: SleepModel) -> None:
    """Give each inserted block q, k and v of the next attention layer of the base, or, behind the last, of that one.

    The norm in front is copied, too. Fast-weight head h gets query head h modulo n_heads, and the key and value head
    that this query head reads. Of each head, as many rows are copied as both have; the other rows, and heads' biases,
    QK-norms and rotations, are not. Raises ValueError if an inserted mixer has no fast weights, or no attention is left
    to copy.
    """
    base = [i for i, block in enumerate(model.stack) if isinstance(block.mixer, Attention)]
    base = [i for i in base if i not in model.config.inserted]
    for number in model.config.inserted:
        if not base:
            raise ValueError("init = 'attention': must be zero for a model without attention")
        source = next((i for i in base if i > number), base[-1])
        _copy_attention(model.stack[number], model.stack[source], model.config.mixers[number])


@torch.no_grad()
def _copy_attention(block: Block, source: Block, name: str) -> None:
    new, old = block.mixer, source.mixer
    if not isinstance(new, GatedDelta) or not isinstance(old, Attention):
        raise ValueError(f"insert = {name!r}: has no fast weights to copy q, k and v of attention to; use init='zero'")
    block.mixer_norm.weight.copy_(source.mixer_norm.weight)
    queries = old.q.out_features // old.head_size
    for layer, theirs, size in (
        (new.q, old.q, new.key_dim),
        (new.k, old.k, new.key_dim),
        (new.v, old.v, new.value_dim),
    ):
        heads = theirs.weight.unflatten(0, (-1, old.head_size))
        shared, rows = queries // len(heads), min(size, old.head_size)
        for head, weight in enumerate(layer.weight.unflatten(0, (-1, size))):
            weight[:rows] = heads[head % queries // shared, :rows]
