from __future__ import annotations

import json
import string
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.config.overrides import OverrideError, apply_overrides


@dataclass(frozen=True, kw_only=True)
class Train:
    steps: int = 100
    warmup: int = 10
    rate: float = 1e-3
    resume: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps = {self.steps!r}: must be an integer of at least 1")
        if self.warmup >= self.steps:
            raise ValueError(f"warmup = {self.warmup!r}: must be less than steps = {self.steps}")


@dataclass(frozen=True, kw_only=True)
class Model:
    mixers: tuple[str, ...] = ("attention", "gated_delta")
    loop: tuple[int, int] | None = None
    eviction: Literal["hard", "sliding"] = "hard"
    dropout: float | None = None
    train: Train = Train()
    size: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not self.mixers:
            raise ValueError("a model needs at least one mixer")


@dataclass(frozen=True, kw_only=True)
class Search:
    trials: int = 4


@dataclass(frozen=True, kw_only=True)
class Preset:
    name: str = "demo"
    model: Model = Model()
    train: Train = Train()
    search: Search | None = Search()
    second: Search | None = None
    variants: tuple[Search, ...] = (Search(),)
    seeds: tuple[int, ...] = (0,)

    def __post_init__(self) -> None:
        if self.train.steps > 10**6:
            raise ValueError(f"train.steps = {self.train.steps}: must be at most 1000000 in a preset")


BASE = Preset()


def error(*assignments: str, config: Any = BASE) -> str:
    with pytest.raises(OverrideError) as caught:
        apply_overrides(config, assignments)
    return str(caught.value)


def read(config: object, path: str) -> object:
    for name in path.split("."):
        config = getattr(config, name)
    return config


# what can be set

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "name": st.text(st.characters(codec="utf-8")),
    "model.mixers": st.lists(st.text(string.printable), min_size=1).map(tuple),
    "model.loop": st.none() | st.tuples(st.integers(), st.integers()),
    "model.eviction": st.sampled_from(["hard", "sliding"]),
    "model.dropout": st.none() | FLOATS,
    "model.train.rate": FLOATS,
    "train.resume": st.booleans(),
    "train.steps": st.integers(11, 10**6),
    "search.trials": st.integers(),
    "seeds": st.lists(st.integers()).map(tuple),
}


@given(st.data())
def test_what_is_set_is_what_is_there_and_nothing_else_changes(data: st.DataObject) -> None:
    paths = data.draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True))
    values = {path: data.draw(VALUES[path], label=path) for path in paths}
    changed = apply_overrides(BASE, [f"{path}={json.dumps(value)}" for path, value in values.items()])
    for path in VALUES:
        expected = values.get(path, read(BASE, path))
        assert read(changed, path) == expected and type(read(changed, path)) is type(expected)
    assert Preset() == BASE


@given(st.text(string.ascii_letters + string.digits + "-+_./: ").filter(lambda text: text == text.strip() and text))
@example("true")
@example("null")
@example("2026-01-01")
@example("1e-3")
def test_text_needs_no_quotes(text: str) -> None:
    assert apply_overrides(BASE, [f"name={text}"]).name == text


@given(FLOATS)
@example(1e-3)
@example(1e22)
def test_a_float_reads_as_python_writes_it(number: float) -> None:
    assert apply_overrides(BASE, [f"train.rate={number!r}"]).train.rate == number


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("train.rate=1e-3", 1e-3),
        ("train.rate=3", 3.0),
        ("train.rate=.5", 0.5),
        ("train.rate=-2.E+3", -2000.0),
        ("train.steps= 1_000 ", 1000),
        ("train.resume=true", True),
        ("model.mixers=[attention, gated_delta, attention]", ("attention", "gated_delta", "attention")),
        ("model.loop=[1, 3]", (1, 3)),
        ("model.dropout=none", None),
        ("model.dropout=null", None),
        ("seeds=[]", ()),
        ("search=null", None),
        ("name=a=b", "a=b"),
        ("name='5'", "5"),
        ("name=", ""),
    ],
)
def test_values_as_people_type_them(assignment: str, value: object) -> None:
    changed = read(apply_overrides(BASE, [assignment]), assignment.partition("=")[0])
    assert changed == value and type(changed) is type(value)


def test_no_assignment_changes_nothing() -> None:
    assert apply_overrides(BASE, []) is BASE


def test_fields_that_are_checked_together_change_together() -> None:
    for order in (["train.steps=5", "train.warmup=4"], ["train.warmup=4", "train.steps=5"]):
        assert apply_overrides(BASE, order).train == Train(steps=5, warmup=4)


# what cannot


