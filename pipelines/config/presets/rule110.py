"""Rule 110 (paper, fig. 2): cells of each state after t steps."""

from __future__ import annotations

from dataclasses import replace

from datagen import Rule110
from pipelines.config.experiment import Data, Experiment
from pipelines.config.presets.variants import HYBRID, at_depths, at_full_eta, at_passes, controls, paper_train
from pipelines.config.variant import Variant
from sleepmodel import ModelConfig, Scale, TrainConfig
from sleepmodel.config.training import Curriculum

PAPER_TOKENS, PAPER_BATCH = 5_000_000_000, 512
MINI_SEEDS = (40, 41, 42)


def paper(name: str, variants: tuple[Variant, ...], depth: int = 32, shorter: int = 1) -> Experiment:
    """The paper's size: four states of 24 cells. shorter: divides the number of training steps."""
    task = Rule110(cells=24, states=4, steps=depth)
    steps = round(PAPER_TOKENS / (PAPER_BATCH * task.row_length))
    return Experiment(
        name=name,
        task=task,
        model=ModelConfig(vocab_size=3, max_positions=101),
        train=paper_train(steps // shorter, PAPER_BATCH),
        variants=variants,
        seeds=(0,),
        scale=Scale(gpu=True, compile=True),
        paper_scale=True,
    )


def mini(
    name: str, variants: tuple[Variant, ...], seeds: tuple[int, ...] = MINI_SEEDS, rows: int | None = None
) -> Experiment:
    """What two cores train in minutes: one state of 16 cells after 6 steps."""
    return Experiment(
        name=name,
        task=Rule110(cells=16, states=1, steps=6),
        model=ModelConfig(
            vocab_size=3, d_model=64, n_heads=2, mixers=HYBRID, window=16, fast_heads=1, max_positions=18
        ),
        train=TrainConfig(steps=600, validate_every=75, rows=rows),
        variants=variants,
        seeds=seeds,
        data=Data(seed=11),
    )


def fig2a() -> Experiment:
    """One pass is not enough for many steps of the automaton."""
    return paper("rule110-fig2a", at_depths(4, 8, 12, 16), depth=4, shorter=5)


def fig2a_mini() -> Experiment:
    return mini("rule110-fig2a-mini", at_depths(2, 4, 6, 8), seeds=(30, 31, 32))


def fig2b() -> Experiment:
    """More passes against every control."""
    return paper("rule110-fig2b", controls(4, depth=4) + at_passes(2, 3, 4))


def fig2b_mini() -> Experiment:
    any_passes = Variant(name="any", sleep_passes=2, drawn_passes=(1, 2, 4), evaluated_at=(3, 8))
    return mini("rule110-fig2b-mini", (*controls(4, depth=2), *at_passes(2, 4), any_passes))


def rows_mini() -> Experiment:
    """Training in epochs on 2,048 rows."""
    variants = (*at_passes(1, 2, 4), Variant(name="n1-same-compute", compute_of=4))
    return mini("rule110-rows-mini", variants, rows=2048)


def by_t_mini() -> Experiment:
    """Every N at every number of steps."""
    variants = tuple(
        Variant(name=f"n{n}-t{depth}", sleep_passes=n, depth=depth) for depth in (2, 4, 8, 10) for n in (1, 2, 4)
    )
    return mini("rule110-by-t-mini", variants)


def cells_mini() -> Experiment:
    """24 cells after 8 steps: an answer depends on 17 cells, and training at N = 4 shows half of their 131,072 values.
    With eta = 2, with and without short convolutions."""
    without_conv = {"model": {"conv": None}, "most_seeds": 3}
    variants = (
        *(at_full_eta(f"n{n}", n) for n in (1, 2, 4)),
        at_full_eta("n1-same-compute", compute_of=4),
        *(at_full_eta(f"n{n}-without-conv", n, **without_conv) for n in (1, 4)),
    )
    return _on_24_cells("rule110-cells-mini", variants, steps=8, training_steps=800)


def cells_by_t_mini() -> Experiment:
    """24 cells after 10 and 12 steps, where an answer depends on 21 cells and on all 24: more values than any training
    reads."""
    variants = tuple(
        variant
        for t in (10, 12)
        for variant in (
            *(at_full_eta(f"n{n}-t{t}", n, depth=t) for n in (1, 4)),
            at_full_eta(f"n1-same-compute-t{t}", compute_of=4, depth=t),
        )
    )
    return _on_24_cells("rule110-cells-by-t-mini", variants, steps=12, training_steps=1500)


def _on_24_cells(name: str, variants: tuple[Variant, ...], steps: int, training_steps: int) -> Experiment:
    """One state of 24 cells, and short convolutions."""
    base = mini(name, variants, seeds=(60,))
    task = Rule110(cells=24, states=1, steps=steps)
    return replace(
        base,
        task=task,
        model=replace(base.model, window=task.context_length, max_positions=task.row_length, fast_heads=2, conv=4),
        train=replace(base.train, steps=training_steps, validate_every=100),
    )


def curriculum_mini() -> Experiment:
    """From one step to four: all levels at once, a curriculum over levels, and one pass for each step."""
    task = Rule110(cells=16, states=1, steps=4, shallowest=1, labels="all")
    by_level = Curriculum(threshold=0.9, review=True)
    pass_per_step = Curriculum(threshold=0.9, review=True, steps_per_pass=1)
    return Experiment(
        name="curriculum-mini",
        task=task,
        model=ModelConfig(
            vocab_size=len(task.vocabulary),
            d_model=64,
            n_heads=2,
            mixers=HYBRID,
            window=task.context_length,
            fast_heads=1,
            max_positions=task.row_length,
        ),
        train=TrainConfig(steps=2000, batch_size=64, validate_every=50, curriculum=by_level),
        variants=(
            Variant(name="n1-all-at-once", curriculum=Curriculum()),
            *at_passes(1, 4),
            Variant(name="pass-a-step", sleep_passes=task.steps, curriculum=pass_per_step),
        ),
        seeds=(30,),
        data=Data(seed=11),
    )
