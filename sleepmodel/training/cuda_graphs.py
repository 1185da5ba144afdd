"""CUDA graphs of a batch's forward and backward, captured once for each shape of batch, and of the optimiser's step.

A step of a small model is thousands of kernels of a few microseconds each, which the host cannot launch as fast as a
GPU runs them. A replay launches all of them at once. It runs the same kernels on the same memory, so it serves the
batches whose plans have one shape (BatchPlan.shape): on Rule 110 all of them. On texts of mixed lengths hardly two
have one, unless they come in buckets (TrainConfig.bucket_tokens).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from datagen.checks import require
from sleepmodel.batch_plan import BatchPlan
from sleepmodel.config.training import Scale, TrainConfig
from sleepmodel.model import Output, SleepModel
from sleepmodel.training.muon import gradients_of
from sleepmodel.training.plan_filling import filled
from sleepmodel.transfers import packed_on, unpacked

MOST_GRAPHS = 16  # each keeps its losses and gradients; they share the memory of activations
WARMUP = 3  # runs before a capture, in which kernels are compiled and tuned
LossTensors = tuple[Tensor, ...]


def graphed(
    model: SleepModel, forward: Callable[..., Output], config: TrainConfig, scale: Scale
) -> Callable[..., Output]:
    """A GraphedModel if `scale` asks for CUDA graphs and there can be some, else `forward`.

    forward: the model, or what wraps it. Raises ValueError if graphs are "on" and there can be none.
    """
    device = model.embed.weight.device
    reason = scale.no_cuda_graphs if device.type == "cuda" else "only a GPU has them"
    wanted = scale.cuda_graphs in ("on", "step")
    require(not wanted or reason is None, "cuda_graphs", scale.cuda_graphs, f"auto or off: {reason}")
    if scale.cuda_graphs == "off" or reason is not None:
        return forward
    return GraphedModel(model, forward, config.precision == "bfloat16", config.bucket_tokens)


class GraphedModel:
    """Calls a model on batches, from the second batch of a shape on by replaying its graph.

    forward: the model, or what wraps it, for other batches. autocast: whether the model computes in bfloat16, by
    torch.autocast. bucket_tokens: plans are filled up to multiples of it. The backward of a batch must come before the
    next call, as graphs share memory.
    """

    def __init__(
        self, model: SleepModel, forward: Callable[..., Output], autocast: bool, bucket_tokens: int | None = None
    ) -> None:
        self.model, self.forward, self.autocast, self.bucket_tokens = model, forward, autocast, bucket_tokens
        self.seen, self.graphs = set[int](), dict[Hashable, Callable[[Tensor], LossTensors]]()  # seen: hashes of shapes
        self.memory = torch.cuda.graph_pool_handle()

    def __call__(self, *batch: Any, plan: BatchPlan) -> Output:
        """The losses; arguments as in SleepModel.forward. The logits are empty where a graph was replayed."""
        if self.bucket_tokens is not None:
            plan = filled(plan, self.model.config.window, self.bucket_tokens)
        shape = plan.shape
        known = shape in self.graphs
        if not known and len(self.graphs) == MOST_GRAPHS:
            return self.forward(*batch, plan=plan)
        if not known and hash(shape) not in self.seen:
            # a shape that comes once is not worth the seconds of a capture
            self.seen.add(hash(shape))
            return self.forward(*batch, plan=plan)
        data = packed_on(plan, self.model.embed.weight.device)
        if not known:
            self.graphs[shape] = self._captured(plan, data)
        loss, *traced = self.graphs[shape](data)
        return Output(loss, loss.new_empty(0, self.model.config.vocab_size), *traced)

    def _captured(self, plan: BatchPlan, data: Tensor) -> Callable[[Tensor], LossTensors]:
        body = _GraphBody(self.model, plan, self.autocast)
        try:
            with torch.autocast("cuda", enabled=False):
                captured = torch.cuda.make_graphed_callables(
                    body, (data,), num_warmup_iters=WARMUP, allow_unused_input=True, pool=self.memory
                )
        except RuntimeError as error:  # out of memory, or a mixer waits for the GPU
            rows, reason = len(plan.windows[0].tokens), str(error).partition("\n")[0]
            raise RuntimeError(
                f"scale.cuda_graphs: a batch of {rows} rows cannot be captured ({reason}): set scale.cuda_graphs=off, "
                "or if memory is short, a smaller train.batch_size"
            ) from error
        return cast(Callable[[Tensor], LossTensors], captured)


class GraphedUpdate:
    """Calls `update`, after some calls by replaying its graph.

    update: changes `weights` and what belongs to them by their gradients, without waiting for the GPU, and returns the
    norm of the gradient. What it reads besides must stay at its address, as the learning rates of MuonAdamW do.
    """

    def __init__(self, update: Callable[[], Tensor], weights: Iterable[nn.Parameter]) -> None:
        self.update, self.weights = update, [*weights]
        # by which of the weights have a gradient, as those without stay as they are
        self.calls, self.graphs = Counter[tuple[bool, ...]](), dict[tuple[bool, ...], _UpdateGraph]()

    def __call__(self) -> Tensor:
        """The norm of the gradient, which no later call overwrites."""
        given = [weight for weight in self.weights if weight.grad is not None]
        learning = tuple(weight.grad is not None for weight in self.weights)
        self.calls[learning] += 1
        if self.calls[learning] <= WARMUP:  # which also makes the optimiser's state
            return self.update()
        if learning not in self.graphs:
            self.graphs[learning] = _UpdateGraph(self.update, given)
        return self.graphs[learning](given)


class _UpdateGraph:
    """The graph of an update of these weights. It reads their gradients from buffers of its own, as each backward puts
    them elsewhere."""

    def __init__(self, update: Callable[[], Tensor], weights: list[nn.Parameter]) -> None:
        given = gradients_of(weights)
        self.gradients, self.graph = [gradient.clone() for gradient in given], torch.cuda.CUDAGraph()
        for weight, gradient in zip(weights, self.gradients, strict=True):
            weight.grad = gradient
        try:
            with torch.cuda.graph(self.graph):
                self.norm = update()
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise RuntimeError(
                f"scale.cuda_graphs = step: the update of the weights cannot be captured ({reason}): set "
                "scale.cuda_graphs=on"
            ) from error
        for weight, gradient in zip(weights, given, strict=True):
            weight.grad = gradient

    def __call__(self, weights: list[nn.Parameter]) -> Tensor:
        torch._foreach_copy_(self.gradients, gradients_of(weights))
        self.graph.replay()
        return self.norm.clone()


class _GraphBody(nn.Module):
    """The losses of a model on batches of one shape, from the packed bytes of a plan, uint8 [n]."""

    def __init__(self, model: SleepModel, plan: BatchPlan, autocast: bool) -> None:
        super().__init__()
        self.model, self.plan, self.autocast = model, plan, autocast

    def forward(self, data: Tensor) -> LossTensors:
        plan = unpacked(self.plan, data)
        # a graph must make its own casts of the weights: those in the cache are of an earlier step
        torch.clear_autocast_cache()
        with torch.autocast("cuda", torch.bfloat16, enabled=self.autocast):
            out = self.model(None, None, plan=plan)
        torch.clear_autocast_cache()
        return (out.loss,) if out.trace_loss is None else (out.loss, out.trace_loss)
