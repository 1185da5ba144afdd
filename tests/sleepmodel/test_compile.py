"""Blocks under torch.compile; its "eager" backend traces as the real one does, without a minute of compilation."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from sleepmodel.blocks import Block
from sleepmodel.mixers.base import Span
from sleepmodel.states import named_tensors
from tests.sleepmodel.conftest import build_small

LENGTHS = range(1, 10)  # more than torch compiles by default


@pytest.fixture
def traced() -> Iterator[list[Any]]:
    """The graphs of a test, in which a function that has too many of them raises."""
    torch.compiler.reset()
    with torch._dynamo.config.patch(recompile_limit=8, fail_on_recompile_limit_hit=True):
        yield []


def compiled(block: Block, graphs: list[Any], **options: Any) -> Block:
    def trace(graph: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    block.compile(backend=trace, fullgraph=True, **options)
    return block


@pytest.mark.parametrize("low", [False, True])
def test_a_compiled_block_computes_what_it_did(low: bool, traced: list[Any]) -> None:
    """Both of its functions, each in one graph, in float32 and under autocast."""
    eager, model = (build_small(mixers=("attention", "gated_delta"), dtype=torch.float32) for _ in range(2))
    h, span = torch.randn(2, 6, 16), Span.whole(6, torch.device("cpu"))
    tolerance = 0.03 if low else 1e-5
    for number, block in enumerate(model.stack):
        compiled(block, traced)
        state = model.initial_states(2)[number]
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            got, expected = (
                (*each(h, state, span), each.write(h, state, span)) for each in (block, eager.stack[number])
            )
        for (name, a), (_, b) in zip(named_tensors(got, ""), named_tensors(expected, ""), strict=True):
            assert a.dtype == b.dtype and (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1), name
        assert len(traced) == 2 * (number + 1)


def test_every_length_is_compiled(traced: list[Any]) -> None:
    block = compiled(build_small().stack[0], traced, dynamic=False)
    state = block.mixer.initial_state(2)
    for tokens in LENGTHS:
        h, span = torch.randn(2, tokens, 16, dtype=torch.float64), Span.whole(tokens, torch.device("cpu"))
        block.write(h, state, span)
    assert len(traced) == len(LENGTHS)
