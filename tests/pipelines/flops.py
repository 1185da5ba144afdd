"""What a training costs."""

from pipelines.config.experiment import Experiment, step_flops
from pipelines.config.variant import Variant


def training_flops_of(experiment: Experiment, variant: Variant) -> float:
    """Of one training, as if all rows were the longest."""
    train = experiment.variant_train(variant)
    return train.steps * step_flops(experiment.variant_model(variant), train, experiment.variant_task(variant))