@pytest.mark.parametrize(
    ("assignment", "allowed"),
    [
        ("train.steps=abc", "an integer"),
        ("train.steps=1.5", "an integer"),
        ("train.steps=true", "an integer"),
        ("train.steps=null", "an integer"),
        ("train.steps=", "an integer"),
        ("train.steps='5'", "an integer"),
        ("train.steps=010", "an integer"),
        ("train.steps=1:30", "an integer"),
        ("train.steps=!!int 3", "an integer"),
        ("train.rate=true", "a finite number"),
        ("train.rate=nan", "a finite number"),
        ("train.rate=.inf", "a finite number"),
        ("train.rate=1e999", "a finite number"),
        ("train.resume=1", "true or false"),
        ("train.resume=no", "true or false"),
        ("model.eviction=soft", "one of hard, sliding"),
        ("model.dropout=x", "a finite number or null"),
        ("model.dropout=", "a finite number or null"),
        ("model.mixers=attention", "a list like [a, b], each item text"),
        ("model.mixers=[1]", "a list like [a, b], each item text"),
        ("model.loop=[1]", "a list of 2: an integer, an integer or null"),
        ("seeds={a: 1}", "a list like [a, b], each item an integer"),
    ],
)
def test_a_wrong_value_is_shown_as_typed_with_what_is_allowed(assignment: str, allowed: str) -> None:
    assert error(assignment) == f"{assignment}: must be {allowed}"


def test_a_range_check_gets_the_path_before_it() -> None:
    message = "train.steps = 0: must be an integer of at least 1 (set by train.steps=0)"
    assert error("train.steps=0") == message
    assert error("model.train.steps=0") == f"model.{message.replace('by ', 'by model.')}"
    assert error("train.warmup=500", "train.rate=1").startswith(
        "train.warmup = 500: must be less than steps = 100 (set by"
    )
    assert error("steps=0", config=Train()).startswith("steps = 0: must be")


def test_an_outer_check_keeps_the_path_that_it_names() -> None:
    message = "train.steps = 1000001: must be at most 1000000 in a preset (set by train.steps=1000001)"
    assert error("train.steps=1000001") == message


def test_a_check_that_names_no_field_gets_the_group() -> None:
    assert error("model.mixers=[]") == "model: a model needs at least one mixer (set by model.mixers=[])"


def test_an_unknown_field_lists_those_there_and_the_nearest() -> None:
    message = error("train.stepps=5")
    assert message.startswith("train.stepps=5: train has no field 'stepps'")
    assert "steps, warmup, rate, resume" in message and "did you mean 'steps'?" in message
    assert "the config has no field 'trian'" in error("trian.steps=5") and "did you mean 'train'?" in error(
        "trian.steps=5"
    )
    assert "did you mean" not in error("zzz=1")
    assert "has no field 'size'" in error("model.size=3")  # computed, not set


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["train"], "'train': must have the form"),
        ([""], "'': must have the form"),
        (["=5"], "'=5': must have the form"),
        (["train.=5"], "'train.=5': must have the form"),
        ([".steps=5"], "'.steps=5': must have the form"),
        (["train=5"], "train=5: train is a group and cannot be set as a whole; set its fields: train.steps, train."),
        (["train=null"], "train=null: train is a group"),
        (["search={trials: 3}"], "search={trials: 3}: search is a group"),
        (["second={trials: 3}"], "second={trials: 3}: second holds groups and cannot be set from text"),
        (["second.trials=3"], "second.trials=3: second is null in this config"),
        (["variants=[]"], "variants=[]: variants holds groups and cannot be set from text"),
        (
            ["variants.0.trials=3"],
            "variants.0.trials=3: variants is a list or a dict, whose items cannot be set one by one",
        ),
        (["seeds.0=3"], "seeds.0=3: seeds is a list or a dict"),
        (["train.steps.x=3"], "train.steps.x=3: train.steps is an integer, with no fields inside"),
        (["train.steps=5", "train.steps=6"], "train.steps=6: the field is set twice, also by train.steps=5"),
        (["search=null", "search.trials=3"], "search=null: sets the whole field, and search.trials=3 sets a part"),
    ],
)
def test_assignments_that_make_no_sense(assignments: list[str], message: str) -> None:
    assert error(*assignments).startswith(message)


PATHS = st.sampled_from(
    [*VALUES, "train", "variants", "second", "second.trials", "variants.0", "model", "", "x", "train."]
)
YAML_JUNK = st.text("[]{}!&*<:>|?%@`'\",.-_0123456789eExtrufalsn~ \n\t#\x00\ud800", max_size=12)
JUNK = st.one_of(
    st.text(max_size=12),
    st.builds("{}={}".format, st.text(max_size=6), st.text(max_size=6)),
    st.builds("{}={}".format, PATHS, YAML_JUNK | st.text(max_size=8)),
    st.builds(
        "{}={}".format,
        PATHS,
        st.sampled_from(["!!int", "!!float ''", "!!bool x", "!!timestamp x", "&a [*a]", "{[]: 1}"]),
    ),
)


@settings(max_examples=1000)
@given(st.lists(JUNK, min_size=1, max_size=3))
@example(["train.steps=" + "[" * 5000])
@example(["train.steps=" + "9" * 5000])
@example(["train.rate=" + "9" * 5000])
@example(["seeds=&a [*a]"])
@example(["train.steps=2026-13-45"])
@example(["name=\ud800"])
def test_junk_is_an_override_error_or_a_config_that_holds(assignments: list[str]) -> None:
    try:
        changed = apply_overrides(BASE, assignments)
    except OverrideError as caught:
        assert str(caught)
    else:
        assert isinstance(changed, Preset) and type(changed.train.steps) is int and type(changed.name) is str
