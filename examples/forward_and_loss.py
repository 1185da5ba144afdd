"""Compute the loss of a batch, and take one step of the optimiser."""

import torch

from datagen import Rule110
from sleepmodel import ModelConfig, SleepModel

torch.manual_seed(0)
task = Rule110(cells=16, states=2, steps=4)  # two states of 16 cells, `?`, and the first cell of each after 4 steps
tokens, loss_mask = map(torch.from_numpy, task.sample("train", seed=0, shard=0, rows=32).batch())
print(f"tokens {list(tokens.shape)}, of which {int(loss_mask.sum())} are answers")

config = ModelConfig(vocab_size=len(task.vocabulary), d_model=64, n_heads=2, window=16, sleep_passes=2)
model = SleepModel(config)  # sleeps on the first two windows, N = 2 passes each, and answers in the third
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

output = model(tokens, loss_mask)
print(f"loss {output.loss.item():.3f}, logits {list(output.logits.shape)}: one row for each answer token")
output.loss.backward()
optimizer.step()
print(f"loss {model(tokens, loss_mask).loss.item():.3f} on the same batch after one step")
