"""A model begins with the weights of another one, where they mean the same."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from sleepmodel.mixers.attention import Attention
from sleepmodel.training.loop import build_model
from sleepmodel.warm_start import warm_start
from tests.sleepmodel.tiny import CONFIG, INSERTED, MODEL


class OwnAttention(Attention):
    """Of a user, named by its path."""


def test_a_model_begins_as_another_where_it_is_told_to() -> None:
    transformer = build_model(replace(MODEL, mixers=("attention",) * 2, eviction="sliding"), CONFIG)
    with torch.no_grad():
        for parameter in transformer.parameters():
            parameter.normal_()
    hybrid = replace(INSERTED, eviction="sliding")
    grown, again = build_model(hybrid, CONFIG), build_model(replace(hybrid, eviction="hard"), CONFIG)
    warm_start(grown, transformer)
    tokens, mask = torch.randint(0, 3, (4, 8)), torch.zeros(4, 8, dtype=torch.bool)
    mask[:, 7] = True
    # inserted blocks begin as the identity
    torch.testing.assert_close(grown(tokens, mask).logits, transformer(tokens, mask).logits)
    with torch.no_grad():
        grown.blocks[1].mixer.out.weight.normal_()
    warm_start(again, grown)
    assert all(torch.equal(p, q) for p, q in zip(again.parameters(), grown.parameters(), strict=True))
    marked = [build_model(replace(hybrid, carry="token", pass_embed=True), CONFIG) for _ in range(2)]
    warm_start(marked[0], grown)
    assert not marked[0].pass_embed.any()  # changes nothing
    torch.nn.init.normal_(marked[0].pass_embed)
    warm_start(marked[1], marked[0])
    assert torch.equal(marked[1].pass_embed, marked[0].pass_embed) and marked[0].pass_embed.all()
    with pytest.raises(ValueError, match="pass_embed = True in the model to start from: must be as in this model"):
        warm_start(grown, marked[0])
    with pytest.raises(
        ValueError, match=r"mixers = \('attention',\) in the model to start from: must be \('attention', "
    ):
        warm_start(grown, build_model(replace(MODEL, mixers=("attention",)), CONFIG))
    with pytest.raises(ValueError, match="conv = None in the model to start from: must be 4, as in this model"):
        warm_start(build_model(replace(hybrid, conv=4), CONFIG), grown)
    with pytest.raises(ValueError, match="has other sizes"):
        warm_start(grown, build_model(replace(MODEL, mixers=("attention",) * 2, mlp_ratio=2), CONFIG))


def test_a_model_does_not_begin_with_weights_that_mean_something_else() -> None:
    """Of the same sizes: nothing would fail, and the model would compute something else."""
    model = build_model(MODEL, CONFIG)
    heads, key_dim = MODEL.fast_heads, MODEL.key_dim
    others: dict[str, Any] = {
        "n_heads": 2 * MODEL.n_heads,
        "qk_norm": "none",
        "rope_base": 5e5,
        "norm_eps": 0.1,
        "max_positions": 64,
        "fast_heads": 2 * heads,
    }
    for name, value in others.items():
        # as many weights in heads of half the size
        halved = {"key_dim": key_dim // 2, "value_dim": MODEL.value_dim // 2} if name == "fast_heads" else {}
        fields = {name: value, **halved}
        with pytest.raises(ValueError, match=rf"{name} = .* in the model to start from: must be .*, as in this model"):
            warm_start(model, build_model(replace(MODEL, **fields), CONFIG))
    transformer = replace(MODEL, mixers=("attention",) * 2)
    # a model without fast weights says nothing about their sizes, whoever wrote its attention
    warm_start(build_model(INSERTED, CONFIG), build_model(replace(transformer, fast_heads=2 * heads), CONFIG))
    own = f"{__name__}:OwnAttention"
    hybrid = replace(INSERTED, mixers=(own, "gated_delta", "jet", own))
    warm_start(
        build_model(hybrid, CONFIG), build_model(replace(hybrid, mixers=(own,) * 2, inserted=(), conv=4), CONFIG)
    )


def test_a_hybrid_gets_further_layers() -> None:
    """Its own inserted blocks keep their weights, and the new one begins as the identity."""
    config = replace(MODEL, mixers=("attention", "gated_delta", "attention"), inserted=(1,))
    hybrid = build_model(config, CONFIG)
    with torch.no_grad():
        for parameter in hybrid.parameters():
            parameter.normal_(std=0.1)
    mixers = ("attention", "gated_delta", "gated_delta", "attention")
    grown = build_model(replace(config, mixers=mixers, inserted=(1, 2)), CONFIG)
    assert warm_start(grown, hybrid) == [0, 1, 3]
    tokens, mask = torch.randint(0, 3, (4, 8)), torch.zeros(4, 8, dtype=torch.bool)
    mask[:, 7] = True
    torch.testing.assert_close(grown(tokens, mask).logits, hybrid(tokens, mask).logits)
