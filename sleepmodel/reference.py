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

from sleepmodel.model import Block, SleepModel

ROPE_BASE = 10_000.0
KERNEL = 4  # width of Jet's convolution


@dataclass
class BlockState:
    """What a block keeps of earlier tokens.

    cache: (key, value, position in the row) of each token that attention can see, oldest first;
    S: the fast weights of each head, [V, K]; inputs: the inputs of Jet's convolution, oldest first.
    """

    cache: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)
    S: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)


def algorithm_1(
    model: SleepModel, tokens: Tensor, answers: Tensor, passes: int, first_window: int | None = None
) -> Tensor:
    """Algorithm 1: the logits of the answer tokens of a row, [answers, vocab].

    tokens: int64 [T]; answers: bool [T], True at the answer tokens; passes: N; first_window: number of tokens in the
    first window, if pads on the left take its other places; None: L.
    """
    config = model.config
    states, logits, begin = initial_states(model), [], 0
    for size in [first_window or config.window, *[config.window] * len(tokens)]:
        if begin >= len(tokens):
            break
        h, asked = embedded(model, tokens[begin : begin + size], begin), answers[begin : begin + size]
        # N passes consolidate a window without answers; a window with answers gets one pass
        h = run_window(model, h, states, begin, 1 if asked.any() else passes)
        logits += [readout(model, h[t - 1]) for t in asked.nonzero()[:, 0].tolist()]
        evict(model, states)
        begin += size
    return torch.stack(logits)


def run_window(model: SleepModel, h: Tensor, states: list[BlockState], begin: int, passes: int) -> Tensor:
    """Run N passes over a window, h [T, d] -> h. The blocks of the loop run N times, the blocks around it once.

    Updates `states` in place. begin: position in the row of the window's first token.
    """
    start, end = model.config.loop or (0, len(states))
    schedule = [(i, 0) for i in range(start)]
    schedule += [(i, number) for number in range(passes) for i in range(start, end)]
    schedule += [(i, schedule[-1][1]) for i in range(end, len(states))]
    for i, number in schedule:
        if number > 0:  # a further pass sees only the window
            states[i].cache, states[i].inputs = [], []
        h = run_block(model.stack[i], model.config.mixers[i], h, states[i], begin)
    return h


def evict(model: SleepModel, states: list[BlockState]) -> None:
    """The end of a window: hard eviction keeps only the fast weights, sliding also the latest L - 1 tokens."""
    hard, kept = model.config.eviction == "hard", model.config.window - 1
    for state in states:
        state.cache = [] if hard else state.cache[-kept:]
        state.inputs = [] if hard else state.inputs[-(KERNEL - 1) :]


def run_block(block: Block, mixer: str, h: Tensor, state: BlockState, begin: int) -> Tensor:
    """Run one block on tokens h [T, d], the first of which is token `begin` of the row."""
    x = rms_norm(h, block.mixer_norm.weight)
    y = attention(block.mixer, x, state, begin) if mixer == "attention" else fast_weights(block.mixer, mixer, x, state)
    h = h + torch.stack(y)
    return h + F.relu(rms_norm(h, block.mlp_norm.weight) @ block.mlp.up.weight.T).square() @ block.mlp.down.weight.T


def attention(layer: Any, x: Tensor, state: BlockState, begin: int) -> list[Tensor]:
    """Softmax attention over the latest L tokens, with RoPE and QK-norm: an output [d] for each token of x [T, d]."""
    outputs = []
    for position, token in enumerate(x, start=begin):
        q, k, v = (project(token).view(layer.heads, -1) for project in (layer.q, layer.k, layer.v))
        state.cache.append((rotate(rms_norm(k), position), v, position))
        visible = [(k, v) for k, v, earlier in state.cache if position - earlier < layer.window]
        scores = torch.stack([(rotate(rms_norm(q), position) * k).sum(-1) for k, _ in visible]) / math.sqrt(q.shape[-1])
        read = torch.einsum("jh,jhd->hd", scores.softmax(0), torch.stack([v for _, v in visible]))
        outputs.append(layer.out(read.flatten()))
    return outputs


def fast_weights(layer: Any, mixer: str, x: Tensor, state: BlockState) -> list[Tensor]:
    """Fast weights under the rule `mixer`: an output [d] for each token of x [T, d].

        S <- alpha S (I - beta k k^T) + beta v k^T        o = S q        (paper, "The mechanism")

    "delta" has alpha = 1; "linear" lacks the correction -beta k k^T; "jet" convolves v first.
    """
    outputs = []
    for token in x:
        v = layer.v(token)
        if mixer == "jet":
            state.inputs.append(v)
            kernel = layer.kernel_out(F.silu(layer.kernel_in(token))).view(-1, KERNEL)
            latest = [torch.zeros_like(v)] * (KERNEL - 1) + state.inputs
            v = sum(latest[-1 - back] * kernel[:, KERNEL - 1 - back] for back in range(KERNEL))
        q, k = (F.silu(project(token)).view(layer.heads, -1) for project in (layer.q, layer.k))
        v, gate = (F.silu(y).view(layer.heads, -1) for y in (v, layer.gate(token)))
        beta = layer.eta * torch.sigmoid(layer.beta(token))
        alpha = torch.ones_like(beta) if mixer == "delta" else (-F.softplus(layer.decay(token))).exp()
        heads = []
        for n in range(layer.heads):
            key, query = k[n] / k[n].norm(), q[n] / q[n].norm()
            transition = torch.eye(len(key), dtype=x.dtype)
            if mixer != "linear":
                transition = transition - beta[n] * torch.outer(key, key)
            state.S[n] = alpha[n] * state.S[n] @ transition + beta[n] * torch.outer(v[n], key)
            read = state.S[n] @ query / math.sqrt(len(query))
            heads.append(rms_norm(read, layer.norm.weight) * gate[n])
        outputs.append(layer.out(torch.cat(heads)))
    return outputs


def embedded(model: SleepModel, tokens: Tensor, begin: int) -> Tensor:
    """Embed tokens [T] as vectors [T, d]; the first is token `begin` of the row."""
    h = model.embed.weight[tokens]
    if model.config.max_positions is None:
        return h
    return h + model.position_embed.weight[begin : begin + len(tokens)]


def readout(model: SleepModel, h: Tensor) -> Tensor:
    """h [..., d] -> logits [..., vocab]."""
    return rms_norm(h, model.norm.weight) @ model.lm_head.weight.T


def initial_states(model: SleepModel) -> list[BlockState]:
    """The states before the first token of a row: S = 0."""
    config = model.config
    zero = torch.zeros(config.value_dim, config.key_dim, dtype=model.lm_head.weight.dtype)
    return [BlockState(S=[] if mixer == "attention" else [zero] * config.fast_heads) for mixer in config.mixers]


def rotate(x: Tensor, position: int) -> Tensor:
    """RoPE of x [H, D], as a product of complex numbers."""
    half = x.shape[-1] // 2
    angle = position * ROPE_BASE ** -(torch.arange(half, dtype=x.dtype) / half)
    turned = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), -1)


def rms_norm(x: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    """x over its root mean square, times `weight`."""
    return x * (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).rsqrt() * weight
