"""The presets: a laptop's demonstration, the paper's figures, and a mini of each that two cores can run."""

from __future__ import annotations

from dataclasses import replace

from datagen import Depo, Gsm, Rule110
from pipelines.config.experiment import Data, Experiment, Variant
from sleepmodel import ModelConfig, Scale, TrainConfig
from sleepmodel.config import Curriculum, Search

HYBRID, RULES = ("attention", "gated_delta"), ("linear", "delta", "gated_delta", "jet")


def _transformers(depth: int) -> tuple[Variant, ...]:
    """Attention alone, that forgets its window and that keeps the whole row."""
    evicted = Variant(name="transformer-evicted", mixers=("attention",) * depth)
    return evicted, replace(evicted, name="transformer-whole", whole=True)


def _controls(passes: int, depth: int = 2, rule: str = "gated_delta") -> tuple[Variant, ...]:
    """What a gain of N = `passes` has to be held against, `depth` blocks deep; the hybrid at N = 1 among them."""
    return (
        *_transformers(depth),
        Variant(name="fast-weights-only", mixers=(rule,) * depth),
        Variant(name="n1"),
        Variant(name="n1-deep", repeat=passes),
        Variant(name="n1-same-compute", compute_of=passes),
        Variant(name="n1-same-compute-epochs", compute_of=passes, epochs=True),
    )


def _sleepers(*passes: int) -> tuple[Variant, ...]:
    return tuple(Variant(name=f"n{n}", sleep_passes=n) for n in passes)


def _rule110(depth: int) -> Rule110:
    return Rule110(cells=24, states=4, steps=depth)


_PAPER_MODEL = ModelConfig(vocab_size=3, max_positions=101)
_PAPER_TRAIN = TrainConfig(
    batch_size=512, muon_lr=2e-3, adam_lr=5e-5, warmup_steps=500, precision="bfloat16", validate_every=500
)
_FIG2_TOKENS = 5_000_000_000
_FIG2_STEPS = round(_FIG2_TOKENS / (_PAPER_TRAIN.batch_size * _rule110(32).row_length))

_DEMO = Experiment(
    name="demo",
    task=Rule110(cells=16, states=1, steps=6),
    model=ModelConfig(vocab_size=3, d_model=64, n_heads=2, mixers=HYBRID, window=16, fast_heads=1, max_positions=18),
    train=TrainConfig(steps=600, validate_every=75),
    variants=(
        Variant(name="n1"),
        Variant(name="n2", sleep_passes=2),
        Variant(name="n1-same-compute", compute_of=2),
    ),
    seeds=(30, 31, 32),
    search=Search(trials=6),
    data=Data(seed=7),
)
_MINI = replace(_DEMO, search=None, data=Data(seed=11))
_CLIMB = Rule110(cells=16, states=1, steps=4, shallowest=1, labels="all")
_PAPER = Experiment(
    name="rule110-fig2b",
    task=_rule110(32),
    model=_PAPER_MODEL,
    train=replace(_PAPER_TRAIN, steps=_FIG2_STEPS),
    variants=_controls(4, depth=4) + _sleepers(2, 3, 4),
    seeds=(0,),
    scale=Scale(gpu=True),
    paper_scale=True,
)

# the paper's sizes; the mini's context is one window, as hours are too few to learn one hop among more nodes and hops
_DEPO, _DEPO_MINI = Depo(), Depo(nodes=6, hops=2, queries=4)
_DEPO_PAPER = replace(
    _PAPER,
    name="depo-fig3",
    task=_DEPO,
    model=ModelConfig(
        vocab_size=len(_DEPO.vocabulary), d_model=512, n_heads=8, mixers=HYBRID * 5, window=75, fast_heads=8
    ),
    train=replace(_PAPER_TRAIN, batch_size=128, steps=100_000),
    variants=_controls(4, depth=10) + _sleepers(2, 4),
)

