"""The identity of a stage: what shapes its result, and nothing else."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from pipelines.engine.scheduler import execute
from pipelines.engine.stage import Stage
from tests.pipelines.stages import Inner, Outer, Twin, nothing, stage

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
KEYS = st.text(max_size=4).filter(lambda key: key != "$type")
CONFIGS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


@given(st.dictionaries(KEYS, CONFIGS, min_size=2, max_size=5))
def test_the_order_of_keys_and_of_inputs_does_not_shape_a_result(config: dict[str, object]) -> None:
    shuffled = dict(reversed(config.items()))
    a, b = stage("a"), stage("b")
    assert stage("s", a, b, config=config).identity == stage("s", b, a, config=shuffled).identity


@given(CONFIGS, st.integers(1, 64) | st.none())
def test_resources_and_the_function_do_not_shape_a_result(config: object, slots: int | None) -> None:
    other = Stage("s", config, run=lambda run: None, slots=slots)
    assert other.identity == stage("s", config=config).identity


@given(CONFIGS, CONFIGS)
def test_different_configs_are_different_stages(one: object, other: object) -> None:
    assume(_plain(one) != _plain(other))
    assert stage("s", config=one).identity != stage("s", config=other).identity


def _plain(value: object) -> str:
    """A slow second opinion on equality: equal numbers are one, booleans are not numbers."""
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{key!r}:{_plain(item)}" for key, item in value.items())) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_plain, value)) + "]"
    return repr(int(value)) if isinstance(value, float) and value == math.floor(value) else repr(value)


@given(st.integers(-(2**53), 2**53))
def test_a_whole_float_is_its_integer(number: int) -> None:
    assert stage("s", config=[float(number)]).identity == stage("s", config=(number,)).identity


def test_a_boolean_is_not_a_number() -> None:
    assert stage("s", config=True).identity != stage("s", config=1).identity


@pytest.mark.parametrize(
    "other",
    [Outer(Inner(rate=0.25)), Outer(Inner(sizes=(2, 1))), Outer(loop=(0, 1)), Twin(), {"inner": Inner(), "loop": None}],
)
def test_every_field_and_the_type_of_a_dataclass_count(other: object) -> None:
    assert stage("s", config=other).identity != stage("s", config=Outer()).identity


def test_the_name_and_the_version_count() -> None:
    identities = {stage("s").identity, stage("t").identity, Stage("s", None, nothing, version=2).identity}
    assert len(identities) == 3


@given(CONFIGS, CONFIGS)
def test_a_change_propagates_to_all_that_depend_on_it(one: object, other: object) -> None:
    def last(config: object) -> str:
        return stage("c", stage("b", stage("a", config=config))).identity

    assert (last(one) == last(other)) == (_plain(one) == _plain(other))


def test_the_identity_is_the_same_in_every_version_of_this_code() -> None:
    """Finished work under users' roots is found by it; a change here throws all of it away."""
    assert stage("train", stage("generate", config={"rows": 8}), config=Outer()).identity == "330d2dc87c205b21"


def test_a_config_that_is_changed_later_does_not_reach_the_stage() -> None:
    config = {"seeds": [0]}
    made = stage("s", config=config)
    config["seeds"].append(1)
    assert made.config == {"seeds": [0]}


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"a": [0, {1}]}, r"config\.a\[1\] = \{1\}"),
        (Outer(inner=Path("x")), r"config\.inner = PosixPath"),  # type: ignore[arg-type]
        ({"a": math.nan}, r"config\.a = nan"),
        ({"a": math.inf}, r"config\.a = inf"),
        ({"a": {1: 2}}, r"config\.a = \{1: 2\}"),
        ({"$type": "Outer"}, r"config = "),
        (Outer, r"config = "),
        (b"x", r"config = b'x'"),
    ],
)
def test_a_config_that_is_not_json_names_the_stage_and_the_field(config: object, field: str) -> None:
    with pytest.raises(ValueError, match=rf"stage train-n1: {field}"):
        stage("train-n1", config=config)


@pytest.mark.parametrize("name", ["", "Train", "a b", "../a", "a/b", "-a", "a-", ".", "a\n", "a" * 101])
def test_a_name_is_a_slug(name: str) -> None:
    with pytest.raises(ValueError, match=r"name = .*slug"):
        stage(name)


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "2"])
def test_slots_and_version_are_positive_integers(number: int) -> None:
    with pytest.raises(ValueError, match=r"stage s: slots = "):
        Stage("s", None, nothing, slots=number)
    with pytest.raises(ValueError, match=r"stage s: version = "):
        Stage("s", None, nothing, version=number)
    with pytest.raises(ValueError, match="slots = "):
        execute([stage("s")], "unused", slots=number)
