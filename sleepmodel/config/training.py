"""Configs of how a model is trained: TrainConfig with its parts, the resources (Scale) and a search."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

from datagen.canonical import added_later, make_floats
from datagen.checks import require, require_bool, require_one_of, require_real, require_whole
from sleepmodel.config.model import MAX_SIZE

RECOMPUTE = ("nothing", "block", "pass", "window", "both")
OPTIMIZERS = ("muon", "adamw")
Recompute = Literal["nothing", "block", "pass", "window", "both"]
CUDA_GRAPHS = ("auto", "on", "off", "step")
CudaGraphs = Literal["auto", "on", "off", "step"]
TRAINED = ("all", "inserted")
BFLOAT16_WEIGHTS = "bfloat16_weights"
AUTO = "auto"
PRECISIONS = ("float32", "bfloat16", BFLOAT16_WEIGHTS, AUTO)
MAX_SEED = 2**63 - 1


def _passes(field: str, values: object) -> None:
    require(isinstance(values, tuple), field, values, "a tuple of numbers of passes")
    for passes in values:  # type: ignore[attr-defined]
        require_whole(field, passes, 1, MAX_SIZE)


@dataclass(frozen=True, kw_only=True)
class Truncation:
    """Truncated backpropagation; None is no truncation.

    passes: K. Only the last K passes of each sleep are differentiated. The vectors that enter them are constants. A
        gradient of the fast weights goes unchanged through the earlier passes to the windows before (straight-through).
    windows: M. A loss is differentiated through M windows, its own included. If several windows in a row hold answers,
        their losses reach as far back as that of the first, M - 1 windows before which the states are detached.
    every: J, for sleeps whose passes have losses of their own (traces). A sleep is cut into pieces of J passes, from
        its first pass on, and a loss reaches back to the start of its piece. At each cut, vectors and fast weights are
        treated as where the last K passes begin. Traces exclude `passes`, as earlier passes would learn nothing.

    With `sleep_on = "all"`, the waking pass of a window is differentiated for its own loss whatever K is; as the first
    pass of the window's sleep it counts for later losses like any other pass. The row is cut into pieces of M windows,
    the first of which begins as above, as long as windows hold answers: a loss reaches back to the start of its piece.
    Windows with traces are cut into pieces in the same way.
    """

    passes: int | None = None
    windows: int | None = None
    every: int | None = added_later(None)

    def __post_init__(self) -> None:
        for field in ("passes", "windows", "every"):
            if getattr(self, field) is not None:
                require_whole(field, getattr(self, field), 1)


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """Training from easy rows to hard ones. The level of a row is the greatest depth of its answers (Rule 110: steps,
    Depo: hops, GSM: operations, Recall: windows). With `threshold` or `steps_per_pass`, all rows of a batch have the
    same level.

    levels: ascending. A row's level is the first of these that is at least its depth. Depo's test rows ask only for
        powers of two, its training rows for every k: levels (1, 2, 4, 8, 16) fit both. (): each depth is a level.
    threshold: training begins with the lowest level. At each validation, the next level opens if the accuracy on the
        validation rows of the deepest open level has reached this value. None: all levels are open from the start.
    review: draw the level of each batch from all open levels, by seed and step. False: with a threshold, every batch
        has the deepest open level.
    front: with `review`, the share of batches that have the deepest open level all the same, drawn by seed and step.
    steps_per_pass: r. Rows of level d are trained and evaluated with N = d / r passes, rounded up, so that N passes
        compute the state after N r steps; with one pass more if the model's first pass only reads (`reads_first`).
        None: with the model's N.
    """

    levels: tuple[int, ...] = ()
    threshold: float | None = None
    review: bool = False
    steps_per_pass: int | None = None
    front: float = added_later(0.0)

    def __post_init__(self) -> None:
        require(isinstance(self.levels, tuple), "levels", self.levels, "a tuple of depths")
        for level in self.levels:
            require_whole("levels", level, 0)
        require(list(self.levels) == sorted(set(self.levels)), "levels", self.levels, "ascending, none twice")
        if self.threshold is not None:
            require_real("threshold", self.threshold, 1e-9, 1.0, "a number in (0, 1], or null")
        if self.steps_per_pass is not None:
            require_whole("steps_per_pass", self.steps_per_pass, 1)
        require_bool("review", self.review)
        require_real("front", self.front, 0.0, 1.0, "a number from 0 to 1")
        require(self.front == 0 or self.review, "front", self.front, "0 without review")
        make_floats(self)

    @property
    def by_level(self) -> bool:
        """Whether the rows of a batch all have one level."""
        return self.threshold is not None or self.steps_per_pass is not None

    def level(self, depth: int) -> int:
        """The level of a row of this depth. Raises ValueError if the depth is above all `levels`."""
        found = next((level for level in self.levels or (depth,) if level >= depth), None)
        require(found is not None, "levels", self.levels, f"up to the depth of every row; one has {depth}")
        return cast(int, found)

    def passes(self, level: int, reads_first: bool) -> int | None:
        """N for rows of a level; None is the model's. reads_first: as in ModelConfig."""
        return None if self.steps_per_pass is None else max(1, -(-level // self.steps_per_pass) + reads_first)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything besides the model that determines the result of a training. Resources are in `Scale`.

    steps: optimiser steps; 0: the model stays what it begins as. batch_size: rows in a step, over all workers.
    rows: train only on the first `rows` training rows, in epochs; None: on all rows.
    trained: "all" weights, or only those of the "inserted" blocks of a pretrained model, and `pass_embed`. The others
        rest: they have no gradient and no optimiser state.
    optimizer: "muon" for the blocks' matrices and AdamW for everything else, or "adamw" for all. Muon's step costs
        matrix products of every matrix, which is much where few rows are read (docs/pretrained.md).
    muon_lr: learning rate of Muon; adam_lr: of AdamW.
    momentum: Muon's; weight_decay: decoupled, on both groups.
    warmup_steps: linear warm-up; decay_fraction: the last part of the run, in which the rate falls linearly to 0.
    grad_clip: the global gradient norm is clipped to this; 0: no clipping.
    skips: how many batches with a non-finite gradient a run may skip. A skipped batch changes neither the weights nor
        the optimiser, and multiplies the rates of all later steps by `backoff`. One more such batch, or a non-finite
        loss with a finite gradient, stops the run (NonFiniteError). The count is part of Progress, MLflow's curves and
        checkpoints. Above 0, a GPU's host waits for each step, as the next one depends on its gradient.
    sleep_passes: draw the N of each batch from these, by seed and step, so that one model serves every N; (): the
        model's N.
    curriculum: from easy rows to hard ones. Its steps_per_pass excludes `sleep_passes`.
    truncation: how far the backward reaches.
    trace_weight: of the loss of the traces, the mean over their labels, which is added to that of the answers. 0: no
        such loss (the paper). Above 0, the training rows must have traces (see datagen.Rows).
    precision: "bfloat16" is autocast over float32 weights. "bfloat16_weights" keeps weights, activations and gradients
        in bfloat16, and for what is trained also float32 weights, which the optimiser updates and which become the
        model; DeepSpeed does it, so LocalEngine refuses it. The fast weights and the optimiser's state stay float32.
        "auto" stands for the faster of the first two; a pipeline replaces it before anything depends on it.
    bucket_tokens: divide a window into buckets of so many tokens, and make batches of rows that end in the same bucket,
        and sleep and predict in the same windows, except for a few batches of left-over rows. An epoch has the same
        rows as without. None: batches have rows of any length. Excludes traces.
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
    precision: Literal["float32", "bfloat16", "bfloat16_weights", "auto"] = "float32"
    seed: int = 0
    validate_every: int = 100
    trace_weight: float = added_later(0.0)
    bucket_tokens: int | None = added_later(None)

    def __post_init__(self) -> None:
        for field in ("batch_size", "validate_every"):
            require_whole(field, getattr(self, field), 1)
        for field in ("steps", "warmup_steps", "skips"):
            require_whole(field, getattr(self, field), 0)
        require_whole("seed", self.seed, 0, MAX_SEED)
        if self.rows is not None:
            require_whole("rows", self.rows, self.batch_size)
        if self.bucket_tokens is not None:
            require_whole("bucket_tokens", self.bucket_tokens, 1, MAX_SIZE)
            traced = self.trace_weight > 0
            require(not traced, "bucket_tokens", self.bucket_tokens, "null with trace_weight > 0")
        _passes("sleep_passes", self.sleep_passes)
        require(isinstance(self.truncation, Truncation), "truncation", self.truncation, "a Truncation")
        require(isinstance(self.curriculum, Curriculum), "curriculum", self.curriculum, "a Curriculum")
        both = bool(self.sleep_passes) and self.curriculum.steps_per_pass is not None
        require(not both, "sleep_passes", self.sleep_passes, "empty where curriculum.steps_per_pass sets N")
        for field in ("muon_lr", "adam_lr"):
            require_real(field, getattr(self, field), 1e-9, 1.0, "a number from 1e-9 to 1")
        require_real("momentum", self.momentum, 0.0, 0.9999, "a number from 0 to 0.9999")
        require_real("weight_decay", self.weight_decay, 0.0, 10.0, "a number from 0 to 10")
        require_real("decay_fraction", self.decay_fraction, 0.0, 1.0, "a number from 0 to 1")
        require_real("grad_clip", self.grad_clip, 0.0, 1e6, "a number from 0 (no clipping) to 1e6")
        require_real("trace_weight", self.trace_weight, 0.0, 1e6, "a number from 0 to 1e6")
        require_real("backoff", self.backoff, 1e-3, 1.0, "a number from 0.001 to 1")
        for field, allowed in (("precision", PRECISIONS), ("optimizer", OPTIMIZERS), ("trained", TRAINED)):
            require_one_of(field, getattr(self, field), allowed)
        make_floats(self)


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
    cuda_graphs: replay the forward and backward of a batch as one launch ("on"). It is what makes small models fast on
        a GPU. "auto": where it is possible; `no_cuda_graphs` says where it is not. "step": as "on", and without
        DeepSpeed also the optimiser's step, clipping included. It has not run on a GPU, so "auto" leaves it out.
    wait_minutes: how long to wait for the resources of a training or of a task, as when a node was lost, until it is
        an error. A cluster that starts nodes on demand must be able to start them in this time.
    """

    workers: int = 1
    cpus_per_worker: int | None = None
    gpu: bool | None = None
    zero_stage: int = 0
    accumulation: int = 1
    recompute: Recompute = "nothing"
    compile: bool = False
    cuda_graphs: CudaGraphs = "auto"
    wait_minutes: int = 30

    def __post_init__(self) -> None:
        for field in ("workers", "accumulation", "wait_minutes"):
            require_whole(field, getattr(self, field), 1)
        if self.cpus_per_worker is not None:
            require_whole("cpus_per_worker", self.cpus_per_worker, 1)
        require_bool("compile", self.compile)
        require(self.gpu is None or type(self.gpu) is bool, "gpu", self.gpu, "true, false or null")
        require_whole("zero_stage", self.zero_stage, 0, 3)
        require_one_of("recompute", self.recompute, RECOMPUTE)
        require_one_of("cuda_graphs", self.cuda_graphs, CUDA_GRAPHS)
        reason = self.no_cuda_graphs
        wanted = self.cuda_graphs in ("on", "step")
        require(not wanted or reason is None, "cuda_graphs", self.cuda_graphs, f"auto or off: {reason}")

    @property
    def worker_in_words(self) -> str:
        """The resources of one worker."""
        return f"{self.cores} core{'s' * (self.cores > 1)}{' and a GPU' if self.gpu else ''}"

    @property
    def no_cuda_graphs(self) -> str | None:
        """Why this run cannot replay CUDA graphs; None if it can, on a GPU."""
        if self.gpu is False:
            return "only a GPU has CUDA graphs, and gpu = false"
        if self.zero_stage > 0:
            return f"with zero_stage = {self.zero_stage} DeepSpeed moves gradients while the backward runs"
        if self.accumulation > 1:
            return "with accumulation > 1 a replay would overwrite the gradients to which it should add"
        if self.recompute != "nothing":
            return f"with recompute = {self.recompute} the backward runs the forward again"
        return None

    @property
    def cuda_graphs_in_words(self) -> str:
        """What `cuda_graphs` comes to on a GPU."""
        if self.cuda_graphs == "off" or self.no_cuda_graphs is not None:
            return f"off, {self.no_cuda_graphs or 'as scale.cuda_graphs says'}"
        replayed = "replayed for each batch whose shape has come before"
        if self.cuda_graphs == "step":
            return f"{replayed}; the optimiser's step too, except under DeepSpeed, whose optimiser makes its own step"
        return replayed

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
    captured = scale.cuda_graphs == "step" and train.skips > 0
    allowed = f"auto, on or off with skips = {train.skips}, for which the host reads the norm of each gradient"
    require(not captured, "cuda_graphs", scale.cuda_graphs, allowed)
    # DeepSpeed 0.19 sets the new momentum aside until it knows the norm, but not with stage 3
    kept = scale.zero_stage < 3 or train.optimizer != "muon" or train.skips == 0
    allowed = "0 with zero_stage = 3 and muon, whose momentum DeepSpeed changes before it leaves a batch out"
    require(kept, "skips", train.skips, f"{allowed}: use zero_stage = 2, or optimizer = adamw")
    rounded = scale.zero_stage > 0 and train.optimizer == "muon" and train.precision == BFLOAT16_WEIGHTS
    allowed = (
        f"adamw with precision = {BFLOAT16_WEIGHTS} and zero_stage = {scale.zero_stage}, or zero_stage = 0: when "
        "DeepSpeed partitions, it keeps Muon's momentum in bfloat16"
    )
    require(not rounded, "optimizer", train.optimizer, allowed)


def check_equal_blocks(scale: Scale, ragged: bool) -> None:
    """Raise ValueError where ZeRO stage 3 would deadlock: it needs every worker to run the same blocks, and rows of
    unequal length do not. ragged: whether rows have unequal lengths."""
    allowed = "at most 2 with several workers and rows of unequal length"
    require(scale.zero_stage < 3 or scale.workers == 1 or not ragged, "zero_stage", scale.zero_stage, allowed)


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
        require_whole("grace", self.grace, 1)
        require_whole("seed", self.seed, 0, 2**32 - 1)  # NumPy's, as Optuna takes it
        _passes("sleep_passes", self.sleep_passes)
        distinct = len(set(self.sleep_passes)) == len(self.sleep_passes) > 0
        require(distinct, "sleep_passes", self.sleep_passes, "at least one number of passes, all different")
        require_whole("trials", self.trials, len(self.sleep_passes))  # the first ones are one for each N
        require_real("eta_high", self.eta_high, 1e-6, 2.0, "a number in (0, 2]")
        require_real("eta_low", self.eta_low, 1e-6, self.eta_high, f"a number in (0, eta_high = {self.eta_high}]")
        make_floats(self)
