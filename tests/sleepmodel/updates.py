"""What the first step of Muon and of AdamW must do to each parameter, whichever engine makes it."""

import torch
from torch import Tensor

from sleepmodel import ModelConfig, SleepModel, TrainConfig
from sleepmodel.batch_plan import BatchPlan
from sleepmodel.model import Output
from sleepmodel.training.optim import split_parameters

GIVEN_BATCH = (torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[False, True]]))


class _GivenGradients(SleepModel):
    """A model whose loss is linear in its parameters, so that their gradients are known."""

    gradients: dict[str, Tensor]

    def forward(
        self,
        tokens: Tensor,
        loss_mask: Tensor,
        sleep_passes: int | None = None,
        traces: Tensor | None = None,
        plan: BatchPlan | None = None,
    ) -> Output:
        loss = torch.stack([(p * self.gradients[name]).sum() for name, p in self.named_parameters()]).sum()
        return Output(loss, loss)


def with_given_gradients(config: ModelConfig) -> tuple[SleepModel, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = _GivenGradients(config)
    model.gradients = {name: _gradient(p) for name, p in model.named_parameters()}
    return model, model.gradients


def _gradient(parameter: Tensor) -> Tensor:
    """Random, but no matrix is nearly singular, of which Newton-Schulz's five steps would leave small values."""
    gradient = torch.randn_like(parameter)
    if gradient.dim() < 2:
        return gradient
    u, singular, v = torch.linalg.svd(gradient, full_matrices=False)
    return u @ torch.diag(singular.clamp(min=0.2 * singular.max())) @ v


def check_first_update(
    model: SleepModel, before: dict[str, Tensor], gradients: dict[str, Tensor], config: TrainConfig, rate: float
) -> None:
    """Muon: -lr * max(1, rows / columns)^0.5 * U V^T of the gradient, its singular values near 1 (Newton-Schulz's five
    steps leave them in 0.6 .. 1.3). AdamW: -lr * the gradient's sign."""
    muon = {id(p) for p in split_parameters(model, config.optimizer)[0]}
    assert bool(muon) == (config.optimizer == "muon")
    for name, p in model.named_parameters():
        change = p.detach() - before[name]
        if id(p) not in muon:
            torch.testing.assert_close(change, -config.adam_lr * rate * gradients[name].sign(), rtol=1e-2, atol=1e-6)
            continue
        rows, columns = change.shape
        update = -change / (config.muon_lr * rate * max(1.0, rows / columns) ** 0.5)
        singular = torch.linalg.svdvals(update)
        assert singular.min() > 0.6 and singular.max() < 1.3, f"{name}: {singular}"
        u, _, v = torch.linalg.svd(gradients[name], full_matrices=False)
        direction = torch.nn.functional.cosine_similarity(update.flatten(), (u @ v).flatten(), dim=0)
        assert direction > 0.95, f"{name}: {direction}"
