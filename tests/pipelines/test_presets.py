"""Presets build, price themselves and take a step; overrides that make no sense are refused by name."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipelines.config import presets
from pipelines.config.experiment import Experiment, step_flops
from pipelines.config.overrides import OverrideError, apply_overrides
from pipelines.config.presets import PRESETS, experiment_named
from pipelines.config.variant import Variant
from pipelines.plan import plan
from pipelines.runtime.cost_estimate import training_cost
from pipelines.runtime.services import Services
from sleepmodel.config.training import Curriculum
from sleepmodel.training.batches import EpochOrder
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.loop import build_model
from tests.pipelines.flops import training_flops_of

NARROW = {"d_model": 16, "n_heads": 2, "kv_heads": None, "head_dim": None, "mlp_width": 32}
NARROW |= {"fast_heads": 1, "key_dim": 8, "value_dim": 8}


@pytest.mark.parametrize("experiment", PRESETS.values(), ids=PRESETS)
def test_every_variant_of_every_preset_takes_its_first_step(experiment: Experiment) -> None:
    """On one row, narrow and at most five blocks deep, else as it is: windows, passes, rules, precision. Variants that
    differ in their steps alone take it once."""
    taken = set()
    batches = {task: task.sample("train", 0, 0, 1).batch() for task in experiment.tasks()}
    for variant in experiment.variants:
        train = replace(experiment.variant_train(variant), batch_size=1, steps=0, warmup_steps=0)
        model = experiment.variant_model(variant)
        start = max(0, min(model.inserted, default=0) - 4)  # with an inserted block, if there is one
        inserted = tuple(number - start for number in model.inserted if number < start + 5)
        mixers = model.mixers[start : start + 5]
        shallow = replace(model, mixers=mixers, inserted=inserted, loop=model.loop and (1, 3))
        small = replace(shallow, **NARROW)  # type: ignore[arg-type]
        step = (small, train, experiment.variant_task(variant))
        if step in taken:
            continue
        taken.add(step)
        engine = LocalEngine(build_model(small, train), train)
        tokens, mask = batches[experiment.variant_task(variant)]
        loss = engine.backward(torch.from_numpy(tokens), torch.from_numpy(mask)).answers
        assert torch.isfinite(engine.step(1.0)) and torch.isfinite(loss), variant.name


@pytest.mark.parametrize("experiment", PRESETS.values(), ids=PRESETS)
def test_every_preset_prices_itself(experiment: Experiment) -> None:
    found = training_cost(experiment)
    trains = map(experiment.variant_train, experiment.variants)
    counts = (len(experiment.variant_seeds(variant)) for variant in experiment.variants)
    least = sum(n * train.steps * train.batch_size for n, train in zip(counts, trains, strict=True))
    lengths = [task.row_length for task in experiment.tasks()]
    assert (
        found.rows >= least
        and min(lengths) * found.rows <= found.tokens <= max(lengths) * found.rows
        and found.flops > 0
    )
    assert experiment.train_rows() >= experiment.train.batch_size


def test_every_figure_has_a_preset_at_the_papers_size_and_a_mini() -> None:
    figures = ("rule110-fig2a", "rule110-fig2b", "depo-fig3", "gsm-fig4", "gsm-sliding-fig5", "throughput-fig6")
    for name in (*figures, "ablation-rule", "ablation-eta"):
        assert PRESETS[name].paper_scale and not PRESETS[f"{name}-mini"].paper_scale
    assert all(name == experiment.name for name, experiment in PRESETS.items())


def test_the_baselines_are_what_they_are_called() -> None:
    mini = PRESETS["rule110-fig2b-mini"]
    variants = {variant.name: variant for variant in mini.variants}
    models = {name: mini.variant_model(variant) for name, variant in variants.items()}
    assert set(models["transformer-evicted"].mixers) == set(models["transformer-whole"].mixers) == {"attention"}
    assert models["transformer-whole"].window == mini.task.row_length > models["transformer-evicted"].window
    assert set(models["fast-weights-only"].mixers) == {"gated_delta"}
    assert len(models["n1-deep"].mixers) == 4 * len(models["n4"].mixers) and models["n1-deep"].sleep_passes == 1
    by_name = {name: training_flops_of(mini, variant) for name, variant in variants.items()}
    assert by_name["n1-same-compute"] == by_name["n1-same-compute-epochs"] == pytest.approx(by_name["n4"], rel=1e-3)
    assert mini.variant_train(variants["n1-same-compute"]).rows is None
    assert mini.variant_train(variants["n1-same-compute-epochs"]).rows == mini.train.steps * mini.train.batch_size


def test_sliding_presets_grow_a_transformer() -> None:
    """Fig. 5: fast-weight blocks put into a trained transformer, alone under hard eviction at first."""
    experiment = PRESETS["gsm-sliding-fig5-mini"]
    first, longer, *grown = experiment.variants
    transformer = experiment.variant_model(first)
    assert experiment.variant_model(longer) == transformer and longer.start == first.name
    assert set(transformer.mixers) == {"attention"} and not transformer.inserted
    assert transformer.eviction == "sliding"
    assert len(grown) == 6
    for alone, whole in zip(grown[::2], grown[1::2], strict=True):
        before, model = experiment.variant_model(alone), experiment.variant_model(whole)
        assert (alone.start, whole.start) == (first.name, alone.name)
        assert experiment.variant_train(alone).trained == "inserted" and before.eviction == "hard"
        assert experiment.variant_train(whole).trained == "all" and model == replace(before, eviction="sliding")
        whole_step = step_flops(before, replace(experiment.train, trained="all"), experiment.task)
        assert step_flops(before, experiment.variant_train(alone), experiment.task) < 0.9 * whole_step
        assert len(model.inserted) == 2 and model.mixers.count("attention") == len(transformer.mixers)
        assert sum(map(experiment.variant_steps, (alone, whole))) == experiment.variant_steps(longer)
    with pytest.raises(ValueError, match=r"start of n1-new-blocks = 'gone': must be one of the variants before it"):
        replace(experiment, variants=(first, replace(grown[0], start="gone")))
    with pytest.raises(ValueError, match=r"variant n1-new-blocks, which starts from transformer: mixers = .* must be"):
        replace(experiment, variants=(first, replace(grown[0], inserted=(1,)))).check_starts()
    for wrong in ({"share_of_steps": -3.0}, {"share_of_steps": 1.5}, {"share_of_steps": 0.5, "compute_of": 2}):
        with pytest.raises(
            ValueError, match=r"share_of_steps of transformer = .*: must be a number in \[0, 1\], and 1"
        ):
            replace(experiment, variants=(replace(first, **wrong),))
    with pytest.raises(ValueError, match=r"trained of n1 = 'inserted': must be all without inserted blocks"):
        replace(experiment, variants=(replace(first, name="n1", trained="inserted"),))


def test_each_field_of_a_variant_reaches_its_model_or_training() -> None:
    demo = PRESETS["demo"]
    climb = Curriculum(threshold=0.5)
    variant = Variant(
        name="all",
        sleep_passes=3,
        fast_weight_lr=0.7,
        mixers=("delta",),
        repeat=2,
        window=8,
        depth=4,
        inserted=(1,),
        eviction="sliding",
        share_of_steps=0.5,
        trained="inserted",
        curriculum=climb,
        drawn_passes=(1, 3),
        task={"labels": "all"},
        model={"conv": 3, "carry": "mixture", "reads_first": True, "fast_heads": 3},
        train={"batch_size": 32, "adam_lr": 0.5},
    )
    model, train = demo.variant_model(variant), demo.variant_train(variant)
    assert (model.sleep_passes, model.fast_weight_lr, model.mixers, model.window) == (3, 0.7, ("delta",) * 2, 8)
    assert (model.inserted, model.eviction, model.conv) == ((1,), "sliding", 3)
    assert (train.trained, train.curriculum, train.sleep_passes) == ("inserted", climb, (1, 3))
    assert train.steps == demo.train.steps / 2
    assert (model.carry, model.reads_first, model.fast_heads) == ("mixture", True, 3)
    assert (train.batch_size, train.adam_lr) == (32, 0.5)
    assert demo.variant_task(variant) == replace(demo.task, steps=4, labels="all")
    assert (model.vocab_size, model.max_positions) == (4, 34)  # a pad, and an answer for each cell
    plain, changed = (
        Variant(name="plain"),
        replace(demo, train=replace(demo.train, optimizer="adamw", curriculum=climb), search=None),
    )
    assert changed.variant_train(plain) == changed.train


def test_a_variant_has_at_most_so_many_seeds() -> None:
    demo = replace(PRESETS["demo"], seeds=(7, 5, 3), search=None)
    first, other = (replace(variant, most_seeds=None) for variant in demo.variants[:2])
    once = replace(demo, variants=(first, replace(other, most_seeds=2)))
    assert [once.variant_seeds(variant) for variant in once.variants] == [(7, 5, 3), (7, 5)]
    assert replace(once, seeds=(4,)).variant_seeds(once.variants[1]) == (4,)
    trained = [stage.name for stage in plan(once, Services(once, Path("runs"))) if stage.name.startswith("train-")]
    assert trained == [f"train-{first.name}-seed{seed}" for seed in (7, 5, 3)] + [
        f"train-{other.name}-seed{seed}" for seed in (7, 5)
    ]
    costs = [training_cost(replace(once, variants=(variant,))).rows for variant in once.variants]
    assert costs[0] / once.variant_steps(first) * 2 == costs[1] / once.variant_steps(other) * 3
    with pytest.raises(ValueError, match=f"most_seeds of {other.name} = 0: must be an integer of at least 1"):
        replace(demo, variants=(replace(other, most_seeds=0),))
    started = replace(first, name="later", start=first.name)
    allowed = f"most_seeds of later = None: must be at most 2, not null, as later starts from {first.name}"
    with pytest.raises(ValueError, match=allowed):
        replace(demo, variants=(replace(first, most_seeds=2), started))


def test_a_variant_without_steps_is_the_model_before_its_training() -> None:
    mini = PRESETS["text-mini"]
    steps = {variant.name: mini.variant_steps(variant) for variant in mini.variants}
    assert steps == {"before": 0, "n2": mini.train.steps}
    assert mini.candidates() == ["n2"]
    short = replace(mini, variants=(replace(mini.variants[0], share_of_steps=1e-3),))
    assert short.variant_steps(short.variants[0]) == 1
    with pytest.raises(OverrideError, match=r"train.steps = 0: must be an integer of at least 1"):
        apply_overrides(mini, ["train.steps=0"])


def test_variants_read_the_same_rows_in_the_same_order() -> None:
    """As far as they go, and but for those that are made to read fewer rows."""
    mini = PRESETS["rule110-fig2b-mini"]
    orders = {}
    for variant in mini.variants:
        if not variant.epochs:
            epochs = EpochOrder((mini.train_rows(),), mini.variant_train(variant))
            orders[variant.name] = [rows.tolist() for step in range(30) for _, rows in epochs.pieces(step)]
    assert len(orders) > 5 and all(order == orders["n1"] for order in orders.values())


def test_rows_that_are_limited_limit_every_variant() -> None:
    few = apply_overrides(PRESETS["rule110-fig2b-mini"], ["train.rows=2048"])
    assert {few.variant_train(variant).rows for variant in few.variants} == {2048}


def test_n_of_a_variant_is_the_one_that_its_curriculum_gives_the_deepest_rows() -> None:
    mini = PRESETS["curriculum-mini"]
    by_step = next(variant for variant in mini.variants if variant.name == "pass-a-step")
    for wrong, message in (
        ({"sleep_passes": 2}, "sleep_passes of pass-a-step = 2: must be 4"),
        ({"evaluated_at": (8,)}, "evaluated_at of pass-a-step"),
        ({"compute_of": 4}, "compute_of of pass-a-step"),
    ):
        with pytest.raises(ValueError, match=message):
            replace(mini, variants=(replace(by_step, **wrong),))
    with pytest.raises(ValueError, match=r"search = .* must be null with train.curriculum"):
        apply_overrides(PRESETS["demo"], ["train.curriculum.threshold=0.5"])


def test_the_registry_takes_what_forgets_on_the_presets_own_task() -> None:
    assert "transformer-whole" not in PRESETS["rule110-fig2b-mini"].candidates()
    assert {"n1", "n4"} <= set(PRESETS["rule110-fig2b-mini"].candidates())
    assert PRESETS["curriculum-mini"].candidates() == ["n1-all-at-once", "n1", "n4"]
    assert PRESETS["throughput-fig6-mini"].candidates() == []
    assert PRESETS["rule110-fig2a-mini"].candidates() == ["n1-t6"]


def test_a_search_registers_its_winner_unless_it_is_told_otherwise(tmp_path: Path) -> None:
    def registered(*assignments: str) -> list[str]:
        experiment = apply_overrides(PRESETS["demo"], list(assignments))
        stages = {stage.name: stage for stage in plan(experiment, Services(experiment, tmp_path))}
        return stages["register"].config["candidates"] if "register" in stages else []

    assert registered() == ["winner"]
    assert registered("champions=[n1]") == ["n1"]
    assert registered("registers=false") == registered("registers=false", "search=null") == []


def test_an_evaluation_knows_which_variants_are_asked_the_same(tmp_path: Path) -> None:
    def questions(preset: str) -> dict[str, str]:
        experiment = PRESETS[preset]
        stages = plan(experiment, Services(experiment, tmp_path))
        (evaluate,) = (stage for stage in stages if stage.name == "evaluate")
        found: dict[str, str] = evaluate.config["questions"]
        return found

    sizes = questions("depo-sizes-mini")
    assert sizes["n1"] == sizes["n3"] == sizes["n3-two-windows"]
    assert len({sizes["n3"], sizes["n3-24-nodes"], sizes["n3-long-names"]}) == 3
    # where the pointers of training rows begin, and how labels are shifted, is not asked
    hops, cells = questions("depo-iterated"), questions("rule110-iterated")
    assert hops["begin-at-next"] == hops["iterated"] != hops["one-pass"]
    assert cells["fixed-frame"] == cells["iterated"] != cells["four-states"]
    assert len(set(questions("smoke").values())) == 1 and "winner" in questions("smoke")


def test_a_control_of_equal_flops_with_smaller_batches_has_more_steps() -> None:
    big = PRESETS["rule110-iterated"]
    control = next(variant for variant in big.variants if variant.name == "one-pass-compute")
    smaller = replace(control, train={**(control.train or {}), "batch_size": 8})
    assert big.variant_steps(smaller) == pytest.approx(4 * big.variant_steps(control), abs=4)


def test_a_variants_batch_that_the_workers_cannot_share_is_refused() -> None:
    """It has another size than the experiment's, which they can."""
    with pytest.raises(OverrideError, match=r"variant four-states: batch_size = 8: must be a multiple of .* = 16"):
        apply_overrides(PRESETS["rule110-iterated"], ["scale.workers=16"])


