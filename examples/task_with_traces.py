"""A task that says what each pass of a sleep should find out (traces), and a training on it."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from my_tasks import Parity

from datagen import Rows, check_task
from datagen.rows import NO_LABEL, Ragged
from sleepmodel import ModelConfig, TrainConfig
from sleepmodel.evaluation.accuracy import accuracy
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.loop import build_model, train


@dataclass(frozen=True)
class TracedParity(Parity):
    """Parity with traces: at each bit, whether the number of ones among the last 2, 4, 8, ... bits is odd."""

    @property
    def trace_labels(self) -> int:
        return (self.bits - 1).bit_length() * self.row_length

    def sample(self, split: str, seed: int, shard: int, rows: int) -> Rows:
        found = super().sample(split, seed, shard, rows)
        odd, traces, span = found.tokens[:, : self.bits].astype(np.int32), [], 1
        while span < self.bits:
            odd = odd ^ np.pad(odd, ((0, 0), (span, 0)))[:, : self.bits]
            traces.append(np.pad(odd, ((0, 0), (0, 2)), constant_values=NO_LABEL))  # none at `?` and the answer
            span *= 2
        labels = np.stack(traces, axis=1)  # [rows, traces, tokens]
        return replace(found, traces=Ragged.of(labels.reshape(-1), np.full(rows, labels[0].size)))


torch.set_num_threads(1)
task = TracedParity(bits=8)
check_task(task)

model = ModelConfig(
    vocab_size=len(task.vocabulary),
    d_model=32,
    n_heads=2,
    window=task.context_length,
    mixers=("attention", "gated_delta"),
    fast_heads=1,
    sleep_passes=4,
    reads_first=True,  # the first pass only reads, the other three have a trace each
    carry="token",  # a pass hands on the tokens that its readout finds most likely
)
config = TrainConfig(steps=30, batch_size=64, warmup_steps=5, validate_every=10, trace_weight=1.0)
rows, test = task.sample("train", 0, 0, 1024), task.sample("test", 0, 0, 256)
train(
    LocalEngine(build_model(model, config), config),
    rows,
    config,
    validate=lambda trained, level: accuracy(trained, test).rows.value,
    report=lambda at, save: print(at.line()),
)
