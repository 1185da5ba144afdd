"""Initialise a model from another one, such as a hybrid from a transformer without fast-weight blocks."""

from __future__ import annotations

from torch import nn

from sleepmodel.mixers.attention import Attention
from sleepmodel.model import SleepModel


def warm_start(model: SleepModel, source: SleepModel) -> None:
    """Copy the embeddings, the readout and the attention blocks, in order, from `source` to `model`.

    The other blocks keep their initial weights, with which they are the identity. Raises ValueError if the two models
    differ in the number of attention blocks or in their sizes.
    """
    if model.config.tied != source.config.tied:
        raise ValueError(f"tied = {source.config.tied} in the model to start from: must be as in this model")
    pairs: list[tuple[nn.Module, nn.Module]] = [(model.embed, source.embed), (model.norm, source.norm)]
    if model.lm_head is not None and source.lm_head is not None:
        pairs.append((model.lm_head, source.lm_head))
    if model.config.max_positions is not None and source.config.max_positions is not None:
        pairs.append((model.position_embed, source.position_embed))
    mine, theirs = ([b for b in each.stack if isinstance(b.mixer, Attention)] for each in (model, source))
    if len(mine) != len(theirs):
        raise ValueError(f"{len(theirs)} attention blocks to start from: must be {len(mine)}, as this model has")
    for new, old in (*pairs, *zip(mine, theirs, strict=True)):
        try:
            new.load_state_dict(old.state_dict())
        except RuntimeError as error:
            raise ValueError(f"the model to start from has other sizes than this model: {error}") from error
