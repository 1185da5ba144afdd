"""Typed, frozen configs of a model, its training and a search. Each validates its fields when it is created."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from datagen.canonical import added_later, identifying_fields
from datagen.checks import require, require_whole

# the mixers of this package by their short names; any other mixer is named by its path
MIXERS = {
    "attention": "sleepmodel.mixers.attention:Attention",
    "local_attention": "sleepmodel.mixers.attention:LocalAttention",
    "gated_delta": "sleepmodel.mixers.gated_delta:GatedDelta",
    "delta": "sleepmodel.mixers.gated_delta:Delta",
    "linear": "sleepmodel.mixers.gated_delta:Linear",
    "jet": "sleepmodel.mixers.jet:Jet",
    "jet_nemotron": "sleepmodel.mixers.jet:JetNemotron",
}
_PATH = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")  # module:Class
EVICTIONS = ("hard", "sliding")
BIASES = ("none", "qkv", "all")
QK_NORMS = ("unit", "learned", "none")
MLPS = ("relu2", "swiglu")
RECOMPUTE = ("nothing", "block", "pass", "window", "both")
OPTIMIZERS = ("muon", "adamw")
TRAINED = ("all", "inserted")
PRECISIONS = ("float32", "bfloat16")
MAX_SIZE = 2**16  # of one dimension of a tensor, so that the product of a few fits in 64 bits
MAX_BLOCKS = 1024
MAX_SEED = 2**63 - 1


def _real(field: str, value: object, low: float, high: float, allowed: str) -> None:
    require(type(value) in (int, float) and low <= value <= high, field, value, allowed)  # type: ignore[operator]


def _one_of(field: str, value: object, allowed: tuple[str, ...]) -> None:
    require(value in allowed, field, value, f"one of {', '.join(allowed)}")


def _passes(field: str, values: object) -> None:
    require(isinstance(values, tuple), field, values, "a tuple of numbers of passes")
    for passes in values:  # type: ignore[attr-defined]
        require_whole(field, passes, 1, MAX_SIZE)


def check_jet_window(config: ModelConfig) -> None:
    """Raise ValueError if sliding eviction would keep inputs of Jet's convolution from before the window."""
    allowed = "at least 3 where jet meets sliding eviction, as its convolution takes in the 3 tokens before each token"
    require(config.eviction != "sliding" or config.window >= 3, "window", config.window, allowed)


