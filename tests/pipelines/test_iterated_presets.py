"""Presets of hops and of iterated sleep: what their variants differ in, and what is refused before they run."""

from dataclasses import replace
from typing import Any

import pytest

from pipelines.config.experiment import step_flops
from pipelines.config.overrides import OverrideError, apply_overrides
from pipelines.config.presets import PRESETS
from sleepmodel import SleepModel
from sleepmodel.accounting import n_params
from sleepmodel.config.training import Curriculum, Search, Truncation
from tests.pipelines.flops import training_flops_of


def test_passes_that_follow_a_cycle_differ_in_what_they_are_named_after() -> None:
    experiment = PRESETS["depo-iterated"]
    variants = {variant.name: variant for variant in experiment.variants}
    models = {name: experiment.variant_model(variant) for name, variant in variants.items()}
    base, train = models["iterated"], experiment.variant_train(variants["iterated"])
    changed: dict[str, dict[str, Any]] = {
        "hidden": {"carry": "hidden"},
        "untraced": {},
        "unmarked": {"pass_embed": False},
        "without-conv": {"conv": None},
    }
    for name, fields in changed.items():
        assert models[name] == replace(base, **fields), name
        assert experiment.variant_task(variants[name]) == experiment.task
        weight = float(name != "untraced") * train.trace_weight
        assert experiment.variant_train(variants[name]) == replace(train, trace_weight=weight)
    assert experiment.variant_task(variants["begin-at-next"]) == replace(experiment.task, ahead=1)
    assert models["begin-at-next"] == base
    deepest = max(experiment.task.test_hops)
    assert train.curriculum.passes(deepest, base.reads_first) == deepest + 1
    one_pass = {name: variant for name, variant in variants.items() if name.startswith("one-pass")}
    told = experiment.variant_task(one_pass["one-pass"])
    assert told.stated and told.row_length == experiment.task.row_length and len(one_pass) == 3
    assert {experiment.variant_task(variant) for variant in one_pass.values()} == {told}
    assert {experiment.variant_train(variant).curriculum.steps_per_pass for variant in one_pass.values()} == {None}
    spent = training_flops_of(experiment, one_pass["one-pass-compute"])
    mean = step_flops(replace(base, sleep_passes=4), train, experiment.task)
    assert spent == pytest.approx(train.steps * mean, rel=1e-3)


def test_questions_over_several_windows_have_pointers_of_their_own() -> None:
    experiment = PRESETS["depo-iterated-windows"]
    task, window = experiment.task, experiment.model.window
    assert (task.pointers, task.context_length) == ("questions", 3 * window) and task.max_depth < max(task.test_hops)
    first, *controls = experiment.variants
    assert [variant.name for variant in controls] == ["one-pass", "one-pass-compute"]
    assert [len(experiment.variant_seeds(variant)) for variant in experiment.variants] == [5, 3, 3]
    for control in controls:
        told = replace(task, stated=True, traced=False, ahead=1, test_hops=(1, 2, 3, 4))
        assert experiment.variant_task(control) == told and experiment.variant_model(control).window == window
        assert experiment.variant_model(control).mixers == experiment.variant_model(first).mixers


def test_hops_are_compared_at_equal_flops() -> None:
    experiment = PRESETS["depo-hops-mini"]
    variants = {variant.name: variant for variant in experiment.variants}
    models = {name: experiment.variant_model(variant) for name, variant in variants.items()}
    spent = {name: training_flops_of(experiment, variant) for name, variant in variants.items()}
    assert spent["n1-same-compute"] == pytest.approx(spent["n3"], rel=1e-3)
    assert spent["n1-deep"] == pytest.approx(spent["n3"], rel=0.02)
    assert spent["n1-deep-narrow"] == pytest.approx(spent["n3"], rel=1e-3)
    assert spent["n1-uniform-same-compute-epochs"] == pytest.approx(spent["n4-uniform"], rel=1e-3)
    sizes = {name: n_params(SleepModel.without_weights(models[name])) for name in ("n3", "n1-deep-narrow")}
    assert sizes["n1-deep-narrow"] == pytest.approx(sizes["n3"], rel=0.03)
    assert models["n1-deep-narrow"].mixers == 2 * models["n3"].mixers
    assert models["transformer-whole"].window == experiment.task.row_length


