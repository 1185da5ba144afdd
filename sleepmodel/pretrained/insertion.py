"""New layers in a pretrained model: where they stand, and the weights that they begin with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import cast

import torch

from datagen.checks import require, require_whole
from sleepmodel.mixers.attention import Attention
from sleepmodel.mixers.gated_delta import GatedDelta
from sleepmodel.model import SleepModel
from sleepmodel.warm_start import warm_start

INITS = ("attention", "zero")


def check_insert(insert: Mapping[int, str], layers: int) -> None:
    """Raise ValueError unless each key of `insert` is a layer of the model."""
    require(isinstance(insert, Mapping), "insert", insert, "a dict from layers to mixers, such as {8: 'jet'}")
    for layer in insert:
        require_whole("insert", layer, 0, layers - 1)


def check_init(init: str) -> None:
    """Raise ValueError unless `init` is one of INITS."""
    require(init in INITS, "init", init, f"one of {', '.join(INITS)}")


def layer_blocks(insert: Mapping[int, str], layers: int) -> list[int]:
    """The block that each layer of the base becomes, as an inserted block moves all after it by one."""
    return [layer + sum(after < layer for after in insert) for layer in range(layers)]


def attention_sources(model: SleepModel, new: Iterable[int]) -> dict[int, int]:
    """The attention block that each of the `new` blocks, all inserted, begins with: the next of the base, or, after
    the last, that one.

    Raises ValueError if a new mixer is neither attention nor has fast weights, or if the base has no attention.
    """
    base = [i for i, block in enumerate(model.stack) if isinstance(block.mixer, Attention)]
    base = [i for i in base if i not in model.config.inserted]
    sources = {}
    for number in new:
        name, trouble = model.config.mixers[number], "has no q, k and v of attention or fast weights to copy to"
        if not isinstance(model.stack[number].mixer, (GatedDelta, Attention)):
            raise ValueError(f"insert = {name!r}: {trouble}; use init='zero'")
        require(bool(base), "init", "attention", "zero for a model without attention")
        sources[number] = next((i for i in base if i > number), base[-1])
    return sources


def begin_with(model: SleepModel, base: SleepModel, init: str) -> None:
    """Give a model the weights of a base, and its inserted blocks that the base lacks what `init` says, as in
    `from_pretrained`. Raises ValueError where they do not fit, also between models without weights."""
    kept = warm_start(model, base)
    if init == "attention":
        copy_attention(model, attention_sources(model, set(model.config.inserted).difference(kept)))


@torch.no_grad()
def copy_attention(model: SleepModel, sources: Mapping[int, int]) -> None:
    """Give new blocks the pre-norm, q, k and v of blocks of attention, new -> source.

    Fast-weight head h gets query head h modulo n_heads, and the key and value head that this query head reads. Of each
    head, as many rows are copied as both have. The other rows stay as they are; biases, QK-norms and rotations have no
    counterpart.
    """
    for number, source in sources.items():
        new, old = model.stack[number], model.stack[source]
        new.mixer_norm.weight.copy_(old.mixer_norm.weight)
        if isinstance(new.mixer, Attention):
            for name in ("q", "k", "v"):
                getattr(new.mixer, name).load_state_dict(getattr(old.mixer, name).state_dict())
        else:
            _copy_heads(cast(GatedDelta, new.mixer), cast(Attention, old.mixer))


def _copy_heads(new: GatedDelta, old: Attention) -> None:
    queries = old.q.out_features // old.head_size
    for name, size in (("q", new.key_dim), ("k", new.key_dim), ("v", new.value_dim)):
        theirs = getattr(old, name).weight.unflatten(0, (-1, old.head_size))
        shared, rows = queries // len(theirs), min(size, old.head_size)
        for head, weight in enumerate(getattr(new, name).weight.unflatten(0, (-1, size))):
            weight[:rows] = theirs[head % queries // shared, :rows]
