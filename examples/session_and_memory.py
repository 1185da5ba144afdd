"""Read a context of any length, keep what is left of it in a file, and answer from that file later."""

import tempfile
from pathlib import Path

import torch

from sleepmodel import Memory, ModelConfig, Session, SleepModel

torch.manual_seed(0)
model = SleepModel(ModelConfig(vocab_size=16, d_model=64, n_heads=2, window=24, sleep_passes=4))  # not trained
context, question = torch.randint(0, 16, (1, 1000)), torch.randint(0, 16, (1, 5))

session = Session(model)
session.read(context)  # sleeps by itself on each of the 41 full windows
session.sleep()  # and once more, on the 16 tokens that are left
with tempfile.TemporaryDirectory() as directory:
    file = Path(directory) / "context.memory"
    session.memory.save(file)
    print(f"{context.shape[1]:,} tokens are {file.stat().st_size:,} bytes of memory; twice as many would be, too")
    memory = Memory.load(file)

resumed = Session(model, memory=memory)  # in another process, or on another machine with the same weights
resumed.read(question)
answer = resumed.generate(4)
session.read(question)
assert torch.equal(answer, session.generate(4))
print(f"answer {answer.tolist()}, as the session that read the context gives it")