def test_fig2_is_the_papers() -> None:
    """Four states of 24 cells, width 256, 4 blocks, batch 512, about 5 billion tokens (paper, experiment 1)."""
    fig2b = PRESETS["rule110-fig2b"]
    assert (fig2b.task.cells, fig2b.task.states, fig2b.task.steps) == (24, 4, 32)
    assert (fig2b.model.d_model, len(fig2b.model.mixers), fig2b.model.window) == (256, 4, 24)
    assert (fig2b.train.batch_size, fig2b.train.muon_lr, fig2b.train.adam_lr) == (512, 2e-3, 5e-5)
    assert fig2b.train.steps * 512 * fig2b.task.row_length == pytest.approx(5e9, rel=1e-4)
    assert {f"n{n}" for n in (1, 2, 3, 4)} <= {variant.name for variant in fig2b.variants}
    assert [task.steps for task in PRESETS["rule110-fig2a"].tasks()] == [4, 8, 12, 16]


def test_the_same_compute_is_the_same_flops() -> None:
    demo = PRESETS["demo"]
    more = Variant(name="more", compute_of=4)
    spent = demo.train.steps * step_flops(replace(demo.model, sleep_passes=4), demo.train, demo.task)
    assert training_flops_of(demo, more) == pytest.approx(spent, rel=1e-3)
    # of the experiment's model, whatever the variant's own is and however little of that is trained
    narrow = replace(more, name="narrow", model={"d_model": 32})
    assert training_flops_of(demo, narrow) == pytest.approx(spent, rel=1e-3)
    inserted = replace(
        more, name="inserted", mixers=(*demo.model.mixers, "gated_delta"), inserted=(2,), trained="inserted"
    )
    assert training_flops_of(demo, inserted) == pytest.approx(spent, rel=1e-3)