def test_iterated_variants_differ_in_what_they_are_named_after() -> None:
    """And each has a control of as many tokens and one of as many FLOPs, or more."""
    big, mini = PRESETS["rule110-iterated"], PRESETS["rule110-iterated-mini"]
    variants = {variant.name: variant for variant in big.variants}
    models = {name: big.variant_model(variant) for name, variant in variants.items()}
    base, train = models["iterated"], big.variant_train(variants["iterated"])
    changed = {
        "hidden": {"carry": "hidden"},
        "normalized": {"carry": "normalized"},
        "mixture": {"carry": "mixture"},
        "untraced": {},
        "fixed-frame": {},
        "eta-1": {"fast_weight_lr": 1.0},
        "delta": {"mixers": ("attention", "delta")},
        "unmarked": {"pass_embed": False},
        "no-reading": {"reads_first": False, "sleep_passes": 4},
        "one-head": {"fast_heads": 1},
        "four-states": {"max_positions": 200},
    }
    for name, fields in changed.items():
        assert models[name] == replace(base, **fields), name  # type: ignore[arg-type]
        other = big.variant_train(variants[name])
        assert other == replace(train, trace_weight=other.trace_weight, batch_size=other.batch_size)
        assert other.trace_weight == float(name != "untraced")
        tokens = other.steps * other.batch_size * big.variant_task(variants[name]).row_length
        assert tokens == train.steps * train.batch_size * big.task.row_length
    assert big.variant_task(variants["fixed-frame"]) == replace(big.task, frame=0)
    own = step_flops(replace(base, sleep_passes=4), train, big.task) * train.steps
    for name, factor in {"one-pass-compute": 1, "one-pass-far": 4, "one-pass-at-32": 1}.items():
        spent = training_flops_of(big, variants[name])
        assert factor - 0.01 <= spent / own < factor + 0.2, name
    assert big.variant_steps(variants["one-pass"]) == train.steps
    assert {models[name].sleep_passes for name in variants if name.startswith("one-pass")} == {1}
    assert [len(big.variant_seeds(variant)) for variant in big.variants] == [10, *[3] * (len(variants) - 1)]
    assert big.candidates() == mini.candidates() == ["iterated"]
    assert {variant.name for variant in mini.variants} < set(variants)
    names = [big.data_name(task) for task in big.tasks()]
    assert names == ["", "fixed-frame", "four-states", "one-pass", "one-pass-at-32"]


def test_the_backward_alone_tells_each_pair_apart() -> None:
    pairs, base = PRESETS["rule110-iterated-backward"], PRESETS["rule110-iterated"]
    variants = {variant.name: variant for variant in pairs.variants}
    assert len(variants) == 6
    for name in ("iterated", "hidden", "untraced"):
        cut, whole = (pairs.variant_train(variants[each]) for each in (name, f"{name}-whole"))
        (known,) = (variant for variant in base.variants if variant.name == name)
        assert cut == base.variant_train(known) and cut.truncation == Truncation(every=2)
        assert whole == replace(cut, truncation=Truncation())
        assert pairs.variant_model(variants[f"{name}-whole"]) == base.variant_model(known)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("task.traced=false", "variant iterated: trace_weight = 1.0: must be 0, as the training rows have no traces"),
        (
            "train.curriculum.steps_per_pass=2",
            "sleep_passes of iterated = 4: must be 3, the N of the deepest rows by curriculum.steps_per_pass",
        ),
        (
            "train.truncation.passes=1",
            "variant iterated: truncation.passes = 1: must be null with trace_weight above 0",
        ),
        ("task.test_steps=[4, 5000]", "task.test_steps = 5000: must be an integer of at least 0, and at most 4096"),
        ("task.frame=-1", "task.frame = -1: must be an integer of at least 0"),
        ("champions=[gone]", r"champions = \('gone',\): must be some of the variants"),
        ("champions=[one-pass]", r"champions = .*: must be variants with the experiment's own task"),
    ],
)
def test_what_cannot_be_iterated_is_refused_before_anything_runs(assignment: str, message: str) -> None:
    with pytest.raises(OverrideError, match=message):
        apply_overrides(PRESETS["rule110-iterated-mini"], [assignment])


