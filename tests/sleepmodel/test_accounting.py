"""FLOPs and sizes are what torch counts, and what a session holds."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sleepmodel import Session
from sleepmodel.accounting import flops, kv_bytes, n_params, state_bytes, training_flops
from sleepmodel.inputs import predicting_windows
from sleepmodel.mixers import gated_delta as fast_weights
from tests.sleepmodel.conftest import ANSWERS, ARCHITECTURES, EVERY_MIXER, MakeModel, every_architecture, rows


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("loop", [None, (1, 2)])
@pytest.mark.parametrize(
    ("sleep_on", "answers"),
    [("prompts", (19, 20)), ("prompts", (3, 14, 15)), ("all", (5, 6, 20))],
)
@pytest.mark.parametrize(
    "fields",
    [
        *({"mixers": mixers} for mixers in (("attention", "gated_delta"), EVERY_MIXER, ("jet", "attention"))),
        *ARCHITECTURES.values(),
    ],
)
def test_flops_are_what_torch_counts(
    make_model: MakeModel,
    fields: dict[str, Any],
    loop: tuple[int, int] | None,
    eviction: str,
    sleep_on: str,
    answers: tuple[int, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """But for the triangular solves, C x C by C x V at half a product's cost, and the readout of the answers."""
    model = make_model(loop=loop, eviction=eviction, sleep_on=sleep_on, dtype=torch.float32, **fields)
    tokens, mask = rows(0, batch=1, answers=answers)
    solves: list[int] = []

    def counted(rule: Callable[..., object]) -> Callable[..., object]:
        def run(*inputs: Tensor) -> object:
            v = inputs[-4]  # before the decay, beta and the state
            solves.append(v.numel() * v.shape[1])
            return rule(*inputs)

        return run

    for name in ("gated_delta_rule", "gated_delta_write"):
        monkeypatch.setattr(fast_weights, name, counted(getattr(fast_weights, name)))
    # of the attention kernels torch counts the plain one alone on a CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens, mask, sleep_passes=3)
    readout = 2 * len(answers) * 16 * 5
    asked = predicting_windows(mask, 6)[0].tolist()
    assert counter.get_total_flops() == flops(model, 21, 3, asked) - sum(solves) + readout
    if answers == (19, 20):
        assert flops(model, 21, 3) == flops(model, 21, 3, asked)


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("loop", [None, (1, 2), (0, 2)])
def test_training_flops_are_what_torch_counts(
    make_model: MakeModel, loop: tuple[int, int] | None, eviction: str
) -> None:
    """The backward goes once through a waking pass, for its loss and the passes that continue from it together."""
    fields = {"mixers": ("attention", "local_attention", "attention"), "loop": loop, "eviction": eviction}
    model = make_model(sleep_on="all", dtype=torch.float32, **fields)
    tokens, mask = rows(0, batch=1, answers=ANSWERS["all"])
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(tokens, mask, sleep_passes=3).loss.backward()
    asked, readout = predicting_windows(mask, 6)[0].tolist(), 3 * 2 * 20 * 16 * 5
    assert counter.get_total_flops() == training_flops(model, 21, 3, asked) + readout


def test_no_gradient_goes_to_untrained_blocks_of_a_pass_that_begins_with_tokens(make_model: MakeModel) -> None:
    """Two windows, N = 3, where only the second block is trained, which a first pass that only reads lets write."""
    model = make_model(mixers=("attention", "gated_delta"), reads_first=True, dtype=torch.float32)
    for weight in (weight for name, weight in model.named_parameters() if not name.startswith("blocks.1.")):
        weight.requires_grad_(False)
    first, second = model.stack
    reads, begins, repeats = ((passed, 3) for passed in (1, 1, 2))
    whole, write = (first.flops(6, 0), second.flops(6, 0)), (first.flops(6, 0), second.mixer.write_flops(6))
    each = [(reads, write), (begins, whole), (repeats, write), (begins, whole)]  # the last is the waking pass
    expected = sum(times * cost for factors, costs in each for times, cost in zip(factors, costs, strict=True))
    assert training_flops(model, 12, 3) == expected


@pytest.mark.parametrize("loop", [None, (0, 1)])
@pytest.mark.parametrize("reads_first", [False, True])
@pytest.mark.parametrize("traces", [0, 1, 2])
def test_flops_of_passes_with_losses_are_what_torch_counts(
    make_model: MakeModel, traces: int, reads_first: bool, loop: tuple[int, int] | None
) -> None:
    """But for the readouts: of each label, and of each token where a pass hands on to the next."""
    model = make_model(
        mixers=("attention", "local_attention", "attention"),
        eviction="sliding",
        loop=loop,
        sleep_on="all",
        carry="token",
        reads_first=reads_first,
        dtype=torch.float32,
    )
    tokens, mask = rows(0, batch=1, answers=ANSWERS["all"])
    labels = torch.ones(1, traces, 21, dtype=torch.int64)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens, mask, 3, labels)
    asked, slept = predicting_windows(mask, 6)[0].tolist(), 18
    readouts = 20 + slept * traces + slept * (1 if reads_first else 2)
    assert counter.get_total_flops() == flops(model, 21, 3, asked, traces) + 2 * 16 * 5 * readouts


@pytest.mark.parametrize("mixers", [("attention", "gated_delta"), EVERY_MIXER])
def test_sizes_are_counted(make_model: MakeModel, mixers: tuple[str, ...]) -> None:
    model = make_model(mixers=mixers, dtype=torch.float32)
    fast = len(mixers) - mixers.count("attention")
    assert state_bytes(model, 3) == 3 * fast * 2 * 8 * 8 * 4
    assert kv_bytes(model, 3, 5) == 3 * 5 * mixers.count("attention") * 2 * 16 * 4
    assert n_params(model) == sum(p.numel() for p in model.parameters())


@every_architecture
def test_sizes_are_those_of_a_session(make_model: MakeModel, fields: dict[str, Any]) -> None:
    """The bytes of the states and caches that a session holds, and the weights that are saved."""
    model = make_model(dtype=torch.float32, **fields)
    session = Session(model, 3)
    session.read(torch.randint(0, 5, (3, 11)))  # a sleep, then 5 of 6 tokens
    held = {name: tensor for name, tensor in session.memory.tensors.items() if name.startswith("state.states")}
    caches = {name: tensor for name, tensor in held.items() if name.endswith((".k", ".v"))}
    fast = {name: tensor for name, tensor in held.items() if tensor.dim() == 4 and name not in caches}
    assert caches and kv_bytes(model, 3, 5) == sum(tensor.nbytes for tensor in caches.values())
    assert fast and state_bytes(model, 3) == sum(tensor.nbytes for tensor in fast.values())
    assert n_params(model) == sum(weight.numel() for weight in model.state_dict().values())


def test_more_windows_than_a_row_has_are_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match=r"asked = \[False, True\]: must be False behind the 1 windows of 3 tokens"):
        flops(make_model(), 3, asked=[False, True])
