"""A task from a file that is not in the package: named on the command line, held to its promises, fitted to a model."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from datagen import Depo, Facts, Gsm, Recall, Rows, Rule110, Task, check_task
from datagen.gsm.wording import Imported
from datagen.rows import Ragged
from datagen.schema import Dataset, fingerprint
from datagen.task import task_identity, wording_of
from datagen.wording import AnsweredQuestion, Wording
from pipelines.config.overrides import OverrideError, apply_overrides
from pipelines.config.presets import PRESETS
from pipelines.config.variant import Variant
from pipelines.plan import plan
from pipelines.reporting.questions import kinds_of, question_formatter, words_of
from pipelines.runtime.services import Services
from pipelines.runtime.user_code import runtime_env
from tests.pipelines.unwritten import about

MODULE = "tasks_from_outside"
SOURCE = '''
from dataclasses import dataclass
import numpy as np
from datagen import Rows, Task
from datagen.splits import draw_contexts
from datagen.checks import require_whole
from datagen.task import random_stream

class Fixed(Task):
    """Rows of zeros."""
    vocabulary, row_length = ("0", "1"), 3

    def sample(self, split, seed, shard, rows):
        one = np.ones((rows, 1), np.int32)
        return Rows(np.zeros((rows, 3), np.uint16), one, one, one)

@dataclass(frozen=True)
class Last(Task):
    """Which was the last of `bits` bits?"""
    bits: int = 16
    vocabulary = ("0", "1", "?", "unused")

    def __post_init__(self):
        require_whole("bits", self.bits, 2, 64)

    @property
    def context_length(self):
        return self.bits

    @property
    def row_length(self):
        return self.bits + 2

    def sample(self, split, seed, shard, rows):
        bits = draw_contexts(split, random_stream(self, split, seed, shard), rows, self.bits)
        tokens = np.concatenate([bits, np.full((rows, 1), 2), bits[:, -1:]], axis=1).astype(np.uint16)
        one = np.ones((rows, 1), np.int32)
        return Rows(tokens, answer_start=one * (self.bits + 1), answer_length=one, answer_depth=one)

@dataclass(frozen=True)
class Wide(Fixed):
    width: int

@dataclass
class Thawed(Fixed):
    pass

@dataclass(frozen=True)
class Half(Task):
    vocabulary = ("0", "1")

@dataclass(frozen=True)
class Drifting(Fixed):
    calls = [0]

    def sample(self, split, seed, shard, rows):
        self.calls[0] += 1
        found = super().sample(split, seed, shard, rows)
        found.tokens[:, 0] = self.calls[0] % 2
        return found

class NoTask:
    pass
'''


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Iterator[type[Task]]:
    """The class of a task whose module is found as one in the user's directory is."""
    directory = tmp_path_factory.mktemp("here")
    (directory / f"{MODULE}.py").write_text(SOURCE)
    sys.path.append(str(directory))
    yield Task.named(f"{MODULE}:Last")
    sys.path.remove(str(directory))
    del sys.modules[MODULE]


def changed(*assignments: str, preset: str = "demo") -> str:
    with pytest.raises(OverrideError) as caught:
        apply_overrides(PRESETS[preset], assignments)
    return str(caught.value)


def test_a_task_is_named_and_its_fields_are_set(last: type[Task]) -> None:
    """Its vocabulary and its row length become the model's; a preset without positions stays without."""
    demo = apply_overrides(PRESETS["demo"], [f"task={MODULE}:Last", "task.bits=32"])
    assert demo.task == last(bits=32)  # type: ignore[call-arg]
    assert (demo.model.vocab_size, demo.model.max_positions, demo.model.window) == (4, 34, 16)
    names = [stage.name for stage in plan(demo, Services(demo, Path("runs")))]
    assert "generate" in names and "train-n2-seed30" in names
    without = apply_overrides(PRESETS["gsm-fig4-mini"], [f"task={MODULE}:Last", "model.window=8"])
    assert without.model.vocab_size == 4 and without.model.max_positions is None


def test_one_of_ours_is_named_by_its_name() -> None:
    found = apply_overrides(PRESETS["depo-fig3-mini"], ["task=rule110", "task.states=1"])
    assert found.task == Rule110(states=1) and found.model.vocab_size == 3


