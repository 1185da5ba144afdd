"""Each mixer is its recurrence, in one piece or several, and does at a border what its docstring says."""

import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sleepmodel import Memory, ModelConfig, Session, SleepModel
from sleepmodel.config.model import MIXERS
from sleepmodel.mixers import mixer_class
from sleepmodel.mixers.base import Span
from sleepmodel.mixers.gated_delta import _normalized
from sleepmodel.ops import hebbian
from sleepmodel.reference import ATTENTION, BlockState, attention, fast_weights, initial_states
from sleepmodel.states import named_tensors
from tests.sleepmodel.conftest import build_small
from tests.sleepmodel.test_gated_delta import outputs_and_gradients, random_inputs
from tests.waiting import run

EXACT = {"rtol": 1e-9, "atol": 1e-11}


def test_every_name_that_a_config_may_have_is_a_mixer() -> None:
    attention, fast = ["Attention", "LocalAttention"], ["GatedDelta", "Delta", "Linear", "Jet", "JetNemotron"]
    assert [mixer_class(name).__name__ for name in MIXERS] == attention + fast


OJA = """
from sleepmodel.mixers.gated_delta import GatedDelta

class Oja(GatedDelta):
    def log_decay(self, x):
        return super().log_decay(x) - 0.5 * self.eta

class NoMixer:
    pass
"""


def test_a_mixer_of_ones_own_is_named_by_its_path(tmp_path: Path) -> None:
    """From a file outside the package: it is built, trained, saved and loaded."""
    (tmp_path / "my_rules.py").write_text(OJA)
    program = """
import torch
from sleepmodel import ModelConfig, SleepModel, load, save
from pathlib import Path
mixers = ("attention", "my_rules:Oja")
model = SleepModel(ModelConfig(vocab_size=5, d_model=16, n_heads=2, window=6, mixers=mixers, conv=4))
assert type(model.stack[1].mixer).__name__ == "Oja"
tokens, mask = torch.randint(0, 5, (2, 9)), torch.arange(9).expand(2, 9) == 8
model(tokens, mask).loss.backward()
save(model, Path("saved"))
assert torch.equal(load("saved")(tokens, mask).logits, model.eval()(tokens, mask).logits)
"""
    result = run([sys.executable, "-c", program], cwd=tmp_path)
    assert result.returncode == 0, result.stderr


