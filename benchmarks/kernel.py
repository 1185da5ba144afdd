"""Compare the gated delta rule with transformers' `torch_chunk_gated_delta_rule`: forward and backward, in one process.

    python -m benchmarks.kernel

Writes benchmarks/results/kernel.json.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

from benchmarks.arguments import command_parser
from benchmarks.results_file import write_result
from benchmarks.timing import interleaved, median_ratio
from sleepmodel.ops.gated_delta import gated_delta_rule, recurrent
from sleepmodel.training.allocator import keep_freed_memory

SHAPES = [(256, 1, 24, 64), (256, 4, 24, 64), (256, 4, 24, 32), (64, 4, 75, 64), (4, 8, 512, 64), (1, 16, 2000, 96)]
ROUNDS, LONGEST_RECURRENCE = 9, 512
OURS, PEER, PEER_ONE_CHUNK, RECURRENT = "ours", "transformers", "transformers, one chunk", "recurrence"
TOLERANCE = 1e-3  # relative error in float32 of outputs, states and gradients, within which all rules must agree
Rule = Callable[..., tuple[Tensor, Tensor]]


def main() -> None:
    keep_freed_memory()
    torch.manual_seed(0)
    rows = []
    for batch, heads, tokens, dim in SHAPES:
        inputs = _inputs(batch, heads, tokens, dim)
        rules: dict[str, Rule] = {OURS: gated_delta_rule, PEER: _peer(64)}
        if tokens <= 128:
            rules[PEER_ONE_CHUNK] = _peer(tokens)
        if tokens <= LONGEST_RECURRENCE:
            rules[RECURRENT] = recurrent
        _require_equal(rules, inputs)
        seconds = interleaved({name: _step(rule, inputs) for name, rule in rules.items()}, ROUNDS)
        row: dict[str, object] = {"batch": batch, "heads": heads, "tokens": tokens, "dim": dim}
        row |= {"milliseconds": {name: 1e3 * statistics.median(times) for name, times in seconds.items()}}
        row |= {"times as fast as": {name: median_ratio(seconds, name, OURS) for name in rules if name != OURS}}
        rows.append(row)
    _show(rows)
    print(write_result("kernel", {"threads": torch.get_num_threads(), "rounds": ROUNDS, "shapes": rows}))


def _inputs(batch: int, heads: int, tokens: int, dim: int) -> tuple[Tensor, ...]:
    q, k = (F.normalize(torch.randn(batch, tokens, heads, dim), dim=-1) for _ in range(2))
    v = torch.randn(batch, tokens, heads, dim)
    log_decay, beta = -F.softplus(torch.randn(batch, tokens, heads) - 3), torch.rand(batch, tokens, heads)
    state = 0.1 * torch.randn(batch, heads, dim, dim)
    return tuple(x.requires_grad_() for x in (q, k, v, log_decay, beta, state))


def _peer(chunk: int) -> Rule:
    def rule(q: Tensor, k: Tensor, v: Tensor, g: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return torch_chunk_gated_delta_rule(
            q, k, v, g=g, beta=beta, chunk_size=chunk, initial_state=state, output_final_state=True
        )

    return rule


def _require_equal(rules: dict[str, Rule], inputs: tuple[Tensor, ...]) -> None:
    expected = _step(rules[OURS], inputs)()
    for name, rule in rules.items():
        for got, want in zip(_step(rule, inputs)(), expected, strict=True):
            error = float((got - want).norm() / want.norm())
            if not error <= TOLERANCE:
                raise SystemExit(
                    f"{name} differs from ours: relative error {error:.1e}, at most {TOLERANCE:.0e} is allowed"
                )


def _step(rule: Rule, inputs: tuple[Tensor, ...]) -> Callable[[], tuple[Tensor, ...]]:
    """A forward and backward: returns output, final state and the gradients of all inputs. The incoming gradients are
    dense, as in a model."""
    v, state = inputs[2].detach(), inputs[5].detach()

    def step() -> tuple[Tensor, ...]:
        outputs = rule(*inputs)
        return *(x.detach() for x in outputs), *torch.autograd.grad(outputs, inputs, (v, state))

    return step


def _show(rows: list[dict[str, object]]) -> None:
    table = Table("B, H, T, K", "ours", title="forward + backward, ms; in brackets: time relative to ours")
    others = (PEER, PEER_ONE_CHUNK, RECURRENT)
    for other in others:
        table.add_column(other)
    for row in rows:
        milliseconds, ratios = row["milliseconds"], row["times as fast as"]
        assert isinstance(milliseconds, dict) and isinstance(ratios, dict)
        cells = [f"{milliseconds[o]:.1f} ({ratios[o]:.1f} x)" if o in ratios else "-" for o in others]
        shape = ", ".join(str(row[key]) for key in ("batch", "heads", "tokens", "dim"))
        table.add_row(shape, f"{milliseconds[OURS]:.1f}", *cells)
    Console().print(table)


if __name__ == "__main__":
    command_parser("kernel", __doc__).parse_args()
    main()
