"""What several tests of the GSM problems need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from datagen.gsm.quantity import Expression, Quantity, Statement
from datagen.gsm.themes import THEMES, Theme
from datagen.gsm.vocabulary import example_texts
from datagen.rng import Rng

WORLD = THEMES[2]
A, B, C, D = (Quantity("number", thing, "Ruby Bay") for thing in WORLD.things[:4])
AVERAGE_A = A._replace(kind="average")
TOTAL, GRAND = Quantity("total", "", "Ruby Bay"), Quantity("grand", "", "Ruby Bay")


NUMBERS = st.integers(0, 999)


def rng(seed: int) -> Rng:
    return Rng(np.random.Philox(key=seed))


@st.composite
def quantities(draw: st.DrawFn, theme: Theme) -> Quantity:
    kind = draw(st.sampled_from(["number", "average", "total", "grand"]))
    thing = draw(st.sampled_from(theme.things)) if kind in ("number", "average") else ""
    return Quantity(kind, thing, draw(st.sampled_from(theme.places)))


@st.composite
def expressions(draw: st.DrawFn, theme: Theme, numbers: st.SearchStrategy[int]) -> Expression:
    constant = draw(st.none() | numbers)
    operands = tuple(draw(st.lists(quantities(theme), max_size=5)))
    minus = len(operands) == 2 and draw(st.booleans())
    times = bool(operands) and constant is not None and draw(st.booleans())
    return Expression(constant, operands, minus, times)


@st.composite
def statements(draw: st.DrawFn, theme: Theme, numbers: st.SearchStrategy[int] = NUMBERS) -> Statement:
    """Any statement that the sentence forms can say; only numbers and averages can be unknown."""
    statement = Statement(draw(quantities(theme)), draw(expressions(theme, numbers)))
    if statement.expression == Expression() and not statement.quantity.thing:
        return statement._replace(expression=Expression(1))
    return statement


def train_tokenizer(directory: Path, across_words: bool = False) -> Path:
    """A small byte-level BPE tokenizer of Qwen's kind, one token a digit, or one whose tokens may span words."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    words = pre_tokenizers.Split(Regex(r"\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+"), "isolated")
    bytes_ = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = bytes_ if across_words else pre_tokenizers.Sequence([words, bytes_])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, initial_alphabet=alphabet, special_tokens=["<end>"], show_progress=False
    )
    tokenizer.train_from_iterator(("".join(pieces) for pieces in example_texts()), trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<end> $A", special_tokens=[("<end>", 0)])
    tokenizer.save(str(directory / "tokenizer.json"))
    return directory / "tokenizer.json"