def test_a_mixer_named_by_its_path_is_used_as_a_mixer_of_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In JSON, in sessions and in memories; and a subclass keeps the limits of its base."""
    (tmp_path / "own_jet.py").write_text("from sleepmodel.mixers.jet import Jet\n\nclass Own(Jet):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    model = build_small(mixers=("attention", "own_jet:Own"), eviction="sliding", sleep_passes=2)
    assert ModelConfig.from_dict(json.loads(json.dumps(model.config.to_dict()))) == model.config
    tokens, mask = torch.randint(0, 5, (2, 15)), torch.arange(15).expand(2, 15) == 14
    session = Session(model, 2)
    session.read(tokens[:, :8])
    session.memory.save(tmp_path / "memory")
    resumed = Session(model, memory=Memory.load(tmp_path / "memory"))
    torch.testing.assert_close(resumed.read(tokens[:, 8:14], last=True), model(tokens, mask).logits, **EXACT)
    with pytest.raises(ValueError, match="window = 2: must be at least 3 where jet"):
        build_small(mixers=("attention", "own_jet:Own"), eviction="sliding", window=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "my_rules:Oja",
            r"my_rules cannot be imported \(No module named 'my_rules'\); it must lie in the directory where",
        ),
        ("sleepmodel.config.training:Scale", "has no subclass of sleepmodel.mixers.base.Mixer named 'Scale'"),
        ("sleepmodel.mixers.jet:Jat", "has no subclass of sleepmodel.mixers.base.Mixer named 'Jat'"),
    ],
)
def test_a_path_that_is_no_mixer_is_refused(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"mixers = '{name}': .*{message}"):
        build_small(mixers=("attention", name))


def naive(kind: str, model: SleepModel, x: Tensor, kept: BlockState) -> Tensor:
    mixer, span = model.stack[0].mixer, 4 if kind == "local_attention" else 6
    if kind in ATTENTION:
        return torch.stack(attention(mixer, model.config, span, x, kept, 0))
    return torch.stack(fast_weights(mixer, kind, x, kept))


@pytest.mark.parametrize("kind", MIXERS)
@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**31),
    cut=st.integers(0, 5),
    eta=st.floats(0.1, 2.0),
    conv=st.sampled_from([None, 2, 4, 9]),
)
def test_a_mixer_is_its_recurrence(kind: str, seed: int, cut: int, eta: float, conv: int | None) -> None:
    """Outputs, state and gradients in float64, the window read in two pieces; 9 tokens are more than it has."""
    model = build_small(seed=seed % 1000, mixers=(kind,), fast_weight_lr=eta, conv=conv)
    mixer = model.stack[0].mixer
    x = torch.randn(1, 6, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    kept = initial_states(model)[0]
    expected = naive(kind, model, x[0], kept)
    state, pieces = mixer.initial_state(1), []
    for start, piece in ((0, x[:, :cut]), (cut, x[:, cut:])):
        if piece.shape[1]:
            span = Span(torch.arange(start, start + piece.shape[1])[None])
            y, state = mixer(piece, state, span)
            pieces.append(y)
    y = torch.cat(pieces, 1)[0]
    torch.testing.assert_close(y, expected, **EXACT)
    if kind not in ATTENTION:
        S = state if isinstance(state, Tensor) else state.S
        torch.testing.assert_close(S[0], torch.stack(kept.S).mT, **EXACT)
    weights = torch.randn_like(y)
    variables = [x, *mixer.parameters()]
    got = torch.autograd.grad((y * weights).sum(), variables, allow_unused=True)
    want = torch.autograd.grad((expected * weights).sum(), variables, allow_unused=True)
    for g, w in zip(got, want, strict=True):
        torch.testing.assert_close(g, w, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize("conv", [None, 3, 7])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("kind", MIXERS)
def test_a_write_is_the_state_of_a_read(kind: str, padded: bool, conv: int | None, eviction: str) -> None:
    model = build_small(mixers=(kind,), eviction=eviction, conv=conv)
    mixer = model.stack[0].mixer
    x, span = torch.randn(2, 6, 16, dtype=torch.float64), Span.whole(6, torch.device("cpu"))
    if padded:
        span = Span.of(torch.tensor([[False, True, True, True, True, True], [True, True, False, False, False, False]]))
    state = mixer.initial_state(2)
    for _ in range(2):
        after = mixer(x, state, span)[1]
        written = mixer.write(x, state, span)
        for (_, a), (_, b) in zip(named_tensors(after, ""), named_tensors(written, ""), strict=True):
            torch.testing.assert_close(a, b, **EXACT)
        state = mixer.evict(after, 6, eviction)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 150))
def test_the_hebbian_rule_is_its_recurrence(seed: int, tokens: int) -> None:
    inputs = random_inputs(seed, tokens)
    expected = outputs_and_gradients(hebbian.recurrent, inputs, seed)
    for e, g in zip(expected, outputs_and_gradients(hebbian.hebbian_rule, inputs, seed), strict=True):
        torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(hebbian.hebbian_write(*inputs[1:]), expected[1], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("tokens", [24, 512])
def test_the_hebbian_rule_in_float32_stays_near_float64(tokens: int) -> None:
    inputs = random_inputs(tokens, tokens, torch.float32)
    wide = tuple(x.detach().double().requires_grad_() for x in inputs)
    expected = outputs_and_gradients(hebbian.recurrent, wide, 7)  # type: ignore[arg-type]
    for e, g in zip(expected, outputs_and_gradients(hebbian.hebbian_rule, inputs, 7), strict=True):
        assert (g.double() - e).norm() / e.norm() < 2e-5


def test_the_hebbian_rule_keeps_the_state_without_tokens() -> None:
    inputs = random_inputs(4, 0)
    o, state = hebbian.hebbian_rule(*inputs)
    assert o.shape == (2, 0, 3, 5) and torch.equal(state, inputs[-1])
    assert torch.equal(hebbian.hebbian_write(*inputs[1:]), inputs[-1])


def test_the_hebbian_rule_keeps_a_float32_state_under_autocast() -> None:
    inputs = random_inputs(3, 24, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        state = hebbian.hebbian_rule(*inputs)[1]
    torch.testing.assert_close(state, hebbian.hebbian_rule(*inputs)[1], rtol=0, atol=0)


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@pytest.mark.parametrize(("kind", "conv", "names"), [("jet", None, "v"), ("jet", 3, "qkv"), ("delta", 4, "qkv")])
def test_a_border_keeps_of_convolutions_what_it_keeps_of_attention(
    kind: str, conv: int | None, names: str, eviction: str
) -> None:
    mixer = build_small(mixers=(kind,), eviction=eviction, conv=conv).stack[0].mixer
    x, kept = torch.randn(2, 6, 16, dtype=torch.float64), 0 if eviction == "hard" else 3
    _, state = mixer(x, mixer.initial_state(2), Span.whole(6, x.device))
    evicted = mixer.evict(state, 6, eviction)
    assert evicted.tail.shape[1] == kept
    inputs = torch.cat([getattr(mixer, name)(x) for name in names], -1)
    torch.testing.assert_close(evicted.tail, inputs[:, 6 - kept :], **EXACT)
    assert torch.equal(evicted.S, state.S)


def test_jet_begins_as_gated_delta() -> None:
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=5, d_model=16, n_heads=2, fast_heads=2, key_dim=8, value_dim=8, mixers=("jet",))
    jet, plain = mixer_class("jet")(config), mixer_class("gated_delta")(config)
    plain.load_state_dict(jet.state_dict(), strict=False)
    for mixer in (jet, plain):
        torch.nn.init.ones_(mixer.out.weight)
    x, span = torch.randn(2, 6, 16), Span.whole(6, torch.device("cpu"))
    y, state = jet(x, jet.initial_state(2), span)
    expected, S = plain(x, plain.initial_state(2), span)
    torch.testing.assert_close((y, state.S), (expected, S))


def test_learned_kernels_begin_within_the_bounds_of_gated_deltanets() -> None:
    config = ModelConfig(vocab_size=5, d_model=16, n_heads=2, mixers=("jet", "linear"), conv=4)
    jet, linear = (block.mixer for block in SleepModel(config).stack)
    assert [*jet.conv] == ["q", "k"] and [*linear.conv] == ["q", "k", "v"]
    for kernel in (*jet.conv.values(), *linear.conv.values()):
        assert 0.48 < kernel.abs().max() <= 0.5 and kernel.mean().abs() < 0.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_the_key_of_a_pad_is_zero_in_every_dtype(dtype: torch.dtype) -> None:
    key = torch.randn(3, 8).to(dtype)
    key[0] = 0
    found = _normalized(key)
    assert torch.equal(found[0], key[0]) and found.isfinite().all()
    torch.testing.assert_close(found[1:].double().norm(dim=1), torch.ones(2).double(), rtol=0.01, atol=0)
