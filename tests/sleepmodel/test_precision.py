"""A model whose weights are bfloat16 computes what the same weights in float32 do, up to rounding."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from sleepmodel import SleepModel
from sleepmodel.mixers.base import Span
from sleepmodel.states import named_tensors
from sleepmodel.training.engine import LocalEngine
from tests.sleepmodel.conftest import build_small, every_kind
from tests.sleepmodel.tiny import CONFIG, MODEL

# relative norms: bfloat16 has 8 bits; of six seeds of each kind the worst had 0.023, 0.005 and 0.998
LOGITS, LOSS, COSINE = 0.05, 0.02, 0.99
NOISE = 0.1  # the larger weights of the other tests amplify rounding until nothing is left to compare


def _pair(**fields: Any) -> tuple[SleepModel, SleepModel]:
    low = build_small(dtype=torch.float32, noise=NOISE, sleep_passes=2, **fields).to(torch.bfloat16)
    wide = build_small(dtype=torch.float32, noise=NOISE, sleep_passes=2, **fields)
    wide.load_state_dict({name: weight.float() for name, weight in low.state_dict().items()})
    return low, wide


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@every_kind
def test_forward_and_backward_in_bfloat16(fields: dict[str, Any], eviction: str) -> None:
    low, wide = _pair(eviction=eviction, **fields)
    generator = torch.Generator().manual_seed(0)
    tokens, mask = torch.randint(0, 5, (4, 20), generator=generator), torch.zeros(4, 20, dtype=torch.bool)
    mask[:, -1], mask[0, 10], tokens[1, :3] = True, True, -1
    got, expected = low(tokens, mask), wide(tokens, mask)
    assert got.logits.dtype == torch.bfloat16 and got.loss.dtype == torch.float32
    assert (got.logits - expected.logits).norm() <= LOGITS * expected.logits.norm()
    assert got.loss.item() == pytest.approx(expected.loss.item(), rel=LOSS)
    got.loss.backward()
    expected.loss.backward()
    both = (torch.cat([p.grad.flatten().float() for p in m.parameters()]) for m in (low, wide))  # type: ignore[union-attr]
    assert torch.nn.functional.cosine_similarity(*both, dim=0) > COSINE


@every_kind
def test_the_fast_weights_stay_float32(fields: dict[str, Any]) -> None:
    low, _ = _pair(**fields)
    tokens = torch.zeros(2, low.config.window, dtype=torch.int64)
    span = Span.whole(tokens.shape[1], tokens.device)
    states, _ = low.sleep(low.embedded(tokens, span), low.initial_states(2), span)
    written = [leaf for name, leaf in named_tensors(states, "") if leaf.shape[1:] == (2, 8, 8)]
    assert written and all(leaf.dtype == torch.float32 and leaf.any() for leaf in written)


def test_plain_torch_refuses_bfloat16_weights() -> None:
    config = replace(CONFIG, precision="bfloat16_weights")
    with pytest.raises(
        ValueError, match="precision = 'bfloat16_weights': must be float32 or bfloat16 without DeepSpeed"
    ):
        LocalEngine(SleepModel(MODEL), config)
