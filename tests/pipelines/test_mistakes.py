"""What was answered instead: counted one by one, and told as tables."""

from collections import Counter

import numpy as np

from datagen import Depo, Rule110
from pipelines.reporting.mistakes import (
    MOST_CONFUSIONS,
    MOST_WRONG,
    ConfusionCount,
    Mistakes,
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
