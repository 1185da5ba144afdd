"""Let a model read a text file, sleep on it window by window, and ask it: python ask_a_document.py [DIRECTORY [FILE]]

DIRECTORY: of Hugging Face's layout, such as `python -m sleepmodel.pretrained smollm2 smollm2` writes. Without it a tiny
model is used that has learned nothing and needs no download: its answer means nothing. Needs the extra `pipeline`.
"""

import sys
import tempfile
from pathlib import Path

import torch
from tokenizers import Tokenizer as Trainer
from tokenizers import decoders, models, pre_tokenizers, trainers

from datagen.tokenizer import Tokenizer
from sleepmodel import Memory, ModelConfig, Session, SleepModel, from_pretrained
from sleepmodel.inference.text import decode_answer

DOCUMENT = "The mill at Pine Ridge was built in 1871. In 1904 it burned down, and only its wheel is left.\n" * 30


def tiny_model(text: str) -> SleepModel:
    """A model that is not trained, with a tokenizer that was trained on `text`."""
    trainer = Trainer(models.BPE())
    trainer.pre_tokenizer, trainer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    settings = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    trainer.train_from_iterator([text], settings)
    torch.manual_seed(0)
    model = SleepModel(ModelConfig(vocab_size=trainer.get_vocab_size(), d_model=64, n_heads=2, window=64))
    model.tokenizer = Tokenizer(trainer.to_str())
    return model


def ask(session: Session, tokenizer: Tokenizer, question: str) -> str:
    """The answer, of at most 40 tokens; the session does not change."""
    if tokenizer.chat_template is not None:
        question = tokenizer.chat([{"role": "user", "content": question}])
    fork = session.fork()
    fork.read(torch.tensor([tokenizer.encode(question)]), last=True)
    return decode_answer(tokenizer, fork.generate(40, stop=tokenizer.ends)[0].tolist())


document = Path(sys.argv[2]).read_text(encoding="utf-8") if len(sys.argv) > 2 else DOCUMENT
model = from_pretrained(sys.argv[1], window=256) if len(sys.argv) > 1 else tiny_model(document)
tokenizer = model.tokenizer
if tokenizer is None:
    sys.exit(f"{sys.argv[1]}: has no tokenizer.json")

session, tokens = Session(model), torch.tensor([tokenizer.encode(document)])
for piece in tokens.split(model.config.window, 1):
    session.read(
        piece, last=True
    )  # sleeps by itself when the window is full; `last`: only the last logits are computed
session.sleep()  # on what remains, so that the question has a window of its own
print(f"{tokens.shape[1]:,} tokens read, {int(session.sleeps[0])} sleeps")

with tempfile.TemporaryDirectory() as directory:
    session.memory.save(Path(directory) / "document.memory")
    later = Session(model, memory=Memory.load(Path(directory) / "document.memory"))
question = "When did the mill burn down?"
answer = ask(later, tokenizer, question)
assert answer == ask(session, tokenizer, question)
print(f"{question}\n{answer!r}")
