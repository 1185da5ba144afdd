"""Sentences as tokens, and distractors that fill a document up to an exact number of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache

from datagen.facts.names import SORTS, WORDS, Name, Names, Sort
from datagen.facts.relations import DISTRACTORS, PAUSE, RELATIONS, hop, hops, pieces, spelled
from datagen.rng import Rng
from datagen.tokenizer import Tokenizer
from datagen.vocabulary import PUNCTUATION, PieceEncoder, WordVocabulary, piecewise, split

MAX_CONTEXT = 2**16


class StoryEncoder(PieceEncoder):
    """Writes templates, and fills gaps between sentences."""

    def write(self, template: str, names: Mapping[str, Name]) -> list[int]:
        """The tokens of a template. names: of its blanks."""
        tokens: list[int] = []
        for piece in pieces(template):
            tokens += self.encode(spelled(names[piece[1:-1]])) if piece[0] == "{" else self._piece(piece)
        return tokens

    def longest_name(self, sort: Sort, words: int) -> Name:
        """The name with the most tokens."""
        return tuple(max(part, key=lambda word: len(self._piece(f" {word}"))) for part in WORDS[sort, words])

    def fill(self, rng: Rng, gap: int, names: Names) -> list[list[int]]:
        """Distractors that have `gap` tokens together, which must be `fillable`."""
        filled = []
        while gap:
            template = rng.choice(DISTRACTORS)
            blanks: dict[str, Name] = {sort: rng.choice(names.every[sort]) for sort in SORTS if sort in template}
            tokens = self.write(template, blanks)
            if len(tokens) > gap or not self.fillable[gap - len(tokens)]:
                fitting = [each for each in self._nameless if len(each) <= gap and self.fillable[gap - len(each)]]
                tokens = rng.choice(fitting) if fitting else self.encode([PAUSE])
            filled.append(tokens)
            gap -= len(tokens)
        return filled

    @cached_property
    def fillable(self) -> Sequence[bool]:
        """Whether distractors without names, and pauses, can have this many tokens together, up to MAX_CONTEXT."""
        reached = 1  # bit i: whether i tokens are possible
        for tokens in (*self._nameless, self.encode([PAUSE])):
            step = len(tokens)
            while step <= MAX_CONTEXT:  # 1, 2, 4, ... times, so that every multiple is a sum of some
                reached |= reached << step
                step *= 2
        return [bit == "1" for bit in reversed(f"{reached:b}")][: MAX_CONTEXT + 1]

    @cached_property
    def always_fillable(self) -> int:
        """The least number from which on all are fillable."""
        return 1 + max((gap for gap, fits in enumerate(self.fillable) if not fits), default=-1)

    @cached_property
    def _nameless(self) -> list[list[int]]:
        return [self.encode(pieces(template)) for template in DISTRACTORS if "{" not in template]


def encoder_of(tokenizer: str | None) -> StoryEncoder:
    """The encoder for a tokenizer's path; None: one token per word. Raises ValueError as Tokenizer.read and
    `piecewise`."""
    return _encoder(None if tokenizer is None else Tokenizer.read(tokenizer))


@lru_cache(maxsize=4)
def _encoder(tokenizer: Tokenizer | None) -> StoryEncoder:
    examples = list(_examples())
    if tokenizer is not None:
        return StoryEncoder(piecewise(tokenizer, examples))
    known = {word for text in examples for piece in text for word in split(piece)}
    return StoryEncoder(WordVocabulary([*PUNCTUATION, *sorted(known - set(PUNCTUATION))]))


def _examples() -> Iterable[list[str]]:
    """Texts, as pieces, that together contain every sentence form, every name and every question."""
    forms = [form for relation in RELATIONS for form in (*relation.states, *relation.changes, relation.question)]
    templates = [*forms, *(hop(*pair) for pair in hops(RELATIONS)), *DISTRACTORS, PAUSE]
    for words in (1, 2):
        for sort in SORTS:
            parts = WORDS[sort, words]
            for i in range(len(parts[-1])):
                name = spelled(tuple(part[i % len(part)] for part in parts))
                template = pieces(templates[i % len(templates)])
                filled = [part for piece in template for part in (name if piece[0] == "{" else [piece])]
                yield [*filled, *name, ".", *filled]