# the paper's models are pretrained; these have their shape and begin with nothing
_GSM, _GSM_MINI = Gsm(), Gsm(operations=(1, 3), tokens=(192, 320))
_GSM_PAPER = replace(
    _PAPER,
    name="gsm-fig4",
    task=_GSM,
    model=ModelConfig(
        vocab_size=len(_GSM.vocabulary),
        d_model=1536,
        n_heads=12,
        mixers=("attention", "jet") * 14,
        window=2000,
        loop=(7, 21),
        fast_heads=12,
        key_dim=96,
        value_dim=256,
    ),
    train=replace(_PAPER_TRAIN, batch_size=256, steps=10_000, muon_lr=1e-3),
    variants=_controls(4, depth=28, rule="jet") + _sleepers(2, 4, 6),
    data=Data(test_rows=1600, seed=5),
)
_GSM_SMALL = replace(
    _MINI,
    name="gsm-fig4-mini",
    task=_GSM_MINI,
    model=ModelConfig(
        vocab_size=len(_GSM_MINI.vocabulary), d_model=64, n_heads=2, mixers=HYBRID, window=128, fast_heads=1
    ),
    train=TrainConfig(steps=1000, batch_size=32, validate_every=100),
    variants=(
        *_transformers(2),
        *_sleepers(1, 2, 4),
    ),
    data=Data(validation_rows=512, test_rows=1600, seed=5),
    seeds=(30,),
)


def _sliding(experiment: Experiment, name: str, window: int, fresh_steps: int) -> Experiment:
    """Fig. 5: a transformer first; then fast-weight blocks are put in, warmed up alone under hard eviction for the
    first steps, and all is trained under sliding eviction, beside the transformer that is trained on as long."""
    attention = tuple(mixer for mixer in experiment.model.mixers if mixer == "attention")
    longer = Variant(name="transformer-longer", mixers=attention, start="transformer")
    grown = [Variant(name=f"n{n}", sleep_passes=n, start="transformer", fresh_steps=fresh_steps) for n in (1, 2, 4)]
    model = replace(experiment.model, window=window, eviction="sliding")
    return replace(
        experiment, name=name, model=model, variants=(Variant(name="transformer", mixers=attention), longer, *grown)
    )


def _rules(experiment: Experiment, name: str, passes: tuple[int, ...]) -> Experiment:
    """Every update rule at every N."""
    variants = [
        Variant(
            name=f"{rule}-n{n}",
            sleep_passes=n,
            mixers=tuple(rule if mixer == "gated_delta" else mixer for mixer in experiment.model.mixers),
        )
        for rule in RULES
        for n in passes
    ]
    return replace(experiment, name=name, variants=tuple(variants))


def _etas(experiment: Experiment, name: str, passes: tuple[int, ...]) -> Experiment:
    """Every eta at every N."""
    etas = (0.25, 0.5, 1.0, 1.5, 2.0)
    variants = [Variant(name=f"eta{eta:g}-n{n}", sleep_passes=n, fast_weight_lr=eta) for n in passes for eta in etas]
    return replace(experiment, name=name, variants=tuple(variants))


def _throughput(experiment: Experiment, name: str, windows: tuple[int, ...], passes: tuple[int, ...]) -> Experiment:
    """Fig. 6: a few steps at every window and N; tokens/s stand in the report."""
    variants = [Variant(name=f"window{w}-n{n}", window=w, sleep_passes=n) for w in windows for n in passes]
    return replace(experiment, name=name, variants=tuple(variants), seeds=(0,), registers=False)