def test_sizes_follow_the_task_unless_they_are_set(last: type[Task]) -> None:
    assert apply_overrides(PRESETS["demo"], ["task.states=2"]).model.max_positions == 35
    given = apply_overrides(PRESETS["demo"], ["task.states=2", "model.max_positions=64"])
    assert given.model.max_positions == 64
    message = changed(f"task={MODULE}:Last", "model.vocab_size=2")
    assert message.startswith("model.vocab_size = 2: must be at least 4, the task's (set by task=")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere:Last", "nowhere cannot be imported (No module named 'nowhere'); it must lie in the directory where"),
        (f"{MODULE}:Lost", f"{MODULE} has no class Lost; its tasks are: Fixed, Last, Wide, Thawed, Half, Drifting"),
        (f"{MODULE}:NoTask", "NoTask is not a task: derive it from datagen.Task"),
        (f"{MODULE}:Thawed", "Thawed is not a frozen dataclass: put @dataclass(frozen=True) above it"),
        (f"{MODULE}:Fixed", "Fixed is not a frozen dataclass"),
        (f"{MODULE}:Half", "Half does not define row_length, sample, which every task must"),
        (f"{MODULE}:Wide", "Wide has fields without a default; set them too: task.width=..."),
        ("last/of/all", "must be depo, facts, gsm, recall, rule110"),
        ("../x:Last", "module:Class for a task of your own"),
        (f"{MODULE}:Drifting", "its first 16 rows differ when they are sampled again"),
    ],
)
def test_what_is_no_task_is_refused_with_the_fix(last: type[Task], path: str, message: str) -> None:
    assert message in changed(f"task={path}") and f"task={path}" in changed(f"task={path}")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("task.bits=1", "task.bits = 1: must be an integer of at least 2, and at most 64 (set by task="),
        ("task.bits=x", "task.bits=x: must be an integer"),
        ("task.bots=3", "task has no field 'bots'; its fields are bits; did you mean 'bits'?"),
        ("task.bits=20", "model.window = 16: must be a divisor of the task's context of 20 tokens, so that all of it"),
        ("task.bits=20", "is slept on, such as 20, 10, 5 (set by task="),
    ],
)
def test_a_field_that_does_not_fit_is_named(last: type[Task], assignment: str, message: str) -> None:
    assert message in changed(f"task={MODULE}:Last", assignment)


def test_a_depth_that_a_task_does_not_have_is_refused(last: type[Task]) -> None:
    demo = apply_overrides(PRESETS["demo"], [f"task={MODULE}:Last", "model.window=8"])
    with pytest.raises(ValueError, match="variant deep: depth = 3: the task last has one depth"):
        replace(demo, variants=(Variant(name="deep", depth=3),))


@pytest.mark.parametrize(
    "task",
    [
        Rule110(cells=6, states=2),
        Rule110(6, 2, 3, 0, "all", frame=1, traced=True, stated=False, test_steps=(1, 9)),
        Depo(nodes=5, hops=2),
        Gsm(operations=(1, 2), tokens=(192, 320)),
        Recall(distances=(1, 3)),
        Facts(),
    ],
)
def test_ours_keep_what_a_task_promises(task: Task) -> None:
    check_task(task)
    assert max(task.sample("train", 0, 0, 64).depths) <= task.max_depth


ONE = np.ones((16, 1), np.int32)


def told(labels: list[int], pad: int | None = None) -> Rows:
    """Rows with these labels in one trace; their first two tokens are 0."""
    tokens = np.tile(np.array([0, 0, 1], np.uint16), (16, 1))
    traces = Ragged.of(np.tile(labels, 16), np.full(16, len(labels)))
    return Rows(tokens, ONE, ONE, ONE, pad, traces=traces)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (Rows(np.full((16, 3), 2, np.uint16), ONE, ONE, ONE), "tokens must be 0..1, as the vocabulary, got 2..2"),
        (Rows(np.zeros((16, 4), np.uint16), ONE, ONE, ONE), "row_length must be at least 4"),
        (Rows(np.zeros((16, 3), np.uint16), ONE * 3, ONE, ONE), "an answer must lie in its row"),
        (Rows(np.zeros((16, 3), np.uint16), ONE, ONE * 0, ONE), "every row must have an answer"),
        (Rows(np.zeros((16, 3), np.uint16), ONE, ONE, ONE * 2), "max_depth must be at least 2"),
        (told([2, 0, 0]), "labels of traces must be -1..1, -1 for none, got 0..2"),
        (told([-2, 0, 0]), "labels of traces must be -1..1, -1 for none, got -2..0"),
        (told([0] * 6), "trace_labels must be at least 6, a row's, got 3"),
        (told([-1, 0, 0], pad=0), "traces must have -1 at the pads of a row"),
        (Rows(np.zeros((15, 3), np.uint16), ONE[:15], ONE[:15], ONE[:15]), "the 16 rows that were asked for, got 15"),
        (None, "sample must return datagen.Rows, got NoneType"),
    ],
)
def test_a_broken_promise_is_named(rows: Rows, message: str) -> None:
    @dataclass(frozen=True)
    class Broken(Task):
        vocabulary = ("0", "1")  # type: ignore[assignment]
        row_length = 3  # type: ignore[assignment]
        trace_labels = 3  # type: ignore[assignment]

        def sample(self, split: str, seed: int, shard: int, count: int) -> Rows:
            return rows

    with pytest.raises(ValueError, match=f"task broken, split train: .*{message}"):
        check_task(Broken())