def test_a_search_whose_passes_have_no_room_for_the_traces_is_refused() -> None:
    mini, search = PRESETS["rule110-iterated-mini"], Search(sleep_passes=(4, 5))
    searched: dict[str, Any] = {"search": search, "variants": mini.variants[:1]}
    train = replace(mini.train, curriculum=Curriculum())
    assert replace(mini, train=replace(train, trace_weight=0.0), **searched).search == search
    message = "search, whose winner's eta is trained at N = 1 too: traces of 1 pass in training rows of depth 1: must"
    with pytest.raises(ValueError, match=message):
        replace(mini, train=train, **searched)
    one_pass = {"model": replace(mini.model, reads_first=False), "task": replace(mini.task, steps=1)}
    assert replace(mini, train=train, **one_pass, **searched).search == search


def test_traces_too_long_for_a_shard_are_refused_before_any_row_is_made() -> None:
    mini, steps = PRESETS["rule110-iterated-mini"], 4096
    deep = replace(mini.variants[0], sleep_passes=steps + 1, window=4097, task={"cells": 4096, "steps": steps})
    with pytest.raises(ValueError, match=r"variant iterated: trace_labels = 33562624: must be at most 33554432"):
        replace(mini, variants=(deep,))


def test_traces_without_passes_for_them_are_refused() -> None:
    mini = PRESETS["rule110-iterated-mini"]
    for fields, message in (
        (
            {"curriculum": Curriculum(), "sleep_passes": 3},
            "variant iterated: traces of 3 passes .* at most 2, as N = 3",
        ),
        (
            {"task": {"frames": 1}},
            "variant iterated: task of iterated = {'frames': 1}: must be values of cells, states",
        ),
        ({"model": {"sleep_passes": 2}}, "variant iterated: model of iterated = .*: must be values of vocab_size"),
        ({"model": {"mixers": ("delta",)}}, "variant iterated: model of iterated = .*: must be values of vocab_size"),
        ({"train": {"stepz": 2}}, "variant iterated: train of iterated = .*: must be values of batch_size"),
        ({"task": {"frame": -1}}, "variant iterated: frame = -1: must be an integer"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(mini, variants=(replace(mini.variants[0], **fields),))  # type: ignore[arg-type]


def test_problems_are_told_in_one_variant_alone_at_equal_flops() -> None:
    experiment = PRESETS["gsm-traces-mini"]
    variants = {variant.name: variant for variant in experiment.variants}
    models = {name: experiment.variant_model(variant) for name, variant in variants.items()}
    trains = {name: experiment.variant_train(variant) for name, variant in variants.items()}
    assert models["n4-traces"] == models["n4"] == replace(models["n1"], sleep_passes=4)
    assert trains["n4-traces"].trace_weight > 0 and trains["n1"] == trains["n4"]
    assert trains["n4"] == replace(trains["n4-traces"], trace_weight=0.0)
    assert {experiment.variant_task(variant) for variant in experiment.variants} == {experiment.task}
    spent = {name: training_flops_of(experiment, variant) for name, variant in variants.items()}
    assert spent["n1-same-compute"] == pytest.approx(spent["n4-traces"], rel=1e-3)
    assert spent["n4"] < spent["n4-traces"]


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["model.window=64"], "model.window = 64: must be the whole context of 200 tokens"),
        (
            ["task.traced=false"],
            "variant n4-traces: trace_weight = 4.0: must be 0, as the training rows have no traces",
        ),
        (
            ["task.operations=[2, 4]", "task.tokens=[200, 240]", "task.names=10", "model.window=237"],
            "variant n4-traces: traces of 5 passes in training rows of depth 4: must be at most 4",
        ),
        (["task.names=7"], "task.names = 7: must be at least 8, so that problems of 3 operations in 203 tokens have"),
    ],
)
def test_traces_of_problems_that_no_model_could_use_are_refused(assignments: list[str], message: str) -> None:
    with pytest.raises(OverrideError, match=message):
        apply_overrides(PRESETS["gsm-traces-mini"], assignments)
