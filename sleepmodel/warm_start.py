"""Initialise a model from another one, such as a hybrid from the transformer into which its fast weights were put."""

from __future__ import annotations

from torch import nn

from sleepmodel.config.model import ModelConfig
from sleepmodel.model import SleepModel


def warm_start(model: SleepModel, source: SleepModel) -> list[int]:
    """Copy all weights of `source` to `model`, which may have more blocks: those in its config.inserted. Returns the
    blocks that have weights of the source.

    Inserted blocks and the `pass_embed` that `source` lacks keep their initial weights, with which they change nothing.
    Raises ValueError if the other blocks differ in their mixers, or a weight in its size or in what it computes.
    """
    kept = _kept_blocks(model.config, source.config, source.has_fast_weights)
    if model.config.tied != source.config.tied:
        raise ValueError(f"tied = {source.config.tied} in the model to start from: must be as in this model")
    pairs: list[tuple[nn.Module, nn.Module]] = [(model.embed, source.embed), (model.norm, source.norm)]
    if model.lm_head is not None and source.lm_head is not None:
        pairs.append((model.lm_head, source.lm_head))
    if model.config.max_positions is not None:
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


def _kept_blocks(model: ModelConfig, source: ModelConfig, fast: bool) -> list[int]:
    """The blocks of a model, one for each block of the source that it begins with, in order. fast: whether the source
    has fast weights. Raises ValueError if the source has other blocks, a `pass_embed` that the model lacks, or a field
    by which its weights mean something else.
    """
    kept = list[int]()
    for i, mixer in enumerate(model.mixers):
        old = len(kept)  # the next block of the source
        begins = i not in model.inserted or old in source.inserted
        if begins and old < len(source.mixers) and mixer == source.mixers[old]:
            kept.append(i)
    others = [i for i in range(len(model.mixers)) if i not in kept]
    if len(kept) < len(source.mixers) or not set(others) <= set(model.inserted):
        without = tuple(mixer for i, mixer in enumerate(model.mixers) if i not in model.inserted)
        raise ValueError(
            f"mixers = {source.mixers} in the model to start from: must be {without}, those of this model without "
            f"its inserted blocks {model.inserted}"
        )
    if source.pass_embed and not model.pass_embed:
        raise ValueError("pass_embed = True in the model to start from: must be as in this model, which has False")
    own, theirs = _meaning(model, fast), _meaning(source, fast)
    for name, value in theirs.items():
        if value != own[name]:
            raise ValueError(f"{name} = {value} in the model to start from: must be {own[name]}, as in this model")
    return kept


def _meaning(config: ModelConfig, fast: bool) -> dict[str, object]:
    """The fields that decide what weights of one size compute. fast: also those of fast weights."""
    found: dict[str, object] = {
        "n_heads": config.n_heads,
        "kv_heads": config.kv_heads or config.n_heads,
        "head_dim": config.head_dim or config.d_model // config.n_heads,
    }
    alike = ("qk_norm", "rope_base", "rope_scaling", "local_span", "norm_eps", "max_positions")
    of_fast_weights = ("fast_heads", "key_dim", "value_dim", "conv")
    return found | {name: getattr(config, name) for name in (*alike, *(of_fast_weights if fast else ()))}