def test_an_edited_task_is_another_dataset(last: type[Task], monkeypatch: pytest.MonkeyPatch) -> None:
    """By the rows that it makes, whatever else of its code changes; ours are told apart by FORMAT_VERSION alone."""
    task = last()
    before = fingerprint(task, 0)
    made = last.sample

    def edited(self: Task, split: str, seed: int, shard: int, rows: int) -> Rows:
        found = made(self, split, seed, shard, rows)
        return replace(found, tokens=found.tokens[:, ::-1])

    monkeypatch.setattr(last, "sample", edited)
    assert fingerprint(task, 0) != before
    monkeypatch.undo()
    assert fingerprint(task, 0) == before

    def labelled(texts: str, word: str) -> str:
        """The fingerprint where the rows have a text each."""

        def sample(self: Task, split: str, seed: int, shard: int, rows: int) -> Rows:
            return replace(made(self, split, seed, shard, rows), **{texts: np.array([word] * rows, object)})

        monkeypatch.setattr(last, "sample", sample)
        return fingerprint(task, 0)

    assert len({before, *(labelled(texts, word) for texts in ("kind", "solution") for word in ("a", "b"))}) == 5
    assert fingerprint(Rule110(), 0) == "dfdc6388ed9e9b5c"


def test_two_tasks_cannot_share_a_name() -> None:
    with pytest.raises(ValueError, match=r"name = 'depo': is the task datagen.depo:Depo already; give .* another name"):
        type("Depo", (Task,), {})


def test_its_dataset_reads_as_it_says(last: type[Task]) -> None:
    task = last()
    dataset = about(task)
    words = words_of(dataset)
    tokens = task.sample("test", 0, 0, 1).tokens[0].tolist()
    asked = AnsweredQuestion(words(tokens), [17], 0, 1, 1, words([3]))
    assert question_formatter(dataset)(asked) == (" ".join(words(tokens[:17])), words(tokens[17:])[0], "unused")
    assert kinds_of(task.sample("test", 0, 0, 3), dataset) == []


def test_an_imported_dataset_reads_as_one_of_ours() -> None:
    imported = wording_of("gsm", {"imported_sha256": "0", "split": "test", "tokenizer": None})
    assert isinstance(imported, Imported)
    task = Gsm(operations=(1, 2), tokens=(192, 320))
    ours = about(task)
    theirs = Dataset(1, "gsm", {"imported_sha256": "0", "split": "test", "tokenizer": None}, ours.vocabulary, 0, {})
    rows = task.sample("test", 0, 0, 8)
    assert kinds_of(rows, theirs) == kinds_of(rows, ours) != []


@pytest.mark.parametrize("config", [{"cells": 0}, {"gone": 1}])
def test_a_config_that_a_task_no_longer_takes_reads_as_words(config: dict[str, int]) -> None:
    assert type(wording_of("rule110", config)) is Wording
    assert wording_of("rule110", task_identity(Rule110())["config"]) == Rule110()


def test_workers_get_the_directory_only_where_they_need_it(
    last: type[Task], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/given")
    demo = PRESETS["demo"]
    assert runtime_env(demo) is None
    expected = {"env_vars": {"PYTHONPATH": f"{tmp_path}:/given:${{PYTHONPATH}}"}}
    assert runtime_env(apply_overrides(demo, [f"task={MODULE}:Last"])) == expected
    assert runtime_env(apply_overrides(demo, ["model.mixers=[attention, 'my_rules:Oja']"])) == expected
