"""Algorithm 1 for one row, written as the paper says it and as slowly: token by token, nothing skipped, nothing cached
but what it names. It shares the model's weights and none of its code."""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from sleepmodel import SleepModel
from sleepmodel.model import Block


@dataclass
class Kept:
    """What a block has of earlier tokens: (key, value, position) of each, S of each head [V, K], convolution inputs."""

    seen: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)
    S: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)


def rotate(x: Tensor, position: int) -> Tensor:
    """RoPE of [H, D] as a product of complex numbers."""
    half = x.shape[-1] // 2
    angle = position * 10_000.0 ** -(torch.arange(half, dtype=x.dtype) / half)
    turned = torch.complex(x[:, :half], x[:, half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), -1)


def rms(x: Tensor, weight: Tensor | float = 1.0) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps).rsqrt() * weight


def attention(mixer, x: Tensor, kept: Kept, start: int) -> list[Tensor]:  # type: ignore[no-untyped-def]
    out = []
    for i in range(len(x)):
        q, k, v = (p(x[i]).view(mixer.heads, -1) for p in (mixer.q, mixer.k, mixer.v))
        kept.seen.append((rotate(rms(k), start + i), v, start + i))
        near = [(k, v) for k, v, position in kept.seen if start + i - position < mixer.window]
        score = torch.stack([(rotate(rms(q), start + i) * k).sum(-1) for k, _ in near]) / math.sqrt(q.shape[-1])
        read = torch.einsum("jh,jhd->hd", score.softmax(0), torch.stack([v for _, v in near]))
        out.append(mixer.out(read.flatten()))
    return out


def fast_weights(mixer, kind: str, x: Tensor, kept: Kept) -> list[Tensor]:  # type: ignore[no-untyped-def]
    out, heads = [], mixer.heads
    for token in x:
        v = mixer.v(token)
        if kind == "jet":
            kept.inputs.append(v)
            kernel = mixer.kernel_out(F.silu(mixer.kernel_in(token))).view(-1, 4)
            latest = [torch.zeros_like(v)] * 3 + kept.inputs
            v = sum(latest[-1 - back] * kernel[:, 3 - back] for back in range(4))
        q, k = (F.silu(p(token)).view(heads, -1) for p in (mixer.q, mixer.k))
        v, gate = (F.silu(y).view(heads, -1) for y in (v, mixer.gate(token)))
        beta = mixer.eta * torch.sigmoid(mixer.beta(token))
        alpha = torch.ones(heads, dtype=x.dtype) if kind == "delta" else (-F.softplus(mixer.decay(token))).exp()
        reads = []
        for n in range(heads):
            key, query = k[n] / k[n].norm(), q[n] / q[n].norm()
            forget = torch.eye(len(key), dtype=x.dtype)
            if kind != "linear":
                forget = forget - beta[n] * torch.outer(key, key)
            kept.S[n] = alpha[n] * kept.S[n] @ forget + beta[n] * torch.outer(v[n], key)
            read = kept.S[n] @ query / math.sqrt(len(query))
            reads.append(rms(read, mixer.norm.weight) * gate[n])
        out.append(mixer.out(torch.cat(reads)))
    return out


def run_block(block: Block, kind: str, h: Tensor, kept: Kept, start: int) -> Tensor:
    """One block over tokens h [T, d], the first of which is token `start` of the row; `kept` goes on."""
    x = rms(h, block.mixer_norm.weight)
    y = attention(block.mixer, x, kept, start) if kind == "attention" else fast_weights(block.mixer, kind, x, kept)
    h = h + torch.stack(y)
    return h + F.relu(rms(h, block.mlp_norm.weight) @ block.mlp.up.weight.T).square() @ block.mlp.down.weight.T


def nothing(model: SleepModel) -> list[Kept]:
    c = model.config
    zero = torch.zeros(c.value_dim, c.key_dim, dtype=model.lm_head.weight.dtype)
    return [Kept(S=[] if kind == "attention" else [zero] * c.fast_heads) for kind in c.mixers]


def embedded(model: SleepModel, tokens: Tensor, start: int) -> Tensor:
    h = model.embed.weight[tokens]
    if model.config.max_positions is None:
        return h
    return h + model.position_embed.weight[start : start + len(tokens)]


def readout(model: SleepModel, h: Tensor) -> Tensor:
    return rms(h, model.norm.weight) @ model.lm_head.weight.T


def one_piece(model: SleepModel, tokens: Tensor) -> Tensor:
    """Logits [T, vocab] of an ordinary hybrid with sliding-window attention that knows nothing of windows or sleep."""
    h = embedded(model, tokens, 0)
    for block, kind, kept in zip(model.stack, model.config.mixers, nothing(model), strict=True):
        h = run_block(block, kind, h, kept, 0)
    return readout(model, h)


def algorithm_1(model: SleepModel, tokens: Tensor, answers: Tensor, passes: int, first: int | None = None) -> Tensor:
    """Logits of a row's answers [answers, vocab]. tokens, answers: [T]; first: tokens in the first window, or L."""
    c = model.config
    start, end = c.loop or (0, len(c.mixers))
    kept, logits, begin = nothing(model), [], 0
    sizes = [first or c.window] + [c.window] * len(tokens)
    for size in sizes:
        if begin >= len(tokens):
            break
        here = slice(begin, begin + size)
        h, asks = embedded(model, tokens[here], begin), answers[here]
        order = [(i, 0) for i in range(start)]
        order += [(i, n) for n in range(1 if asks.any() else passes) for i in range(start, end)]
        order += [(i, order[-1][1]) for i in range(end, len(c.mixers))]
        for i, number in order:
            if number:  # the window's tokens are all that is in the cache when it is full
                kept[i].seen, kept[i].inputs = [], []
            h = run_block(model.stack[i], c.mixers[i], h, kept[i], begin)
        logits += [readout(model, h[t - 1]) for t in asks.nonzero()[:, 0].tolist()]
        begin += size
        for each in kept:
            keep = c.window - 1 if c.eviction == "sliding" else 0
            each.seen, each.inputs = each.seen[len(each.seen) - min(keep, len(each.seen)) :], each.inputs[-3:]
            if c.eviction == "hard":
                each.inputs = []
    return torch.stack(logits)