_ALL = (
    _DEMO,
    replace(
        _DEMO,
        name="smoke",
        model=replace(_DEMO.model, d_model=16, key_dim=16, value_dim=16),
        train=TrainConfig(steps=20, batch_size=32, validate_every=10, warmup_steps=5),
        variants=(Variant(name="n1", evaluated_at=(2,)),),
        seeds=(20, 21),
        search=Search(trials=2, sleep_passes=(1, 2), grace=2),
        data=Data(seed=7, validation_rows=64, test_rows=256),
    ),
    replace(
        _PAPER,
        name="rule110-fig2a",
        task=_rule110(4),
        train=replace(_PAPER_TRAIN, steps=_FIG2_STEPS // 5),
        variants=tuple(Variant(name=f"n1-t{depth}", depth=depth) for depth in (4, 8, 12, 16)),
    ),
    replace(
        _MINI,
        name="rule110-fig2a-mini",
        variants=tuple(Variant(name=f"n1-t{depth}", depth=depth) for depth in (2, 4, 6, 8)),
    ),
    _PAPER,
    replace(
        _MINI,
        name="rule110-fig2b-mini",
        variants=_controls(4)
        + _sleepers(2, 4)
        + (Variant(name="any", sleep_passes=2, drawn_passes=(1, 2, 4), evaluated_at=(3, 8)),),
        seeds=(40, 41, 42),
    ),
    replace(
        _MINI,
        name="rule110-rows-mini",
        train=replace(_MINI.train, rows=2048),
        variants=(Variant(name="n1"), *_sleepers(2, 4), Variant(name="n1-same-compute", compute_of=4)),
        seeds=(40, 41, 42),
    ),
    replace(
        _MINI,
        name="rule110-by-t-mini",
        variants=tuple(
            Variant(name=f"n{n}-t{depth}", sleep_passes=n, depth=depth) for depth in (2, 4, 8, 10) for n in (1, 2, 4)
        ),
        seeds=(40, 41, 42),
    ),
    _DEPO_PAPER,
    replace(
        _MINI,
        name="depo-fig3-mini",
        task=_DEPO_MINI,
        model=ModelConfig(
            vocab_size=len(_DEPO_MINI.vocabulary), d_model=64, n_heads=2, mixers=HYBRID, window=24, fast_heads=1
        ),
        train=TrainConfig(steps=6000, batch_size=64, validate_every=200),
        variants=(*_transformers(2)[:1], *_sleepers(1, 2, 4)),
        seeds=(30,),
    ),
    _GSM_PAPER,
    _GSM_SMALL,
    _sliding(_GSM_PAPER, "gsm-sliding-fig5", window=512, fresh_steps=2000),
    _sliding(
        replace(
            _GSM_SMALL,
            model=replace(_GSM_SMALL.model, mixers=HYBRID * 2),
            train=replace(_GSM_SMALL.train, steps=600),
        ),
        "gsm-sliding-fig5-mini",
        window=64,
        fresh_steps=150,
    ),
    _throughput(
        replace(
            _GSM_PAPER,
            task=Gsm(tokens=(8000, 8192)),
            model=replace(_GSM_PAPER.model, window=1024),
            train=replace(_GSM_PAPER.train, steps=20, batch_size=8, validate_every=10),
        ),
        "throughput-fig6",
        windows=(1024, 2048, 4096),
        passes=(1, 2, 4),
    ),
    _throughput(
        replace(
            _GSM_SMALL,
            task=Gsm(tokens=(900, 1024)),
            train=TrainConfig(steps=60, batch_size=8, validate_every=6, warmup_steps=5),
            data=Data(validation_rows=16, test_rows=16, seed=5),
            # one training at a time, as two would slow each other
            scale=Scale(cpus_per_worker=2),
        ),
        "throughput-fig6-mini",
        windows=(64, 128, 256, 512),
        passes=(1, 2, 4),
    ),
    replace(
        _MINI,
        name="curriculum-mini",
        task=_CLIMB,
        model=replace(
            _MINI.model,
            vocab_size=len(_CLIMB.vocabulary),
            window=_CLIMB.context_length,
            max_positions=_CLIMB.row_length,
        ),
        train=TrainConfig(
            steps=2000, batch_size=64, validate_every=50, curriculum=Curriculum(threshold=0.9, review=True)
        ),
        variants=(
            Variant(name="n1-all-at-once", curriculum=Curriculum()),
            Variant(name="n1"),
            Variant(name="n4", sleep_passes=4),
            Variant(
                name="pass-a-step",
                sleep_passes=_CLIMB.steps,
                curriculum=Curriculum(threshold=0.9, review=True, steps_per_pass=1),
            ),
        ),
        seeds=(30,),
    ),
    _rules(_PAPER, "ablation-rule", (1, 4)),
    _rules(replace(_MINI, seeds=(30, 31)), "ablation-rule-mini", (1, 4)),
    _etas(_PAPER, "ablation-eta", (1, 4)),
    _etas(replace(_MINI, seeds=(30, 31)), "ablation-eta-mini", (1, 2, 4)),
)
PRESETS = {experiment.name: experiment for experiment in _ALL}
