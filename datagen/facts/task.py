"""Facts: a document of facts about made-up people and places, then questions: how much does a model remember?

Needs only NumPy, and `tokenizers` if a task names a tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from datagen.checks import require, require_one_of, require_whole
from datagen.facts.encoder import MAX_CONTEXT, StoryEncoder, encoder_of
from datagen.facts.names import SORTS, Names, names_of
from datagen.facts.relations import FORMS, RELATIONS, hop, hops, spelled
from datagen.facts.story import KINDS, Kind, Story, draw_story
from datagen.facts.wording import FactsWording
from datagen.rng import Rng
from datagen.rows import Rows
from datagen.task import Task, random_stream

MAX_FACTS = 128  # as many as there are names of one word


class Answer(NamedTuple):
    start: int
    length: int
    depth: int


@dataclass(frozen=True)
class Facts(FactsWording, Task):
    """A row is a document of `context_length` tokens, sentences in random order, then questions and their answers:
    "... Alan Ashby lives in Old Iskham. ... Where does Alan Ashby live? Old Iskham. Who is the mayor of ...".

    facts           the number of facts in a document, drawn uniformly from these, each 1..128, ascending.
    questions       in a row, all of one kind; no two ask for the same fact.
    question_kinds  drawn uniformly: "recall" needs one fact; "hop" two, of which the second is about the object of the
                    first ("Where was the mentor of ... born?"); in "change", half the facts are stated a second time
                    with another object, and the questions ask for these: the later statement is right. A row of the
                    last two kinds has twice as many facts as questions, or more.
    context_length  1..65536, tokens before the first question. Distractors, sentences that state no fact, fill the
                    document to exactly this length, so its share of them follows from it and the number of facts.
    span            a divisor of context_length: tokens in a unit of depth, best the model's window.
    relations       1..6, how many of these are in use: home, mentor, mayor, birthplace, workplace, doctor.
    forms           1..3, sentence forms of each relation. Two have the subject first, the third the object.
    name_words      2: "Alan Ashby", "Old Iskham". 1: "Alan", "Iskham", of 128 people and 128 places.
    tokenizer       a tokenizer.json, or a directory with one; None makes each word and punctuation mark one token.

    The depth of an answer is its distance: the spans from the end of the document back to the sentence that it needs,
    1 if this ends in the last span. If it needs two sentences, the farther one counts. A sentence may cross a border
    between spans. `kinds` tells rows apart by kind and number of facts; their accuracy is that of whole rows.

    If the window length divides context_length and the questions fit into one window, they share no window with the
    document, and no answer is the first token of a window.

    Names of two words belong to one split each. Of names of one word, which every split has, no two stand in the same
    sentence, and thus in a fact, in two splits: a model that learns which pairs never occur in train rows is misled.

    Guessing: an answer is drawn uniformly from the names that a fact may connect with its subject. Without the document
    it is guessed with a probability below 1/200, for names of two words; of names of one word, about 1/100. A model
    that remembers which names a document has, but not which belong together, guesses among the objects: it is right
    with 1/f of f facts of one relation, and more often with several relations, or when answers that a row has given
    already are left: .34 of all questions if it asks for each of 8 facts.
    """

    facts: tuple[int, ...] = (8, 16, 32)
    questions: int = 4
    question_kinds: tuple[Kind, ...] = KINDS
    context_length: int = 1024
    span: int = 128
    relations: int = len(RELATIONS)
    forms: int = FORMS
    name_words: Literal[1, 2] = 2
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        for name in ("facts", "question_kinds"):
            value = getattr(self, name)
            require(isinstance(value, (tuple, list)) and len(value) > 0, name, value, "a tuple of at least one value")
            object.__setattr__(self, name, tuple(value))  # a dataset.json holds a list
        for facts in self.facts:
            require_whole("facts", facts, 1, MAX_FACTS)
        require(list(self.facts) == sorted(set(self.facts)), "facts", self.facts, "ascending, none twice")
        for kind in self.question_kinds:
            require_one_of("question_kinds", kind, KINDS)
        different = len(set(self.question_kinds)) == len(self.question_kinds)
        require(different, "question_kinds", self.question_kinds, "different from each other")
        require_whole("context_length", self.context_length, 1, MAX_CONTEXT)
        require_whole("span", self.span, 1, self.context_length)
        allowed = f"a divisor of context_length = {self.context_length}"
        require(self.context_length % self.span == 0, "span", self.span, allowed)
        least = 2 if "hop" in self.question_kinds else 1
        require_whole("relations", self.relations, least, len(RELATIONS))
        require_whole("forms", self.forms, 1, FORMS)
        require(type(self.name_words) is int and self.name_words in (1, 2), "name_words", self.name_words, "1 or 2")
        needed = 1 if self.question_kinds == ("recall",) else 2  # facts for each question
        require_whole("questions", self.questions, 1)
        allowed = f"at most {self.facts[0] // needed}, as {needed} of the {self.facts[0]} facts go with each question"
        require(self.questions * needed <= self.facts[0], "questions", self.questions, allowed)
        if self.tokenizer is None:
            self._check_length(encoder_of(None))
        require(type(self.tokenizer) in (str, type(None)), "tokenizer", self.tokenizer, "a path as a str, or None")

    def _check_length(self, encoder: StoryEncoder) -> None:
        """Raise ValueError if the document may be too short for its facts."""
        used, changes = RELATIONS[: self.relations], "change" in self.question_kinds
        templates = [form for relation in used for form in relation.states[: self.forms]]
        if changes:
            templates += [form for relation in used for form in relation.changes[: self.forms]]
        longest = max(self._longest(encoder, template) for template in templates)
        sentences = self.facts[-1] + (self.facts[-1] // 2 if changes else 0)
        least = sentences * longest + encoder.always_fillable
        allowed = f"at least {least}, for {sentences} statements of up to {longest} tokens"
        require(self.context_length >= least, "context_length", self.context_length, allowed)

    def _longest(self, encoder: StoryEncoder, template: str) -> int:
        """Tokens of a template with the longest names."""
        names = [encoder.longest_name(sort, self.name_words) for sort in SORTS]
        name = max(names, key=lambda name: len(encoder.encode(spelled(name))))
        return len(encoder.write(template, {"s": name, "o": name}))

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return encoder_of(self.tokenizer).vocabulary.tokens

    @property
    def row_length(self) -> int:
        """At least the tokens in the longest row."""
        encoder, used = encoder_of(self.tokenizer), RELATIONS[: self.relations]
        asked = [relation.question for relation in used]
        if "hop" in self.question_kinds:
            asked += [hop(first, second) for first, second in hops(used)]
        # "." stands between an answer and the next question
        longest = max(self._longest(encoder, question + " {o}.") for question in asked)
        return self.context_length + self.questions * longest - len(encoder.encode(["."]))

    @property
    def max_depth(self) -> int:
        """Spans."""
        return self.context_length // self.span

    def with_depth(self, depth: int) -> Facts:
        """The same facts in a document of another number of spans."""
        return replace(self, context_length=depth * self.span)

    def sample(self, split: str, seed: int, shard: int, rows: int) -> Rows:
        """The first `rows` rows of a shard, a function of (config, split, seed, shard) alone.

        Raises ValueError for a bad split, seed, shard or number of rows, for a tokenizer that `piecewise` rejects,
        and for one that makes the facts too long for the document.
        """
        require_whole("rows", rows, 1, 2**31 - 1)
        encoder = encoder_of(self.tokenizer)
        self._check_length(encoder)
        # The path of the tokenizer does not affect the rows.
        rng = Rng(random_stream(replace(self, tokenizer=None), split, seed, shard))
        names = names_of(split, self.name_words)
        tokens, answers = list[list[int]](), list[list[Answer]]()
        for _ in range(rows):
            row = self._row(rng, names, encoder)
            tokens.append(row[0])
            answers.append(row[1])
        start, length, depth = ([[answer[i] for answer in row] for row in answers] for i in range(3))
        size = len(encoder.vocabulary.tokens)
        return Rows.of(tokens, start, length, depth, dtype=np.uint16 if size <= 2**16 else np.uint32)

    def _row(self, rng: Rng, names: Names, encoder: StoryEncoder) -> tuple[list[int], list[Answer]]:
        kind, facts = rng.choice(self.question_kinds), rng.choice(self.facts)
        story = draw_story(rng, names, kind, facts, self.questions, self.relations)
        row, ends = self._document(rng, story, names, encoder)
        answers: list[Answer] = []
        for path in story.asked:
            first, last = story.facts[path[0]], story.facts[path[-1]]
            question = last.relation.question if len(path) == 1 else hop(first.relation, last.relation)
            row += [*(encoder.encode(["."]) if answers else ()), *encoder.write(question, {"s": first.subject})]
            answer = encoder.encode(spelled(last.object))
            farthest = min(ends[fact] for fact in path)
            answers.append(Answer(len(row), len(answer), self.max_depth - farthest // self.span))
            row += answer
        return row, answers

    def _document(
        self, rng: Rng, story: Story, names: Names, encoder: StoryEncoder
    ) -> tuple[list[int], dict[int | None, int]]:
        """The tokens of a document, and where the statement of each fact, the later one if it changes, has its last
        token."""
        sentences: list[tuple[int | None, list[int]]] = []
        for i, (relation, subject, object_, earlier) in enumerate(story.facts):
            forms = relation.states
            if earlier is not None:
                before = encoder.write(rng.choice(forms[: self.forms]), {"s": subject, "o": earlier})
                sentences.append((~i, before))
                forms = relation.changes
            sentences.append((i, encoder.write(rng.choice(forms[: self.forms]), {"s": subject, "o": object_})))
        gap = self.context_length - sum(len(tokens) for _, tokens in sentences)
        sentences += [(None, tokens) for tokens in encoder.fill(rng, gap, names)]
        sentences = rng.shuffled(sentences)
        index = {label: at for at, (label, _) in enumerate(sentences)}
        for i, fact in enumerate(story.facts):
            if fact.earlier is not None and index[~i] > index[i]:
                sentences[index[i]], sentences[index[~i]] = sentences[index[~i]], sentences[index[i]]
        document, ends = list[int](), dict[int | None, int]()
        for label, tokens in sentences:
            document += tokens
            ends[label] = len(document) - 1
        return document, ends
