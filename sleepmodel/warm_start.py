"""Initialise a model from another one, such as a hybrid from the transformer into which its fast weights were put."""

from __future__ import annotations

from torch import nn

from sleepmodel.config.model import ATTENTION, ModelConfig
from sleepmodel.model import SleepModel


def warm_start(model: SleepModel, source: SleepModel) -> list[int]:
    """Copy all weights of `source` to `model`, which may have more blocks: those in its config.inserted. Returns the
    blocks that have weights of the source.

    Inserted blocks and the `pass_embed` that `source` lacks keep their initial weights, with which they change nothing.
    Raises ValueError if the other blocks differ in their mixers, or any weight in its size.
    """
    kept = kept_blocks(model.config, source.config)
    if model.config.tied != source.config.tied:
        raise ValueError(f"tied = {source.config.tied} in the model to start from: must be as in this model")
    pairs: list[tuple[nn.Module, nn.Module]] = [(model.embed, source.embed), (model.norm, source.norm)]
    if model.lm_head is not None and source.lm_head is not None:
        pairs.append((model.lm_head, source.lm_head))
    if model.config.max_positions is not None and source.config.max_positions is not None:
        pairs.append((model.position_embed, source.position_embed))
    pairs += zip((model.stack[i] for i in kept), source.stack, strict=True)
    for new, old in pairs:
        try:
            new.load_state_dict(old.state_dict())
        except RuntimeError as error:
            raise ValueError(f"the model to start from has other sizes than this model: {error}") from error
    if model.config.pass_embed and source.config.pass_embed:
        model.pass_embed.data.copy_(source.pass_embed.data)
    return kept


def kept_blocks(model: ModelConfig, source: ModelConfig) -> list[int]:
    """The blocks of a model, one for each block of the source that it begins with, in order. Raises ValueError if the
    source has other blocks, other convolutions in them, or a `pass_embed` that the model lacks."""
    blocks = [i for i in range(len(model.mixers)) if i not in model.inserted]
    if source.mixers == model.mixers and source.inserted == model.inserted:
        blocks = list(range(len(model.mixers)))
    mixers = tuple(model.mixers[i] for i in blocks)
    if mixers != source.mixers:
        raise ValueError(
            f"mixers = {source.mixers} in the model to start from: must be {mixers}, those of this model without "
            f"its inserted blocks {model.inserted}"
        )
    if source.pass_embed and not model.pass_embed:
        raise ValueError("pass_embed = True in the model to start from: must be as in this model, which has False")
    if source.conv != model.conv and not set(mixers) <= ATTENTION:
        raise ValueError(f"conv = {source.conv} in the model to start from: must be {model.conv}, as in this model")
    return blocks