def test_a_variant_costs_what_its_own_rows_and_batch_cost() -> None:
    """Twice the states are twice the tokens; half the batch is half of them."""
    demo = PRESETS["demo"]
    task, states = demo.task, {"states": 2 * demo.task.states}
    longer = Variant(name="longer", task=states, whole=True, train={"batch_size": demo.train.batch_size // 2})
    long = demo.variant_task(longer).row_length
    found = [training_cost(replace(demo, variants=(variant,), search=None)) for variant in (longer, Variant(name="n1"))]
    seen = [(cost.rows, cost.tokens) for cost in found]
    rows = len(demo.seeds) * demo.train.steps * demo.train.batch_size
    assert seen == [(rows // 2, rows // 2 * long), (rows, rows * task.row_length)]
    assert found[0].flops == pytest.approx(len(demo.seeds) * training_flops_of(demo, longer))

    same = replace(longer, name="same", compute_of=4)
    of_four = demo.train.steps * step_flops(replace(demo.model, sleep_passes=4), demo.train, task)
    assert training_flops_of(demo, same) == pytest.approx(of_four, rel=1e-3)
    drawn = replace(longer, name="drawn", whole=False, compute_of=2, drawn_passes=(1, 3))
    plain = replace(drawn, name="plain", drawn_passes=(), sleep_passes=2)
    assert demo.variant_steps(drawn) == pytest.approx(demo.variant_steps(plain), rel=1e-3)


def test_a_model_that_sleeps_on_all_windows_takes_any_window() -> None:
    """Also one that an answer of the task begins; and its cost counts the waking passes."""
    sleeping = apply_overrides(PRESETS["demo"], ["model.sleep_on=all", "model.window=17"])
    assert {sleeping.variant_model(variant).sleep_on for variant in sleeping.variants} == {"all"}
    engine = LocalEngine(build_model(sleeping.model, sleeping.train), sleeping.train)
    tokens, mask = map(torch.from_numpy, sleeping.task.sample("train", 0, 0, 4).batch())
    assert mask[:, 17].any() and torch.isfinite(engine.backward(tokens, mask, 2).answers)
    gsm = PRESETS["gsm-fig4-mini"]
    every = replace(gsm.model, sleep_on="all")
    assert step_flops(every, gsm.train, gsm.task) > step_flops(gsm.model, gsm.train, gsm.task)


def test_tuning_the_demo_changes_nothing_but_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even where another preset would take its model, its training or a setting from it."""
    before = PRESETS["demo"]
    tuned = replace(before, seeds=(1,), train=replace(before.train, steps=10), model=replace(before.model, d_model=32))
    monkeypatch.setattr(presets.demo, "demo", lambda: tuned)
    assert {name for name, experiment in presets.build().items() if experiment != PRESETS[name]} == {"demo"}
    others = [path for path in Path(presets.__path__[0]).glob("*.py") if path.stem not in ("demo", "__init__")]
    assert len(others) > 3 and not any("presets.demo" in path.read_text() for path in others)


def test_an_experiment_of_ones_own_is_named_by_its_function(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_experiment.py").write_text(
        "from dataclasses import replace\n"
        "from pipelines.config.presets import PRESETS\n"
        "def mine():\n    return replace(PRESETS['smoke'], name='mine', seeds=(7,))\n"
        "def nothing():\n    pass\n"
        "def broken():\n    raise KeyError('a fault of its own')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert experiment_named("own_experiment:mine") == replace(PRESETS["smoke"], name="mine", seeds=(7,))
    assert experiment_named("smoke") == PRESETS["smoke"]
    for name, message in {
        "own_experiment:nothing": "must be a function without arguments that returns an Experiment, got None",
        "own_experiment:missing": "must be a function without arguments",
        "no_such_file:mine": "no_such_file cannot be imported.*PYTHONPATH",
        "own_experiment:": "must be a preset, or module:function",
    }.items():
        with pytest.raises(ValueError, match=message):
            experiment_named(name)
    with pytest.raises(KeyError, match="a fault of its own"):
        experiment_named("own_experiment:broken")