def _names_mixer(name: object) -> bool:
    return isinstance(name, str) and (name in MIXERS or _PATH.fullmatch(name) is not None)


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Llama 3's change of RoPE's frequencies for rows longer than those of the first training.

    original_positions: the length of the rows of the first training; factor: divides every frequency that makes fewer
        than `low_freq_factor` turns in these. One that makes more than `high_freq_factor` turns stays as it is; between
        the two, the change fades out.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_positions: int

    def __post_init__(self) -> None:
        _real("factor", self.factor, 1.0, 1e6, "a number from 1 to 1e6")
        _real("low_freq_factor", self.low_freq_factor, 1e-6, 1e6, "a number from 1e-6 to 1e6")
        allowed = f"a number above low_freq_factor = {self.low_freq_factor}, at most 1e7"
        _real("high_freq_factor", self.high_freq_factor, self.low_freq_factor, 1e7, allowed)
        require(self.high_freq_factor > self.low_freq_factor, "high_freq_factor", self.high_freq_factor, allowed)
        require_whole("original_positions", self.original_positions, 1)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The architecture. Defaults are the paper's Rule 110 model (section "Experiments", 1).

    vocab_size: number of tokens.
    d_model: width of the residual stream.
    n_heads: attention heads; `d_model / n_heads` must be even (RoPE).
    mixers: the sequence mixer of each block, first to last: a name in MIXERS, or "module:Class" for your own.
    window: L, tokens in a full context window.
    eviction: what happens to the KV cache when the window is full: "hard" clears it, "sliding" keeps the L - 1 latest.
    sleep_passes: N, recurrent passes over a full window before it is evicted.
    loop: half-open range of blocks that every pass runs; the other blocks run once. None is all blocks.
    fast_weight_lr: eta in (0, 2]; the write strength is beta = eta * sigmoid(...).
    fast_heads, key_dim, value_dim: fast-weight heads H and the size K x V of each one's matrix.
    mlp_ratio: hidden width of the MLP in units of d_model.
    max_positions: number of learned absolute positions, and so the longest row; None: RoPE is the only position code.

    The other fields are those in which pretrained models differ (docs/pretrained.md).

    kv_heads: attention heads of keys and values, each shared by n_heads / kv_heads query heads; None: n_heads.
    head_dim: size of an attention head, even; None: d_model / n_heads.
    attention_bias: biases in attention: "none", of q, k and v ("qkv"), or of the output too ("all").
    qk_norm: RMS norm of queries and keys before RoPE: "unit" (without weights), "learned" or "none".
    rope_base, rope_scaling: RoPE's frequencies.
    local_span: the latest tokens that "local_attention" sees, itself among them.
    mlp: "relu2", down(relu(up x)^2), or "swiglu", down(silu(gate x) * up x).
    mlp_width: hidden width of the MLP; None: mlp_ratio * d_model. mlp_bias: whether its layers have biases.
    norm_eps: added to the mean square in each RMS norm of the residual stream, and in a learned qk_norm; None: the
        smallest relative step of the dtype.
    sandwich_norms: RMS norms also behind each mixer and MLP, before the residual is added (Ouro). Not for training from
        scratch: output projections start at zero, and a norm of almost zeros amplifies the first gradients.
    loop_norm: the last RMS norm, before the readout, also stands between two passes of a sleep (Ouro).
    tied: the readout's weights are those of the embedding.
    inserted: blocks that were put into a pretrained model, ascending: a mixer alone, without MLP or sandwich norms.
    """

    vocab_size: int
    d_model: int = 256
    n_heads: int = 4
    mixers: tuple[str, ...] = ("attention", "gated_delta", "attention", "gated_delta")
    window: int = 24
    eviction: Literal["hard", "sliding"] = "hard"
    sleep_passes: int = 1
    loop: tuple[int, int] | None = None
    fast_weight_lr: float = 1.0
    fast_heads: int = 4
    key_dim: int = 64
    value_dim: int = 64
    mlp_ratio: int = 4
    max_positions: int | None = None
    kv_heads: int | None = added_later(None)
    head_dim: int | None = added_later(None)
    attention_bias: Literal["none", "qkv", "all"] = added_later("none")
    qk_norm: Literal["unit", "learned", "none"] = added_later("unit")
    rope_base: float = added_later(10_000.0)
    rope_scaling: RopeScaling | None = added_later(None)
    local_span: int | None = added_later(None)
    mlp: Literal["relu2", "swiglu"] = added_later("relu2")
    mlp_width: int | None = added_later(None)
    mlp_bias: bool = added_later(False)
    norm_eps: float | None = added_later(None)
    sandwich_norms: bool = added_later(False)
    loop_norm: bool = added_later(False)
    tied: bool = added_later(False)
    inserted: tuple[int, ...] = added_later(())

    def __post_init__(self) -> None:
        for field in ("d_model", "n_heads", "fast_heads", "key_dim", "value_dim", "mlp_ratio", "sleep_passes"):
            require_whole(field, getattr(self, field), 1, MAX_SIZE)
        require_whole("vocab_size", self.vocab_size, 2)
        require_whole("window", self.window, 2)
        if self.max_positions is not None:
            require_whole("max_positions", self.max_positions, 2)
        _real("fast_weight_lr", self.fast_weight_lr, 1e-6, 2.0, "a number in (0, 2]")
        _one_of("eviction", self.eviction, EVICTIONS)
        named = isinstance(self.mixers, tuple) and self.mixers and all(map(_names_mixer, self.mixers))
        require(bool(named), "mixers", self.mixers, f"a tuple of at least one of {', '.join(MIXERS)}, or module:Class")
        require(len(self.mixers) <= MAX_BLOCKS, "mixers", len(self.mixers), f"at most {MAX_BLOCKS} blocks")
        if {"jet", "jet_nemotron"} & {*self.mixers}:
            check_jet_window(self)
        if self.loop is not None:
            allowed = f"null or two block numbers, 0 <= start < end <= {len(self.mixers)}"
            pair = isinstance(self.loop, tuple) and len(self.loop) == 2 and all(type(i) is int for i in self.loop)
            require(pair and 0 <= self.loop[0] < self.loop[1] <= len(self.mixers), "loop", self.loop, allowed)
        self._check_options()

    def _check_options(self) -> None:
        """Raise ValueError where a field for pretrained models has no meaning."""
        if self.head_dim is None:
            even = self.d_model % (2 * self.n_heads) == 0
            require(even, "d_model", self.d_model, f"a multiple of 2 * n_heads = {2 * self.n_heads}")
        else:
            require_whole("head_dim", self.head_dim, 2, MAX_SIZE)
            require(self.head_dim % 2 == 0, "head_dim", self.head_dim, "even, as RoPE turns pairs")
        if self.kv_heads is not None:
            require_whole("kv_heads", self.kv_heads, 1, MAX_SIZE)
            shared = self.n_heads % self.kv_heads == 0
            require(shared, "kv_heads", self.kv_heads, f"a divisor of n_heads = {self.n_heads}")
        if self.mlp_width is not None:
            require_whole("mlp_width", self.mlp_width, 1, MAX_SIZE)
        if self.local_span is not None or "local_attention" in self.mixers:
            require_whole("local_span", self.local_span, 2)
        _one_of("attention_bias", self.attention_bias, BIASES)
        _one_of("qk_norm", self.qk_norm, QK_NORMS)
        _one_of("mlp", self.mlp, MLPS)
        for field in ("mlp_bias", "sandwich_norms", "loop_norm", "tied"):
            require(type(getattr(self, field)) is bool, field, getattr(self, field), "true or false")
        _real("rope_base", self.rope_base, 1.0, 1e12, "a number from 1 to 1e12")
        scaled = self.rope_scaling is None or isinstance(self.rope_scaling, RopeScaling)
        require(scaled, "rope_scaling", self.rope_scaling, "null or a RopeScaling")
        if self.norm_eps is not None:
            _real("norm_eps", self.norm_eps, 1e-30, 1.0, "a number from 1e-30 to 1, or null")
        blocks = range(len(self.mixers))
        known = isinstance(self.inserted, tuple) and all(type(i) is int and i in blocks for i in self.inserted)
        allowed = f"block numbers from 0 to {len(self.mixers) - 1}, ascending"
        require(known and list(self.inserted) == sorted(set(self.inserted)), "inserted", self.inserted, allowed)

    @property
    def head_size(self) -> int:
        """Size of an attention head."""
        return self.head_dim or self.d_model // self.n_heads

    @property
    def mlp_size(self) -> int:
        """Hidden width of the MLP."""
        return self.mlp_width or self.mlp_ratio * self.d_model

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON, without newer ones that have their defaults: fingerprints hash it."""
        shown = identifying_fields(self)
        return {name: value for name, value in asdict(self).items() if name in shown}

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`, also after JSON has made lists of tuples.

        Raises ValueError if a field is unknown, missing or invalid, or if `fields` is not a dict.
        """
        if not isinstance(fields, dict):
            raise ValueError(f"not a model config: {fields!r:.80} is no set of fields")
        try:
            loop, scaling = fields.get("loop"), fields.get("rope_scaling")
            typed = {
                "mixers": tuple(fields.get("mixers", cls.mixers)),
                "loop": None if loop is None else tuple(loop),
                "inserted": tuple(fields.get("inserted", ())),
                "rope_scaling": RopeScaling(**scaling) if isinstance(scaling, dict) else scaling,
            }
            return cls(**{**fields, **typed})
        except TypeError as error:
            raise ValueError(f"not a model config: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """Truncated backpropagation; None is no truncation.

    passes: K. Only the last K passes of each sleep are differentiated. The vectors that enter them are constants. A
        gradient of the fast weights goes unchanged through the earlier passes to the windows before (straight-through).
    windows: M. A loss is differentiated through M windows, its own included. If several windows in a row hold answers,
        their losses reach as far back as that of the first, M - 1 windows before which the states are detached.
    """

    passes: int | None = None
    windows: int | None = None

    def __post_init__(self) -> None:
        for field in ("passes", "windows"):
            if getattr(self, field) is not None:
                require_whole(field, getattr(self, field), 1)


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Training from easy rows to hard ones. The level of a row is the greatest depth of its answers (Rule 110: steps,
    Depo: hops, GSM: operations). With `threshold` or `steps_per_pass`, all rows of a batch have the same level.

    levels: ascending. A row's level is the first of these that is at least its depth. Depo's test rows ask only for
        powers of two, its training rows for every k: levels (1, 2, 4, 8, 16) fit both. (): each depth is a level.
    threshold: training begins with the lowest level. At each validation, the next level opens if the accuracy on the
        validation rows of the deepest open level has reached this value. None: all levels are open from the start.
    review: draw the level of each batch from all open levels, by seed and step. False: with a threshold, every batch
        has the deepest open level.
    steps_per_pass: r. Rows of level d are trained and evaluated with N = d / r passes, rounded up, so that N passes
        compute the state after N r steps. None: with the model's N.
    """

    levels: tuple[int, ...] = ()
    threshold: float | None = None
    review: bool = False
    steps_per_pass: int | None = None

    def __post_init__(self) -> None:
        require(isinstance(self.levels, tuple), "levels", self.levels, "a tuple of depths")
        for level in self.levels:
            require_whole("levels", level, 0)
        require(list(self.levels) == sorted(set(self.levels)), "levels", self.levels, "ascending, none twice")
        if self.threshold is not None:
            _real("threshold", self.threshold, 1e-9, 1.0, "a number in (0, 1], or null")
        if self.steps_per_pass is not None:
            require_whole("steps_per_pass", self.steps_per_pass, 1)
        require(type(self.review) is bool, "review", self.review, "true or false")

    @property
    def by_level(self) -> bool:
        """Whether the rows of a batch all have one level."""
        return self.threshold is not None or self.steps_per_pass is not None

    def level(self, depth: int) -> int:
        """The level of a row of this depth. Raises ValueError if the depth is above all `levels`."""
        found = next((level for level in self.levels or (depth,) if level >= depth), None)
        require(found is not None, "levels", self.levels, f"up to the depth of every row; one has {depth}")
        return cast(int, found)

    def passes(self, level: int) -> int | None:
        """N for rows of a level; None is the model's."""
        return None if self.steps_per_pass is None else max(1, -(-level // self.steps_per_pass))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything besides the model that determines the result of a training. Resources are in `Scale`.

    steps: optimiser steps; batch_size: rows in a step, over all workers.
    rows: train only on the first `rows` training rows, in epochs; None: on all rows.
    trained: "all" weights, or only those of the "inserted" blocks of a pretrained model. The others rest: they have no
        gradient and no optimiser state.
    optimizer: "muon" for the blocks' matrices and AdamW for everything else, or "adamw" for all. Muon's step costs
        matrix products of every matrix, which is much where few rows are read (docs/pretrained.md).
    muon_lr: learning rate of Muon; adam_lr: of AdamW.
    momentum: Muon's; weight_decay: decoupled, on both groups.
    warmup_steps: linear warm-up; decay_fraction: the last part of the run, in which the rate falls linearly to 0.
    grad_clip: the global gradient norm is clipped to this; 0: no clipping.
    skips: how many batches with a non-finite gradient a run may skip. A skipped batch changes neither the weights nor
        the optimiser, and multiplies the rates of all later steps by `backoff`. One more such batch, or a non-finite
        loss with a finite gradient, stops the run (NonFiniteError). The count is part of Progress, MLflow's curves and
        checkpoints.
    sleep_passes: draw the N of each batch from these, by seed and step, so that one model serves every N; (): the
        model's N.
    curriculum: from easy rows to hard ones. Its steps_per_pass excludes `sleep_passes`.
    truncation: how far the backward reaches.
    precision: "bfloat16" is autocast over float32 weights; the fast weights stay float32.
    seed: of the initial weights and of the order of rows.
    validate_every: steps between two validations. After each, a run reports and saves a checkpoint.
    """

    steps: int = 1000
    batch_size: int = 128
    rows: int | None = None
    trained: Literal["all", "inserted"] = added_later("all")
    optimizer: Literal["muon", "adamw"] = added_later("muon")
    muon_lr: float = 5e-3
    adam_lr: float = 2e-3
    momentum: float = 0.95
    weight_decay: float = 0.0
    warmup_steps: int = 50
    decay_fraction: float = 0.3
    grad_clip: float = 1.0
    skips: int = 0
    backoff: float = 0.5
    sleep_passes: tuple[int, ...] = ()
    curriculum: Curriculum = Curriculum()
    truncation: Truncation = Truncation()
    precision: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0
    validate_every: int = 100

    def __post_init__(self) -> None:
        for field in ("steps", "batch_size", "validate_every"):
            require_whole(field, getattr(self, field), 1)
        for field in ("warmup_steps", "skips"):
            require_whole(field, getattr(self, field), 0)
        require_whole("seed", self.seed, 0, MAX_SEED)
        if self.rows is not None:
            require_whole("rows", self.rows, self.batch_size)
        _passes("sleep_passes", self.sleep_passes)
        require(isinstance(self.truncation, Truncation), "truncation", self.truncation, "a Truncation")
        require(isinstance(self.curriculum, Curriculum), "curriculum", self.curriculum, "a Curriculum")
        both = bool(self.sleep_passes) and self.curriculum.steps_per_pass is not None
        require(not both, "sleep_passes", self.sleep_passes, "empty where curriculum.steps_per_pass sets N")
        for field in ("muon_lr", "adam_lr"):
            _real(field, getattr(self, field), 1e-9, 1.0, "a number from 1e-9 to 1")
        _real("momentum", self.momentum, 0.0, 0.9999, "a number from 0 to 0.9999")
        _real("weight_decay", self.weight_decay, 0.0, 10.0, "a number from 0 to 10")
        _real("decay_fraction", self.decay_fraction, 0.0, 1.0, "a number from 0 to 1")
        _real("grad_clip", self.grad_clip, 0.0, 1e6, "a number from 0 (no clipping) to 1e6")
        _real("backoff", self.backoff, 1e-3, 1.0, "a number from 0.001 to 1")
        for field, allowed in (("precision", PRECISIONS), ("optimizer", OPTIMIZERS), ("trained", TRAINED)):
            _one_of(field, getattr(self, field), allowed)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The resources of a run. They change how long it takes, but not what it computes (up to the order of sums).

    workers: data-parallel processes.
    cpus_per_worker: cores of each worker, and so torch's threads; None: a pipeline chooses what fits the cluster
        (pipelines/runtime/resources.py); without a pipeline it is 1.
    gpu: whether each worker has a GPU; None: if the cluster has any.
    zero_stage: what DeepSpeed partitions: optimiser state (1), also gradients (2), also weights (3).
    accumulation: micro-batches in a step.
    recompute: which activations the backward recomputes instead of keeping: "nothing", those of each "block", of each
        "pass", of each "window" with all its passes, or "both" (window by window, and within a window pass by pass: the
        least memory).
    compile: apply torch.compile to each block. It takes a minute at the start, and pays on GPUs with small kernels.
    wait_minutes: how long to wait for the resources of a training, as when a node was lost, until it is an error. A
        cluster that starts nodes on demand must be able to start them in this time.
    """

    workers: int = 1
    cpus_per_worker: int | None = None
    gpu: bool | None = None
    zero_stage: int = 0
    accumulation: int = 1
    recompute: Literal["nothing", "block", "pass", "window", "both"] = "nothing"
    compile: bool = False
    wait_minutes: int = 30

    def __post_init__(self) -> None:
        for field in ("workers", "accumulation", "wait_minutes"):
            require_whole(field, getattr(self, field), 1)
        if self.cpus_per_worker is not None:
            require_whole("cpus_per_worker", self.cpus_per_worker, 1)
        require(type(self.compile) is bool, "compile", self.compile, "true or false")
        require(self.gpu is None or type(self.gpu) is bool, "gpu", self.gpu, "true, false or null")
        require(self.zero_stage in (0, 1, 2, 3), "zero_stage", self.zero_stage, "0, 1, 2 or 3")
        _one_of("recompute", self.recompute, RECOMPUTE)

    @property
    def cores(self) -> int:
        """Cores of a worker; 1 if cpus_per_worker is None."""
        return self.cpus_per_worker or 1


def check_compatible(train: TrainConfig, scale: Scale) -> None:
    """Raise ValueError if the two configs, each valid, cannot be used together."""
    pieces = scale.workers * scale.accumulation
    allowed = f"a multiple of workers * accumulation = {pieces}"
    require(train.batch_size % pieces == 0, "batch_size", train.batch_size, allowed)
    # when DeepSpeed 0.19 partitions, it clips Muon's orthogonalised update instead of the gradient
    clips = scale.zero_stage > 0 and train.grad_clip > 0
    require(
        not clips, "grad_clip", train.grad_clip, f"0 with zero_stage = {scale.zero_stage}: DeepSpeed clips it wrongly"
    )
    late = scale.zero_stage > 0 and train.skips > 0
    allowed = f"0 with zero_stage = {scale.zero_stage}: DeepSpeed returns the gradient's norm only after applying it"
    require(not late, "skips", train.skips, allowed)


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search over N and eta.

    trials: number of trials; sleep_passes: the N to choose from; eta_low, eta_high: the range of eta, log-uniform;
    grace: every trial runs at least 1/grace of its steps; seed: of the search algorithm.
    """

    trials: int = 8
    sleep_passes: tuple[int, ...] = (1, 2, 4)
    eta_low: float = 0.25
    eta_high: float = 2.0
    grace: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        require_whole("trials", self.trials, 1)
        require_whole("grace", self.grace, 1)
        require_whole("seed", self.seed, 0, 2**32 - 1)  # NumPy's, as Optuna takes it
        _passes("sleep_passes", self.sleep_passes)
        require(len(self.sleep_passes) > 0, "sleep_passes", self.sleep_passes, "at least one number of passes")
        _real("eta_high", self.eta_high, 1e-6, 2.0, "a number in (0, 2]")
        _real("eta_low", self.eta_low, 1e-6, self.eta_high, f"a number in (0, eta_high = {self.eta_high}]")
