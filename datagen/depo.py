"""Depo (Physics of Language Models: Part 4.1; arXiv 2605.26099, figure 3): which node is k hops from node a?

Needs only NumPy. `datagen.depo_text` parses rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from datagen.canonical import added_later
from datagen.checks import require, require_bool, require_one_of, require_whole
from datagen.depo_draws import SYMBOLS, Int64, UInt16, UInt64, drawn_names, hashes, shuffled
from datagen.depo_text import Name, parse
from datagen.rows import NO_LABEL, PAD_NAME, Ragged, Rows, pad_id
from datagen.splits import split_of
from datagen.task import Task, random_stream, raw_words
from datagen.wording import AnsweredQuestion, QuestionText

FIRST, LAST, QUERY = 0, SYMBOLS, 2 * SYMBOLS  # ids: the first of two symbols; the last or only one; the first query
ONE_TOKEN, NAMES = SYMBOLS, SYMBOLS + SYMBOLS**2  # number of names with one token; number of all names
MIN_NODES = 3
MAX_HOPS = 4096
SMALL_NODES = 7  # up to here two random contexts may well be equal
MIN_NAMES = 5  # three nodes of fewer names have so few contexts that a split may have none
DRAWN = ("each", "below", "alike")
POINTERS = (None, "edges", "questions")
NONE = np.uint16(2**16 - 1)  # an empty slot
BLOCK_ROWS, BLOCK_WORDS = 4096, 2**20  # drawn at a time, so that they fit the cache; no effect on the results


# [NAMES, 2]: the ids of each name, NONE before the only id of a short one.
_FIRST, _LAST = np.divmod(np.arange(NAMES) - ONE_TOKEN, SYMBOLS)
SPELLING = np.stack([np.where(_FIRST < 0, NONE, FIRST + _FIRST), LAST + _LAST], axis=1).astype(np.uint16)


@dataclass(frozen=True)
class Depo(Task):
    """A row is the edges of a directed cycle in random order, then questions `?k a = b`, where b is k hops from a.

    nodes    3..2550, N, the nodes of the largest cycle; there are 2,550 names.
    hops     1..4096, the largest k; it may exceed the length of the cycle.
    queries  1..2550, questions in a row. No node is asked about twice, so a cycle of fewer nodes has one for each node.

    The other fields differ from the official task.

    names      null, or the number of names, at least 5, which then have one token each.
    least      3..nodes, the nodes of the smallest cycle in training rows.
    drawn      how the k of a row's questions are drawn: "each" on its own; "below": each from 1 to a bound that is
               drawn for its row, so that a curriculum finds rows without deep questions; "alike": one k for all.
    stated     whether a question states its k. If not, it is `? a = b`, and the number of passes tells the k of the
               row, which must be drawn "alike".
    test_hops  the k of test rows, if they are other than below.
    pointers   null, or which tokens get a slot in which passes can keep how far they followed the cycle; it needs
               `names`. "edges": an edge is `a b : c` instead of `a b`, with c = b. The window must hold the whole
               context, as pointers cannot follow edges that are read later. "questions": an edge is `a b :`, and the
               context ends with a window of `? a : c` for each question, after any number of windows of whole edges.
               No cycle may have fewer nodes than there are questions.
    ahead      1..nodes; the pointers of a training row all begin the same number of hops from their a, drawn from
               1..ahead, and 1 in other rows. A question then asks for the node that is k - 1 hops from the pointer of
               a. With ahead = nodes, training shows all windows that many passes can lead to, after few passes.
    traced     whether training rows have traces: the context with its pointers 1, 2, ..., k hops further. After k of
               these passes, the fast weights can hold the answer to each question.

    Train rows have n nodes, n in 3..N with p(n) ~ 1 / (n + sqrt(N)), and k uniform in 1..hops. Validation and test rows
    have N nodes and k uniform among the powers of two up to hops; unless k is drawn "each" on its own, validation rows
    have the k of train rows. A name has one or two symbols with equal probability; duplicate names are drawn again.
    (The least n is inferred: the smallest among 50 official samples with N = 75 is 4. The probability that none has 3
    nodes or fewer is 0.11 if n starts at 3, and 0.01 if it starts at 2.)

    Vocabulary, in the order of its ids: x1..x50, the first of two symbols; y1..y50, the last or only symbol, so that no
    name is a prefix of another; ?1..?hops, the queries; `=`, which precedes every answer; `<pad>`. With `names`, y1..
    are the names and there is no x. If k is not stated, there is one query, `?`. Before `<pad>` comes `:` if there are
    pointers.

    Layout: the context, padded on the left to 4 * nodes tokens, then the questions, 4 to 6 tokens each. There is no BOS
    and no EOS. An answer is the one or two tokens of its name; its depth is k. Names of one token make contexts of 2 *
    nodes tokens, or 4 * nodes, or 3 * nodes + 4 * queries with pointers, and questions of 4.

    If the window length divides 4 * nodes, the questions begin a window. If they all fit into it (at most 6 * queries
    tokens), no answer is the first token of a window.

    No two splits share a context, whatever their seeds and wherever pointers begin. A context is its edges in their
    order: of few nodes and names (5 of 10, say), the same cycle stands in several splits, its edges in another order.
    Up to 7 nodes, and always with `names`, a hash assigns each context to one split, about 1/8 to test and 1/8 to
    validation. Otherwise, from 8 nodes on contexts are drawn independently, as collisions are negligible: 10 million
    train rows and 10,000 test rows share one with a probability below 1e-11 at 8 nodes, 1e-290 at 75.
    """

    unasked = ("ahead", "traced")

    nodes: int = 75
    hops: int = 16
    queries: int = 10
    names: int | None = added_later(None)
    least: int = added_later(MIN_NODES)
    drawn: Literal["each", "below", "alike"] = added_later("each")
    stated: bool = added_later(True)
    test_hops: tuple[int, ...] = added_later(())
    pointers: Literal["edges", "questions"] | None = added_later(None)
    ahead: int = added_later(1)
    traced: bool = added_later(False)

    def __post_init__(self) -> None:
        require_whole("nodes", self.nodes, MIN_NODES, NAMES)
        require_whole("hops", self.hops, 1, MAX_HOPS)
        require_whole("queries", self.queries, 1, NAMES)
        if self.names is not None:
            require_whole("names", self.names, max(self.nodes, MIN_NAMES), NAMES)
        require_whole("least", self.least, MIN_NODES, self.nodes)
        require_one_of("drawn", self.drawn, DRAWN)
        for name in ("stated", "traced"):
            require_bool(name, getattr(self, name))
        require(isinstance(self.test_hops, (tuple, list)), "test_hops", self.test_hops, "a list of numbers of hops")
        object.__setattr__(self, "test_hops", tuple(self.test_hops))  # a dataset.json holds a list
        # a number that the rows state must be in the vocabulary, which training rows have taught
        for hops in self.test_hops:
            require_whole("test_hops", hops, 1, self.hops if self.stated else MAX_HOPS)
        alike = self.drawn == "alike"
        require(self.stated or alike, "stated", self.stated, f"true with drawn = {self.drawn}, as passes tell one k")
        require(self.pointers in POINTERS, "pointers", self.pointers, "null, edges or questions")
        require(self.pointers is not None or self.ahead == 1, "ahead", self.ahead, "1 without pointers")
        require_whole("ahead", self.ahead, 1, self.nodes)
        require(self.names is not None or not self.pointers, "pointers", self.pointers, "null without names")
        enough = self.pointers != "questions" or self.queries <= self.least
        require(enough, "queries", self.queries, f"at most least = {self.least} with pointers of the questions")
        require(self.pointers is not None or not self.traced, "traced", self.traced, "false without pointers")
        require(alike or not self.traced, "traced", self.traced, f"false with drawn = {self.drawn}: a trace has one k")

    @property
    def vocabulary(self) -> tuple[str, ...]:
        queries = tuple(f"?{k}" for k in range(1, self.hops + 1)) if self.stated else ("?",)
        return (*self._symbols, *queries, "=", *((":",) if self.pointers else ()), PAD_NAME)

    @property
    def _symbols(self) -> tuple[str, ...]:
        if self.names is not None:
            return tuple(f"y{symbol}" for symbol in range(1, self.names + 1))
        return tuple(f"{letter}{symbol}" for letter in "xy" for symbol in range(1, SYMBOLS + 1))

    @property
    def _name_length(self) -> int:
        """Tokens in the longest name."""
        return 2 if self.names is None else 1

    @property
    def context_length(self) -> int:
        """Tokens before the first query token, padding included."""
        return self._edge_slots + (4 * self.queries if self.pointers == "questions" else 0)

    @property
    def _edge_slots(self) -> int:
        """Tokens of the context that are edges, padding included."""
        return self.nodes * (2 * self._name_length + {None: 0, "edges": 2, "questions": 1}[self.pointers])

    @property
    def row_length(self) -> int:
        """Tokens in the longest row, in which every name has as many as any."""
        return self.context_length + (2 + 2 * self._name_length) * self._most_queries

    @property
    def max_depth(self) -> int:
        """Hops."""
        return self.hops

    @property
    def trace_labels(self) -> int:
        return self.hops * self.row_length if self.traced else 0

    @property
    def _most_queries(self) -> int:
        return min(self.queries, self.nodes)

    def check_window(self, window: int) -> None:
        """Also raises ValueError if the pointers are not all in one window, with no edges behind it."""
        if self.pointers == "edges":
            allowed = f"the context's {self.context_length} tokens, as pointers cannot follow edges of later windows"
            require(window == self.context_length, "window", window, allowed)
        if self.pointers == "questions":
            require(window == 4 * self.queries, "window", window, f"4 * queries = {4 * self.queries}")
            allowed = f"a multiple of 3 such that 4 * queries divides 3 * nodes = {self._edge_slots}, to fill windows"
            require(self._edge_slots % window == window % 3 == 0, "queries", self.queries, allowed)
        super().check_window(window)

    def question_text(self, asked: AnsweredQuestion) -> QuestionText:
        """The cycle, starting at the node in question, and the given node's distance from it."""
        puzzle = parse(asked.words, asked.depth)
        question = next(q for q in puzzle.questions if q.start == asked.start)
        following, cycle = dict(puzzle.edges), [question.node]
        while (after := following[cycle[-1]]) != question.node:
            cycle.append(after)
        path = " → ".join(map(_node, [*cycle, question.node]))
        given = tuple(asked.given)
        # a hop count of 0 is the node itself, once round
        where = f"{cycle.index(given) or len(cycle)} hops away" if given in following else "not on the cycle"
        hops = puzzle.ahead - 1 + question.hops
        problem = f"{path} ({len(cycle)} nodes). {hops} hops from {_node(question.node)}?"
        return QuestionText(problem, _node(question.answer), f"{_node(given)} ({where})")

    def asked_at(self, rows: Rows, depth: int) -> Rows:
        """Each question of these rows, in their order, in a row of its own that asks for the node `depth` hops away.
        Raises ValueError if names may have two tokens, if there are pointers, or if questions cannot state `depth`."""
        require(self.names is not None, "names", self.names, "a number, for names of one token")
        require(self.pointers is None, "pointers", self.pointers, "null: pointers belong to the questions of their row")
        require(self.stated, "stated", self.stated, "true, so that a question can ask for any number of hops")
        require_whole("depth", depth, 1, self.hops)
        query, pad = len(self._symbols), len(self.vocabulary) - 1
        tokens, _ = rows.batch()
        starts, lengths, _ = rows.answers()
        of_row, which = lengths.nonzero()
        context = np.where(tokens < 0, pad, tokens)[:, : self.context_length]
        following = np.full((len(rows), pad + 1), pad)
        np.put_along_axis(following, context[:, ::2], context[:, 1::2], axis=1)
        node = end = tokens[of_row, starts[of_row, which] - 2]
        for _ in range(depth):
            end = following[of_row, end]
        asking, equals = (np.full_like(node, token) for token in (query + depth - 1, query + self.hops))
        found = np.concatenate((context[of_row], np.stack((asking, node, equals, end), axis=1)), axis=1)
        one = np.ones((len(found), 1), np.int32)
        return Rows(found.astype(np.uint16), one * (self.context_length + 3), one, one * depth, pad)

    def sample(self, split: str, seed: int, shard: int, rows: int) -> Rows:
        """The first `rows` rows of a shard, a function of (config, split, seed, shard) alone.

        split is train, validation or test; seed and shard are 0 or more, rows 1 or more; else ValueError.
        Returns Ragged rows: uint16 tokens, at most `queries` answers of one or two tokens each.
        """
        stream = random_stream(self, split, seed, shard)
        require_whole("rows", rows, 1, 2**31 - 1)
        words_per_row = 1 + 4 * self.nodes + self._most_queries + (self.drawn != "each") + (self.ahead > 1)
        labels = self.hops * self.context_length if self.traced else 0
        block = min(BLOCK_ROWS, max(1, BLOCK_WORDS // (words_per_row + labels)))
        drafts: list[Draft] = []
        missing = rows
        while missing > 0:
            drawn = min(block, 2 * missing)
            draft = self._draft(raw_words(stream, drawn * words_per_row).reshape(drawn, -1), split)
            keep = np.flatnonzero(self._belongs(draft, split))[:missing]
            drafts.append(Draft(*(array[keep] for array in draft)))
            missing -= len(keep)
        _, tokens, *answers, moved = (np.concatenate(arrays) for arrays in zip(*drafts, strict=True))
        filled, asked = tokens != NONE, answers[-1] > 0
        start, length, depth = (Ragged.of(array[asked], asked.sum(axis=1)) for array in answers)
        traced = self.traced and split == "train"
        return Rows(
            Ragged.of(tokens[filled], filled.sum(axis=1)),
            start,
            length,
            depth,
            pad_id(self.vocabulary),
            traces=self._traces(moved, filled.sum(axis=1), answers[-1].max(axis=1)) if traced else None,
        )

    def _traces(self, moved: UInt16, lengths: Int64, depths: Int64) -> Ragged:
        """moved [n, hops, context]: each row's context with its pointers 1, 2, ... hops further."""
        labels = np.full((*moved.shape[:2], lengths.max()), NO_LABEL, np.int32)
        labels[..., : self.context_length] = np.where(
            moved == len(self.vocabulary) - 1, NO_LABEL, moved.astype(np.int32)
        )
        steps, positions = np.arange(self.hops)[:, None], np.arange(lengths.max())
        real = (steps < depths[:, None, None]) & (positions < lengths[:, None, None])
        return Ragged.of(labels[real], depths * lengths)

    def _draft(self, words: UInt64, split: str) -> Draft:
        """Rows from raw words, uint64 [n, 1 + 4 * nodes + queries], queries at most nodes (here and below); one word
        more unless k is drawn "each" on its own, and one more if `ahead` is above 1."""
        size_words, *node_words, hop_words = np.split(words, np.arange(5) * self.nodes + 1, axis=1)
        ahead = np.ones_like(size_words, dtype=np.int64)
        if self.ahead > 1:
            hop_words, ahead_words = hop_words[:, :-1], hop_words[:, -1:]
            if split == "train":
                ahead += (ahead_words % np.uint64(self.ahead)).astype(np.int64)
        size = self._sizes(size_words, split)
        # Short names tend to be drawn first, so their positions on the cycle are shuffled.
        names = drawn_names(node_words[0], self.names or ONE_TOKEN, self.names or NAMES)
        return self._laid_out(
            spelling=self._spelling[np.take_along_axis(names, shuffled(node_words[1], size), axis=1)],
            size=size,
            edges=shuffled(node_words[2], size),
            asked=shuffled(node_words[3], size)[:, : self._most_queries],
            hops=self._hops(hop_words, split),
            ahead=ahead,
            traces=self.hops if self.traced and split == "train" else 0,
        )

    def _sizes(self, words: UInt64, split: str) -> Int64:
        """Nodes of each cycle, int64 [n, 1], from words [n, 1]."""
        if split != "train":
            return np.full(words.shape, self.nodes)
        # IEEE 754 makes sums, roots and quotients in a fixed order the same on every machine.
        share = np.cumsum(1 / (np.arange(self.least, self.nodes + 1) + np.sqrt(self.nodes)))
        uniform = (words >> np.uint64(11)) * 2.0**-53
        return self.least + np.searchsorted(share / share[-1], uniform, side="right")

    def _hops(self, words: UInt64, split: str) -> Int64:
        """k of each question, int64 [n, queries], from words [n, queries], or one more, which is then the row's."""
        own, of_row = words[:, : self._most_queries], words[:, -1:]
        if split == "train" or (split == "validation" and self.drawn != "each"):
            choices = np.arange(1, self.hops + 1)
            if self.drawn == "below":
                return choices[own % (of_row % np.uint64(self.hops) + np.uint64(1))]
        else:
            choices = np.array((split == "test" and self.test_hops) or 2 ** np.arange(self.hops.bit_length()))
        drawn = of_row if self.drawn == "alike" else own
        return np.broadcast_to(choices[drawn % np.uint64(len(choices))], own.shape)

    @property
    def _spelling(self) -> UInt16:
        """[names, 2]: the ids of each name."""
        if self.names is None:
            return SPELLING
        return np.stack([np.full(self.names, NONE), np.arange(self.names, dtype=np.uint16)], axis=1)

    def _laid_out(
        self, spelling: UInt16, size: Int64, edges: Int64, asked: Int64, hops: Int64, ahead: Int64, traces: int
    ) -> Draft:
        """spelling [n, nodes, 2]: the names in their order on the cycle; size [n, 1]; edges [n, nodes] and asked
        [n, queries]: indices into the cycle; ahead [n, 1]: hops to the pointers; traces: the number of contexts with
        pointers that are further."""
        n, query = len(spelling), len(self._symbols)
        marker = query + (self.hops if self.stated else 1)

        def spell(positions: Int64) -> UInt16:
            return np.take_along_axis(spelling, (positions % size)[..., None], axis=1)

        def context(moved: int | Int64) -> UInt16:
            """The edges, with pointers that have moved so many hops."""
            slots = [spell(edges), spell(edges + 1)]
            if self.pointers:
                slots.append(np.full((n, self.nodes, 1), marker + 1, np.uint16))
            if self.pointers == "edges":
                slots.append(spell(edges + ahead + moved))
            found = np.concatenate(slots, axis=2)
            found[np.arange(self.nodes) >= size] = NONE
            found = found.reshape(n, -1)
            if self.pointers == "questions":
                colon = np.full_like(asking, marker + 1)
                pointing = np.concatenate((asking, spell(asked), colon, spell(asked + ahead + moved)), axis=2)
                found = np.concatenate((found, pointing.reshape(n, -1)), axis=1)
            filled = found != NONE
            padded = np.full((n, self.context_length), len(self.vocabulary) - 1, np.uint16)
            padded[np.arange(self.context_length) >= self.context_length - filled.sum(axis=1, keepdims=True)] = found[
                filled
            ]
            return padded

        asking = (query + (hops - 1 if self.stated else np.zeros_like(hops))).astype(np.uint16)[..., None]
        questions = np.empty((*hops.shape, 6), dtype=np.uint16)
        questions[..., :1] = asking
        questions[..., 1:3] = spell(asked)
        questions[..., 3] = marker
        questions[..., 4:6] = spell(asked + ahead + hops - 1)
        absent = np.arange(self._most_queries) >= size
        questions[absent] = NONE
        length = 2 - (questions[..., 4] == NONE)
        filled = (questions != NONE).reshape(n, -1)
        start = self.context_length + (np.cumsum(filled, axis=1) - filled)[:, 4::6]
        moved = [context(hop) for hop in range(1, traces + 1)]
        begin = context(0)
        return Draft(
            edges=(begin if self.ahead == 1 else context(1 - ahead))[:, : self._edge_slots],
            tokens=np.concatenate([begin, questions.reshape(n, -1)], axis=1),
            start=start.astype(np.int32),
            length=length.astype(np.int32),
            depth=np.where(absent, 0, hops).astype(np.int32),
            moved=np.stack(moved, axis=1) if moved else np.empty((n, 0, self.context_length), np.uint16),
        )

    def _belongs(self, draft: Draft, split: str) -> npt.NDArray[np.bool_]:
        """Whether the context of each row belongs to the split, bool [n]."""
        if self.nodes > SMALL_NODES and self.names is None:
            return np.ones(len(draft.tokens), dtype=np.bool_)
        return split_of(hashes(draft.edges)) == split


class Draft(NamedTuple):
    """n rows as arrays: edges uint16 [n, slots], those of the context, by which it belongs to a split; tokens uint16
    [n, slots], NONE in empty slots; answers int32 [n, queries], with depth 0 in empty slots; moved uint16
    [n, traces, context], the context after each trace's pass."""

    edges: npt.NDArray[Any]
    tokens: npt.NDArray[Any]
    start: npt.NDArray[Any]
    length: npt.NDArray[Any]
    depth: npt.NDArray[Any]
    moved: npt.NDArray[Any]


def _node(name: Name) -> str:
    return "".join(name)
