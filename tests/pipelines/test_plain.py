"""Questions in plain form, read back by independent eyes: what is shown leads to the answer that is called right."""

import re
from itertools import islice

import numpy as np
import pytest

from datagen import Depo, Gsm, Rows, Rule110
from datagen.gsm import wording
from datagen.gsm.solver import solve
from datagen.schema import Dataset
from datagen.task import Task
from datagen.wording import AnsweredQuestion
from pipelines.reporting import mistakes
from pipelines.reporting.mistakes import WrongAnswer, wrong_answers
from pipelines.reporting.questions import question_formatter, words_of
from tests.datagen.gsm.problems import train_tokenizer
from tests.pipelines.unwritten import about


def all_wrong(task: Task, rows: Rows, token: int) -> list[WrongAnswer]:
    """The failures of a model that always says one token."""
    return wrong_answers(np.where(rows.loss_mask(), token, -1), rows, about(task))


def after(cells: str, steps: int) -> str:
    """Rule 110, cell by cell: 1 unless the neighbourhood is 111, 100 or 000."""
    for _ in range(steps):
        neighbours = zip(cells[-1] + cells[:-1], cells, cells[1:] + cells[0], strict=True)
        cells = "".join("0" if "".join(three) in ("111", "100", "000") else "1" for three in neighbours)
    return cells


def fresh_seed() -> int:
    return int(np.random.default_rng().integers(2**31))


@pytest.mark.parametrize("states", [1, 3])
def test_rule_110_shows_the_state_and_its_future(states: int) -> None:
    task = Rule110(cells=9, states=states, steps=5)
    rows = task.sample("test", fresh_seed(), 0, 40)
    shown = [failure for token in (0, 1) for failure in all_wrong(task, rows, token)]
    assert len(shown) == 6
    for failure in shown:
        found = re.fullmatch(r"(?:State (\d) of 3: )?([01]{9})\. Cell 1 after (\d+) steps\?", failure.problem)
        assert found and (found[1] is None) == (states == 1)
        assert int(found[3]) == failure.depth == 5 and found[2] in "".join(map(str, rows.tokens[failure.row]))
        assert after(found[2], 5)[0] == failure.right != failure.given


@pytest.mark.parametrize(("parts", "asked"), [(1, "Cells 1 to 4"), (2, "Cells 3 to 4"), (4, "Cell 4")])
def test_rule_110_may_ask_more_cells_than_the_first(parts: int, asked: str) -> None:
    """Two states of four cells, all of whose cells are asked, in so many answers a state."""
    task = Rule110(cells=4, states=2, steps=3)
    tokens, length = [0, 1, 1, 0, 1, 0, 0, 0, 2, *[1, 0, 1, 1, 0, 0, 1, 0]], 4 // parts
    starts = list(range(9, 17, length))
    words = words_of(about(task))
    question = AnsweredQuestion(words(tokens), starts, len(starts) - 1, length, 3, words([1] * length))
    problem, right, _ = question_formatter(about(task))(question)
    assert problem == f"State 2 of 2: 1000. {asked} after 3 steps?" and right == " ".join("0010"[-length:])


def test_depo_shows_the_cycle_from_the_node_that_is_asked() -> None:
    task = Depo(nodes=9, hops=8, queries=4)
    rows = task.sample("test", fresh_seed(), 0, 40)
    shown = all_wrong(task, rows, 50)
    assert {failure.depth for failure in shown} == {1, 2, 4, 8}
    for failure in shown:
        path, nodes, hops, asked = re.fullmatch(
            r"(.+) \((\d+) nodes\)\. (\d+) hops from (\w+)\?", failure.problem
        ).groups()  # type: ignore[union-attr]
        cycle = path.split(" → ")
        assert cycle[0] == cycle[-1] == asked and len(set(cycle)) == len(cycle) - 1 == int(nodes) == 9
        assert cycle[int(hops) % 9] == failure.right and int(hops) == failure.depth


def test_depo_tells_where_the_given_node_is() -> None:
    task = Depo(nodes=5, hops=4, queries=5)
    rows = task.sample("test", fresh_seed(), 0, 1)
    start, length, depth = (column[0].tolist() for column in rows.answers())
    tokens = rows.tokens.tolist()[0]

    words = words_of(about(task))

    def said(number: int, given: list[int]) -> str:
        asked = AnsweredQuestion(words(tokens), start, number, length[number], depth[number], words(given))
        return question_formatter(about(task))(asked).given

    first = tokens[start[0] : start[0] + length[0]]
    assert said(0, first).endswith(f"({depth[0]} hops away)")
    names = {said(0, tokens[s : s + n]).split()[0] for s, n in zip(start, length, strict=True)}
    assert len(names) == len({tuple(tokens[s : s + n]) for s, n in zip(start, length, strict=True)})
    assert said(0, [3, 3]) == "x4x4 (not on the cycle)"
    at = start[0] - 1 - next(i for i in range(1, 4) if tokens[start[0] - 1 - i] >= 100)
    asked = [token for token in tokens[at + 1 : start[0] - 1]]
    assert said(0, asked).endswith("(5 hops away)")


@pytest.fixture(scope="module", params=["words", "traced", "tokenizer"])
def gsm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Gsm:
    if request.param != "tokenizer":
        return Gsm(operations=(1, 3), tokens=(500, 700), traced=request.param == "traced")
    return Gsm(operations=(1, 2), tokens=(900, 1300), tokenizer=str(train_tokenizer(tmp_path_factory.mktemp("bpe"))))


def test_gsm_shows_the_question_a_part_of_the_text_and_both_answers(gsm: Gsm, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = fresh_seed()
    problems = [sample.problem for sample in islice(gsm.samples("test", seed, 0), 12)]
    rows = gsm.sample("test", seed, 0, 12)
    shown = all_wrong(gsm, rows, 0)
    assert shown
    for failure in shown:
        problem = problems[failure.row]
        question, _, told = failure.problem.partition("? ")
        assert f"{question}?" == problem.question and failure.right == str(problem.answer) != failure.given
        assert told.endswith(wording.GAP) and problem.context.startswith(told.removesuffix(wording.GAP))
        assert len(told) <= wording.CONTEXT_CHARACTERS
    monkeypatch.setattr(wording, "CONTEXT_CHARACTERS", 10**6)
    monkeypatch.setattr(mistakes, "MOST_CHARACTERS", 10**6)
    whole = all_wrong(gsm, rows, 0)[0]
    question, _, told = whole.problem.partition("? ")
    assert str(solve(f"{question}?", told.removesuffix(" Answer:")).answer) == whole.right


def test_a_task_that_is_not_known_here_is_shown_in_its_words() -> None:
    dataset = Dataset(1, "colours", {}, ("red", "green", "blue", "<pad>"), 0, {})
    words = words_of(dataset)
    asked = AnsweredQuestion(words([3, 0, 1, 2, 2]), [3], 0, 2, 1, words([2, 0]))
    shown = question_formatter(dataset)(asked)
    assert shown == ("red green", "blue blue", "blue red")
