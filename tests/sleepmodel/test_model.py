"""Algorithm 1: what a sleep computes, what crosses a border, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from sleepmodel import ModelConfig, SleepModel
from tests.sleepmodel.conftest import MakeModel

HYBRID = ("attention", "gated_delta", "attention", "gated_delta")


def rows(seed: int, batch: int = 3, tokens: int = 21, answers: tuple[int, ...] = (19, 20)) -> tuple[Tensor, Tensor]:
    make = torch.Generator().manual_seed(seed)
    mask = torch.zeros(batch, tokens, dtype=torch.bool)
    mask[:, list(answers)] = True
    return torch.randint(0, 5, (batch, tokens), generator=make), mask


def gradients(model: SleepModel, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


def explicit(model: SleepModel, tokens: Tensor, mask: Tensor, passes: int) -> tuple[Tensor, Tensor]:
    """Algorithm 1 written out with whole blocks and nothing skipped."""
    window = model.config.window
    states = model.initial_states(len(tokens))
    logits = []
    for start in range(0, tokens.shape[1], window):
        part, answers = tokens[:, start : start + window], mask[:, start : start + window]
        h = model.embed(part) + model.position_embed(torch.arange(start, start + part.shape[1]))
        for _ in range(1 if answers.any() else passes):
            after = []
            for block, state in zip(model.blocks, states, strict=True):
                h, state = block(h, state)
                after.append(state)
            states = tuple(after)
        if answers.any():
            logits.append(model.lm_head(model.norm(h))[:, :-1][answers[:, 1:]].view(len(tokens), -1, 5))
    out = torch.cat(logits, 1).flatten(0, 1)
    return F.cross_entropy(out, tokens[mask]), out


@pytest.mark.parametrize("mixers", [("attention", "gated_delta"), HYBRID, ("gated_delta",), (*HYBRID, "attention")])
@pytest.mark.parametrize("passes", [1, 2, 3])
def test_n_passes_are_n_explicit_calls_of_the_blocks(
    make_model: MakeModel, mixers: tuple[str, ...], passes: int
) -> None:
    model = make_model(mixers=mixers, sleep_passes=passes)
    tokens, mask = rows(passes)
    loss, logits = explicit(model, tokens, mask, passes)
    out = model(tokens, mask)
    torch.testing.assert_close(out.logits, logits, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(out.loss, loss, rtol=1e-10, atol=1e-12)
    for got, expected in zip(gradients(model, out.loss), gradients(model, loss), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-11)


def test_answers_in_several_windows_come_in_row_major_order(make_model: MakeModel) -> None:
    model = make_model(sleep_passes=2)
    tokens, mask = rows(5, answers=(7, 8, 14, 20))
    torch.testing.assert_close(model(tokens, mask).logits, explicit(model, tokens, mask, 2)[1])


@pytest.mark.parametrize("passes", [1, 3])
def test_checkpointed_passes_change_nothing(make_model: MakeModel, passes: int) -> None:
    model = make_model(mixers=HYBRID, sleep_passes=passes)
    tokens, mask = rows(1)
    plain = gradients(model, model(tokens, mask).loss)
    model.checkpoint_activations = True
    for got, expected in zip(gradients(model, model(tokens, mask).loss), plain, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_attention_alone_knows_nothing_of_an_evicted_window(make_model: MakeModel) -> None:
    model = make_model(mixers=("attention", "attention"), sleep_passes=2)
    tokens, mask = rows(2)
    other = tokens.clone()
    other[:, :18] = rows(3)[0][:, :18]
    assert torch.equal(model(tokens, mask).logits, model(other, mask).logits)


@pytest.mark.parametrize("passes", [1, 2])
def test_fast_weights_carry_every_window_to_the_answer(make_model: MakeModel, passes: int) -> None:
    model = make_model(sleep_passes=passes)
    tokens, mask = rows(2)
    base = model(tokens, mask).logits
    for position in (0, 5, 6, 17):
        other = tokens.clone()
        other[:, position] = (other[:, position] + 1) % 5
        assert not torch.allclose(model(other, mask).logits, base)


def test_only_the_fast_weights_cross_a_border(make_model: MakeModel) -> None:
    """With the states emptied at the border, the answers are those of a row that never had the context."""
    model = make_model(sleep_passes=2)
    tokens, mask = rows(4)
    h, _ = model.run_blocks(model.embedded(tokens[:, 18:], 18), model.initial_states(3))
    model.sleep = lambda h, states: states  # type: ignore[method-assign]
    torch.testing.assert_close(model(tokens, mask).logits, model.readout(h[:, :2]).flatten(0, 1))


def test_a_loss_reaches_the_first_window_through_the_fast_weights(make_model: MakeModel) -> None:
    model = make_model(sleep_passes=2)
    tokens, mask = rows(6)
    vectors = model.embedded(tokens[:, :6], 0).detach().requires_grad_()
    original = model.embedded
    model.embedded = lambda t, start: vectors if start == 0 else original(t, start)  # type: ignore[method-assign]
    (gradient,) = torch.autograd.grad(model(tokens, mask).loss, [vectors])
    assert (gradient.abs().sum((0, 2)) > 0).all()


def test_rows_do_not_see_each_other(make_model: MakeModel) -> None:
    model = make_model(sleep_passes=2)
    tokens, mask = rows(7, batch=4)
    together = model(tokens, mask).logits.view(4, 2, -1)
    for row in range(4):
        alone = model(tokens[row : row + 1], mask[row : row + 1]).logits
        torch.testing.assert_close(together[row], alone, rtol=1e-12, atol=1e-12)


def test_answer_is_greedy_and_knows_what_it_said(make_model: MakeModel) -> None:
    model = make_model(sleep_passes=2)
    tokens, _ = rows(8, tokens=19, answers=())
    said = model.answer(tokens, 2)
    full = torch.cat((tokens, said), 1)
    mask = torch.zeros_like(full, dtype=torch.bool)
    mask[:, 19:] = True
    assert torch.equal(model(full, mask).logits.argmax(-1).view(3, 2), said)


@pytest.mark.parametrize(
    ("answers", "message"),
    [((18,), "row 0: an answer stands first in a window of 6"), ((), "at least one answer")],
)
def test_a_batch_without_meaning_is_refused(make_model: MakeModel, answers: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_model()(*rows(0, answers=answers))


def test_rows_whose_answers_lie_in_different_windows_are_refused(make_model: MakeModel) -> None:
    tokens, mask = rows(0)
    mask[2] = False
    mask[2, 8] = True
    with pytest.raises(ValueError, match="row 2: its answers lie in other windows"):
        make_model()(tokens, mask)


def test_a_row_beyond_the_positions_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(ValueError, match="row length 21: must be at most max_positions = 20"):
        make_model(max_positions=20)(*rows(0))


@pytest.mark.parametrize("passes", [1, 3])
@pytest.mark.parametrize("mixers", [("attention", "gated_delta"), (*HYBRID, "attention"), ("attention",)])
def test_flops_are_what_torch_counts(make_model: MakeModel, mixers: tuple[str, ...], passes: int) -> None:
    """But for the triangular solves, C x C by C x V at half a product's cost, and the readout of 2 answers."""
    model = make_model(mixers=mixers, sleep_passes=passes, dtype=torch.float32)
    tokens, mask = rows(0, batch=1)
    # of the attention kernels torch counts the plain one alone on a CPU
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tokens, mask)
    readout = 2 * 2 * 16 * 5
    fast = sum(block.mixer.keeps_state for block in model.blocks)
    solves = fast * 2 * 8 * (3 * passes * 6**2 + 3**2)
    assert counter.get_total_flops() == model.flops(21) - solves + readout


def test_sizes_are_counted(make_model: MakeModel) -> None:
    model = make_model(dtype=torch.float32)
    assert model.state_bytes(3) == sum(s.nbytes for s in model.initial_states(3) if s is not None) == 3 * 2 * 8 * 8 * 4
    assert model.n_params() == sum(p.numel() for p in model.parameters())


def test_eta_scales_the_write_strength() -> None:
    """beta = eta * sigmoid(.): at a zero projection of beta the strength is eta / 2."""
    seen = []
    for eta in (0.5, 2.0):
        torch.manual_seed(0)
        model = SleepModel(ModelConfig(vocab_size=5, d_model=16, n_heads=2, window=6, fast_weight_lr=eta, key_dim=8))
        mixer = model.blocks[1].mixer
        torch.nn.init.zeros_(mixer.beta.weight)
        x = torch.randn(1, 1, 16)
        seen.append(mixer.write(x, mixer.initial_state(1, x.device)))
    torch.testing.assert_close(seen[1], 4 * seen[0])
