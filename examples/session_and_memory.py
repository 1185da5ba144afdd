"""Read a context of any length, save the session's memory to a file, and answer from that file later."""

import tempfile
from pathlib import Path

import torch

from sleepmodel import Memory, ModelConfig, Session, SleepModel

torch.manual_seed(0)
model = SleepModel(ModelConfig(vocab_size=16, d_model=64, n_heads=2, window=24, sleep_passes=4))  # not trained
context, question = torch.randint(0, 16, (1, 1000)), torch.randint(0, 16, (1, 5))

session = Session(model)
session.read(context)  # sleeps by itself on each of the 41 full windows
session.sleep()  # one more sleep, on the 16 tokens that remain
with tempfile.TemporaryDirectory() as directory:
    file = Path(directory) / "context.memory"
    session.memory.save(file)
    print(f"{context.shape[1]:,} tokens are {file.stat().st_size:,} bytes of memory; 2,000 would take as many")
    memory = Memory.load(file)

resumed = Session(model, memory=memory)  # in another process, or on another machine with the same weights
resumed.read(question)
answer = resumed.generate(4)
session.read(question)
assert torch.equal(answer, session.generate(4))
print(f"answer {answer.tolist()}, the same as from the session that read the context")
