"""How often guesses answer GSM problems."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

from benchmarks.evidence.experiments import EXPERIMENTS
from benchmarks.evidence.shortcut import ANSWER, NUMBER, guesses, most_frequent_number, settings
from datagen import Gsm


def test_no_guess_answers_three_in_ten_of_the_traced_problems() -> None:
    experiment = EXPERIMENTS["gsm-traces"].experiment
    assert isinstance(experiment.task, Gsm)
    *others, own = settings(experiment.task)
    assert own == experiment.task and len({(task.numbers, task.distractors) for task in others}) == 3
    found = guesses(own, experiment.data.seed, experiment.data.test_rows)
    assert {each.guess for each in found} == {NUMBER, ANSWER} and {each.mode for each in found} == {"forward"}
    assert all(each.right / each.asked < 0.3 for each in found)


def test_shares_are_counted_by_mode_and_operations() -> None:
    task = Gsm(operations=(1, 2), tokens=(150, 220))
    found = {(each.guess, each.mode, each.operations): each for each in guesses(task, 3, 200)}
    problems = [sample.problem for sample in islice(task.samples("test", 3, 0), 200)]
    reverse = [problem for problem in problems if problem.mode == "reverse" and problem.operations == 2]
    counted = found[NUMBER, "reverse", "2 operations"]
    assert counted.asked == len(reverse) > 20
    assert counted.right == sum(most_frequent_number(problem) == problem.answer for problem in reverse)
    assert found[NUMBER, "both", "all"].asked == 200
    answers = [sample.problem.answer for sample in islice(task.samples("train", 3, 0), 200)]
    commonest = max(answers, key=lambda answer: (answers.count(answer), -answers.index(answer)))
    assert found[ANSWER, "both", "all"].right == [problem.answer for problem in problems].count(commonest)


@pytest.mark.parametrize(("numbers", "guess"), [("3 3 4", 3), ("4 3 3", 3), ("2 4", 2)])
def test_the_most_frequent_number_is_the_first_of_equals(numbers: str, guess: int) -> None:
    problem = next(Gsm(operations=(1, 1), tokens=(150, 220)).samples("test", 0, 0)).problem
    sentences = (f"The number of adult owl in Place{i} equals {n}." for i, n in enumerate(numbers.split()))
    assert most_frequent_number(replace(problem, context=" ".join(sentences))) == guess
