"""Algorithm 1 as the paper writes it: one row, token by token, without batching, fusing or skipping anything.

Read this to understand the model. The tests compare the fast implementation (model.py, mixers/, ops/) with it, outputs
and gradients. It uses the weights of a SleepModel but none of its code. Call `model.double()` first: in float64 the two
agree to 1e-9. Sections and equations are the paper's (arXiv 2605.26099).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from sleepmodel.config.model import JET_KERNEL, ModelConfig
from sleepmodel.model import SleepModel

ATTENTION = {"attention", "local_attention"}  # the mixers without fast weights


@dataclass
class BlockState:
    """What a block keeps of earlier tokens.

    cache: (key, value, position in the row) of each token that attention can see, oldest first;
    S: the fast weights of each head, [V, K]; inputs: q, k and v of each token that convolutions can see, before these,
    oldest first.
    """

    cache: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)
    S: list[Tensor] = field(default_factory=list)
    inputs: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list)


def algorithm_1(
    model: SleepModel, tokens: Tensor, answers: Tensor, passes: int, first_window: int | None = None
) -> Tensor:
    """Algorithm 1: the logits of the answer tokens of a row, [answers, vocab]; arguments as in `read_row`."""
    return read_row(model, tokens, answers, passes, first_window)[0]


def read_row(
    model: SleepModel, tokens: Tensor, answers: Tensor, passes: int, first_window: int | None = None
) -> tuple[Tensor, Tensor]:
    """Algorithm 1: the logits of the answer tokens of a row, [answers, vocab], and those that the readout gives at each
    token after each pass of a sleep, [N, T, vocab], nan where no later answer depends on a sleep.

    tokens: int64 [T]; answers: bool [T], True at the answer tokens; passes: N; first_window: number of tokens in the
    first window, if pads on the left take its other places; None: L. `config.sleep_on` says what becomes of a window in
    which answers are predicted: "prompts": the waking pass that predicts is its only one; "all": it is slept on too.
    """
    config = model.config
    states, logits, thoughts, begin = initial_states(model), [], [], 0
    for size in [first_window or config.window, *[config.window] * len(tokens)]:
        if begin >= len(tokens):
            break
        h = embedded(model, tokens[begin : begin + size], begin)
        # each answer is predicted from the token before it, which may be the last one of the window before
        asking = answers[begin + 1 : begin + size + 1].nonzero()[:, 0].tolist()
        thought = torch.full((passes, len(h), config.vocab_size), torch.nan, dtype=h.dtype)
        if asking:  # awake, in one pass
            woken = [BlockState([*state.cache], [*state.S], [*state.inputs]) for state in states]
            read, _ = run_window(model, h, woken, begin, 1)
            logits += [readout(model, read[t]) for t in asking]
        if asking and config.sleep_on == "prompts":
            states = woken
        else:  # N passes consolidate the window
            _, looped = run_window(model, h, states, begin, passes)
            if answers[begin + size + 1 :].any():
                thought = readout(model, torch.stack(looped))
        thoughts.append(thought)
        evict(model, states)
        begin += size
    return torch.stack(logits), torch.cat(thoughts, 1)


def run_window(
    model: SleepModel, h: Tensor, states: list[BlockState], begin: int, passes: int
) -> tuple[Tensor, list[Tensor]]:
    """Run N passes over a window, h [T, d] -> h, and h after the loop in each pass. The blocks of the loop run N times,
    the blocks around it once.

    Updates `states` in place. begin: position in the row of the window's first token.
    """
    start, end = model.config.loop or (0, len(states))
    schedule = [(i, 0) for i in range(start)]
    schedule += [(i, number) for number in range(passes) for i in range(start, end)]
    schedule += [(i, schedule[-1][1]) for i in range(end, len(states))]
    first, looped = h, []
    for i, number in schedule:
        if number > 0:  # a further pass sees only the window
            states[i].cache, states[i].inputs = [], []
        if number > 0 and i == start:  # between two passes
            h = again(model, first) if number == 1 and model.config.reads_first else handed_on(model, h, begin)
        h = run_block(model, i, h, states[i], begin)
        if i == end - 1:
            looped.append(h)
    return h, looped


def handed_on(model: SleepModel, h: Tensor, begin: int) -> Tensor:
    """What a pass hands to the next, from h [T, d] after the loop."""
    config, weight = model.config, model.embed.weight
    if config.carry == "hidden":
        return normed(h, model.norm) if config.loop_norm else h
    if config.carry == "normalized":
        return rms_norm(h, eps=config.norm_eps)
    share = readout(model, h).softmax(-1)
    if config.carry == "token":  # straight-through: the likeliest token, with the gradient of the mixture
        share = F.one_hot(share.argmax(-1), len(weight)) + share - share.detach()
    return again(model, with_positions(model, share @ weight, begin))


def again(model: SleepModel, vectors: Tensor) -> Tensor:
    """Embedded tokens [T, d] as they enter a later pass."""
    return vectors + model.pass_embed if model.config.pass_embed else vectors


def evict(model: SleepModel, states: list[BlockState]) -> None:
    """The end of a window: hard eviction keeps only the fast weights, sliding also the latest L - 1 tokens."""
    hard, kept = model.config.eviction == "hard", model.config.window - 1
    for state in states:
        state.cache = [] if hard else state.cache[-kept:]
        state.inputs = [] if hard else state.inputs[-model.config.window :]


def run_block(model: SleepModel, number: int, h: Tensor, state: BlockState, begin: int) -> Tensor:
    """Run one block on tokens h [T, d], the first of which is token `begin` of the row."""
    block, config, mixer = model.stack[number], model.config, model.config.mixers[number]
    whole = number not in config.inserted
    behind = config.sandwich_norms and whole
    x = normed(h, block.mixer_norm)
    if mixer in ATTENTION:
        span = min(config.window, config.local_span or 0) if mixer == "local_attention" else config.window
        y = torch.stack(attention(block.mixer, config, span, x, state, begin))
    else:
        y = torch.stack(fast_weights(block.mixer, mixer, x, state))
    h = h + (normed(y, block.mixer_post_norm) if behind else y)
    if not whole:
        return h
    y = mlp(block.mlp, config.mlp, normed(h, block.mlp_norm))
    return h + (normed(y, block.mlp_post_norm) if behind else y)


def mlp(layer: Any, kind: str, x: Tensor) -> Tensor:
    """The MLP: x [T, d] -> [T, d]."""
    hidden = F.silu(layer.gate(x)) * layer.up(x) if kind == "swiglu" else F.relu(layer.up(x)).square()
    return layer.down(hidden)


def attention(layer: Any, config: ModelConfig, span: int, x: Tensor, state: BlockState, begin: int) -> list[Tensor]:
    """Softmax attention over the latest `span` tokens, with RoPE and QK-norm: an output [d] for each token of x [T, d].

    Heads share keys and values in groups: query head n reads those of head n // (query heads / key heads).
    """
    outputs, size = [], config.head_dim or config.d_model // config.n_heads
    for position, token in enumerate(x, start=begin):
        q, k, v = (project(token).view(-1, size) for project in (layer.q, layer.k, layer.v))
        if config.qk_norm == "unit":
            q, k = rms_norm(q), rms_norm(k)
        elif config.qk_norm == "learned":
            q, k = normed(q, layer.q_norm), normed(k, layer.k_norm)
        state.cache.append((rotate(k, position, config), v, position))
        visible = [(k, v) for k, v, earlier in state.cache if position - earlier < span]
        q, heads = rotate(q, position, config), []
        for n, query in enumerate(q):
            shared = n // (len(q) // len(k))
            scores = torch.stack([query @ key[shared] for key, _ in visible]) / math.sqrt(size)
            heads.append(scores.softmax(0) @ torch.stack([value[shared] for _, value in visible]))
        outputs.append(layer.out(torch.cat(heads)))
    return outputs


def fast_weights(layer: Any, mixer: str, x: Tensor, state: BlockState) -> list[Tensor]:
    """Fast weights under the rule `mixer`: an output [d] for each token of x [T, d].

        S <- alpha S (I - beta k k^T) + beta v k^T        o = S q        (paper, "The mechanism")

    "delta" has alpha = 1; "linear" lacks the correction -beta k k^T; the decay of "jet_nemotron" has a learned scale.
    With `conv`, q, k and v are convolved first; "jet" and "jet_nemotron" convolve v with a kernel of their own.
    """
    outputs = []
    for token in x:
        state.inputs.append((layer.q(token), layer.k(token), layer.v(token)))
        queries, keys, values = ([*inputs] for inputs in zip(*state.inputs, strict=True))
        if mixer in ("jet", "jet_nemotron"):
            v = convolved(values, layer.kernel_out(F.silu(layer.kernel_in(token))).view(-1, JET_KERNEL).T)
        else:
            v = convolved(values, learned_kernel(layer, "v"))
        q, k = convolved(queries, learned_kernel(layer, "q")), convolved(keys, learned_kernel(layer, "k"))
        q, k, v, gate = (F.silu(y).view(layer.heads, -1) for y in (q, k, v, layer.gate(token)))
        beta = layer.eta * torch.sigmoid(layer.beta(token))
        alpha = torch.ones_like(beta) if mixer == "delta" else (-F.softplus(layer.decay(token))).exp()
        if mixer == "jet_nemotron":
            alpha = alpha ** layer.A_log.exp()
        heads = []
        for n in range(layer.heads):
            key, query = k[n] / k[n].norm(), q[n] / q[n].norm()
            transition = torch.eye(len(key), dtype=x.dtype)
            if mixer != "linear":
                transition = transition - beta[n] * torch.outer(key, key)
            state.S[n] = alpha[n] * state.S[n] @ transition + beta[n] * torch.outer(v[n], key)
            read = state.S[n] @ query / math.sqrt(len(query))
            heads.append(normed(read, layer.norm) * gate[n])
        outputs.append(layer.out(torch.cat(heads)))
    return outputs


def learned_kernel(layer: Any, name: str) -> Tensor:
    """The kernel of q, k or v, [tokens, channels], oldest token first; without `conv` the token itself."""
    channels = getattr(layer, name).out_features
    if name not in layer.conv:
        return torch.ones(1, channels, dtype=layer.out.weight.dtype)
    return layer.conv[name].view(-1, channels)


def convolved(inputs: list[Tensor], kernel: Tensor) -> Tensor:
    """The sum of the latest inputs [C], each times its row of the kernel; before the first one there are zeros."""
    return sum((x * row for x, row in zip(inputs[::-1], kernel.flip(0), strict=False)), torch.zeros_like(inputs[-1]))


def embedded(model: SleepModel, tokens: Tensor, begin: int) -> Tensor:
    """Embed tokens [T] as vectors [T, d]; the first is token `begin` of the row."""
    return with_positions(model, model.embed.weight[tokens], begin)


def with_positions(model: SleepModel, vectors: Tensor, begin: int) -> Tensor:
    """The embeddings of tokens, [T, d], with those of their positions; the first is token `begin` of the row."""
    if model.config.max_positions is None:
        return vectors
    return vectors + model.position_embed.weight[begin : begin + len(vectors)]


def readout(model: SleepModel, h: Tensor) -> Tensor:
    """h [..., d] -> logits [..., vocab]."""
    weight = model.embed.weight if model.lm_head is None else model.lm_head.weight
    return normed(h, model.norm) @ weight.T


def initial_states(model: SleepModel) -> list[BlockState]:
    """The states before the first token of a row: S = 0."""
    config = model.config
    zero = torch.zeros(config.value_dim, config.key_dim, dtype=model.embed.weight.dtype)
    return [BlockState(S=[] if mixer in ATTENTION else [zero] * config.fast_heads) for mixer in config.mixers]


def rotate(x: Tensor, position: int, config: ModelConfig) -> Tensor:
    """RoPE of x [H, D], as a product of complex numbers."""
    half = x.shape[-1] // 2
    angle = position * torch.tensor([frequency(i / half, config) for i in range(half)], dtype=x.dtype)
    turned = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), -1)


def frequency(part: float, config: ModelConfig) -> float:
    """RoPE's radians per position for the pair of dimensions at `part` of a head. With `rope_scaling`, waves that are
    long for the first training are longer by its factor, short ones unchanged, and those between interpolated."""
    plain, scaling = config.rope_base**-part, config.rope_scaling
    if scaling is None:
        return plain
    wavelength = 2 * math.pi / plain
    if wavelength < scaling.original_positions / scaling.high_freq_factor:
        return plain
    if wavelength > scaling.original_positions / scaling.low_freq_factor:
        return plain / scaling.factor
    smooth = scaling.original_positions / wavelength - scaling.low_freq_factor
    smooth /= scaling.high_freq_factor - scaling.low_freq_factor
    return (1 - smooth) * plain / scaling.factor + smooth * plain


def normed(x: Tensor, norm: Any) -> Tensor:
    """x after an RMS norm with learned weights."""
    return rms_norm(x, norm.weight, norm.eps)


def rms_norm(x: Tensor, weight: Tensor | float = 1.0, eps: float | None = None) -> Tensor:
    """x over its root mean square, times `weight`."""
    eps = torch.finfo(x.dtype).eps if eps is None else eps
    return x * (x.square().mean(-1, keepdim=True) + eps).rsqrt() * weight
