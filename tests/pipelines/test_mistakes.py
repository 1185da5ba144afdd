"""What was answered instead: counted one by one, and told as tables."""

from collections import Counter

import numpy as np

from datagen import Depo, Rows, Rule110
from datagen.schema import Dataset
from pipelines.reporting.mistakes import (
    GAP,
    MOST_CONFUSIONS,
    MOST_DEPTHS,
    MOST_WRONG,
    ConfusionCount,
    Mistakes,
    WrongAnswer,
    confusion_counts,
    markdown,
    wrong_answers,
)
from sleepmodel.evaluation.accuracy import right_answers
from tests.pipelines.unwritten import about

TASK = Depo(nodes=6, hops=4, queries=3)


def test_the_commonest_wrong_answers_are_those_of_counting() -> None:
    rng = np.random.default_rng()
    rows = TASK.sample("train", int(rng.integers(2**31)), 0, 400)
    mask = rows.loss_mask()
    predicted = np.where(mask, rng.integers(50, 53, mask.shape), -1)
    tokens, starts = rows.tokens.tolist(), rows.answer_start.tolist()
    lengths, depths = rows.answer_length.tolist(), rows.answer_depth.tolist()
    wrong, asked = Counter[tuple[int, str, str]](), Counter[tuple[int, str]]()
    for i, row in enumerate(tokens):
        for start, length, depth in zip(starts[i], lengths[i], depths[i], strict=True):
            if length == 1:
                right, given = TASK.vocabulary[row[start]], TASK.vocabulary[predicted[i, start]]
                asked[depth, right] += 1
                wrong[depth, right, given] += right != given
    found = confusion_counts(predicted, rows, TASK.vocabulary)
    assert all(
        (trained.times, trained.of)
        == (wrong[trained.depth, trained.right, trained.given], asked[trained.depth, trained.right])
        for trained in found
    )
    for depth in (1, 2, 3, 4):
        times = sorted((count for (d, *_), count in wrong.items() if d == depth), reverse=True)
        assert [trained.times for trained in found if trained.depth == depth] == times[:MOST_CONFUSIONS]


def test_failures_are_the_first_wrong_answers_of_each_depth() -> None:
    rows = TASK.sample("train", 0, 0, 100)
    tokens, mask = rows.batch()
    predicted = np.where(mask, tokens, -1)
    dataset = about(TASK)
    assert wrong_answers(predicted, rows, dataset) == []
    start, length, depth = rows.answers()
    for row, number in ((7, 0), (9, 1), (11, 2), (13, 0), (90, 1)):
        predicted[row, start[row, number]] = 0
    right = right_answers(predicted, rows)
    for d in (1, 2, 3, 4):
        expected = [row for row in range(100) if (~right[row] & (depth[row] == d) & (length[row] > 0)).any()]
        found = [failure.row for failure in wrong_answers(predicted, rows, dataset) if failure.depth == d]
        assert found == expected[:MOST_WRONG]


def test_markdown_keeps_each_table_whole() -> None:
    task = Rule110(cells=6, states=1, steps=1)
    rows = task.sample("test", 0, 0, 8)
    dataset = about(task)
    wrong = wrong_answers(np.where(rows.loss_mask(), 2, -1), rows, dataset)
    text = markdown([Mistakes("n1", 3, [ConfusionCount(1, "a|b", "c", 2, 5)], wrong), Mistakes("n2", 3, [], [])])
    assert "## n1, seed 3" in text and "| 1 | a\\|b | c | 2 of 5 |" in text
    assert all(f"| {failure.problem} | {failure.right} | ? |" in text for failure in wrong)
    assert text.endswith("## n2, seed 3\n\nNo answer is wrong.\n")


LARGE = Dataset(1, "unknown", {}, tuple(f"w{i}" for i in range(50_000)), 0, {})  # as large as a tokenizer's


def large_rows(rng: np.random.Generator, starts: list[int], length: int, depths: int) -> tuple[Rows, np.ndarray]:
    """300 rows of 97 tokens of that vocabulary, and predictions from a padded one, most of them wrong."""
    shape = 300, len(starts)
    tokens = rng.integers(0, 50_000, (300, 97))
    start, depth = np.tile(np.array(starts, np.int32), (300, 1)), rng.integers(0, depths, shape).astype(np.int32)
    rows = Rows(tokens.astype(np.uint16), start, np.full(shape, length, np.int32), depth)
    given = np.where(rng.random(tokens.shape) < 0.2, tokens, rng.integers(0, 50_304, tokens.shape))
    return rows, np.where(rows.loss_mask(), given, -1)


def test_mistakes_of_a_large_vocabulary_stay_few_and_short() -> None:
    """14,400 answers of one token at 200 depths, nearly all of them confused in a way of its own; 300 of 48 tokens."""
    rng = np.random.default_rng()
    for starts, length in ((list(range(49, 97)), 1), ([49], 48)):
        rows, predicted = large_rows(rng, starts, length, 200)
        counts = confusion_counts(predicted, rows, LARGE.vocabulary)
        wrong = wrong_answers(predicted, rows, LARGE)
        assert len(counts) <= MOST_DEPTHS * MOST_CONFUSIONS and 0 < len(wrong) <= MOST_DEPTHS * MOST_WRONG
        depths = [each.depth for each in wrong]
        assert depths == sorted(depths) and len(set(depths)) == MOST_DEPTHS and depths[-1] > 150 > 50 > depths[0]
        assert len(markdown([Mistakes("n1", 3, counts, wrong)])) < 100_000


def test_a_token_of_a_padded_vocabulary_is_told_by_its_number() -> None:
    rows, _ = large_rows(np.random.default_rng(), [96], 1, 1)
    predicted = np.where(rows.loss_mask(), 50_303, -1)
    (first, *_), wrong = confusion_counts(predicted, rows, LARGE.vocabulary), wrong_answers(predicted, rows, LARGE)
    assert first.given == "<50303>" and {each.given for each in wrong} == {"<50303>"}


def test_a_long_text_keeps_its_two_ends() -> None:
    rng = np.random.default_rng()
    tokens = rng.integers(0, 50_000, (1, 4000))
    rows = Rows(tokens.astype(np.uint16), *(np.array([[value]], np.int32) for value in (3990, 10, 1)))
    (wrong,) = wrong_answers(np.where(rows.loss_mask(), 7, -1), rows, LARGE)
    whole = " ".join(f"w{token}" for token in tokens[0, :3990])
    head, tail = wrong.problem.split(GAP)
    assert len(wrong.problem) < 1300 and len(head) > 500 and whole.startswith(head) and whole.endswith(tail)
    assert wrong.right == " ".join(f"w{token}" for token in tokens[0, 3990:]) and wrong.given == " ".join(["w7"] * 10)


def test_a_line_break_does_not_end_a_row_of_a_table() -> None:
    found = Mistakes("n1", 3, [], [WrongAnswer(1, 2, "two\nlines", "one", "\r\n\u2028none")])
    *_, row = markdown([found]).splitlines()
    assert row == "| 2 | two lines | one |   none | 1 |"
