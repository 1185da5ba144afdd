"""The config of a model: its architecture."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from datagen.canonical import added_later, identifying_fields, make_floats
from datagen.checks import require, require_bool, require_one_of, require_real, require_whole
from datagen.user_code import is_path

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
EVICTIONS = ("hard", "sliding")
SLEEP_ON = ("prompts", "all")
CARRIES = ("hidden", "normalized", "token", "mixture")
BIASES = ("none", "qkv", "all")
QK_NORMS = ("unit", "learned", "none")
MLPS = ("relu2", "swiglu")
MAX_SIZE = 2**16  # of one dimension of a tensor, so that the product of a few fits in 64 bits
MAX_BLOCKS = 1024
MAX_KERNEL = 16
JET_KERNEL = 4  # width of the convolution of jet and jet_nemotron


def check_convolution(config: ModelConfig, source: str, width: int) -> None:
    """Raise ValueError if sliding eviction would keep inputs of a convolution over `width` tokens from before the
    window. source: what asks for it."""
    allowed = (
        f"at least {width - 1} where {source} meets sliding eviction, as its convolution takes in the {width - 1} "
        "tokens before each token"
    )
    require(config.eviction != "sliding" or config.window >= width - 1, "window", config.window, allowed)


def _names_mixer(name: object) -> bool:
    return isinstance(name, str) and (name in MIXERS or is_path(name))


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
        require_real("factor", self.factor, 1.0, 1e6, "a number from 1 to 1e6")
        require_real("low_freq_factor", self.low_freq_factor, 1e-6, 1e6, "a number from 1e-6 to 1e6")
        allowed = f"a number above low_freq_factor = {self.low_freq_factor}, at most 1e7"
        require_real("high_freq_factor", self.high_freq_factor, self.low_freq_factor, 1e7, allowed)
        require(self.high_freq_factor > self.low_freq_factor, "high_freq_factor", self.high_freq_factor, allowed)
        require_whole("original_positions", self.original_positions, 1)
        make_floats(self)


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
    sleep_on: the windows that training sleeps on. "prompts": those without answers (the paper). "all": also those with
        answers, which are first predicted awake, as a Session does; for language modelling.
    carry: what a pass of a sleep hands to the next, computed from h, the vectors after the last block of the loop.
        "hidden": h (the paper). "normalized": h over its RMS. "token": the embedding of the token that the readout of h
        finds most likely, with the gradient of "mixture" in place of its own (straight-through). "mixture": the mean of
        all embeddings, weighted by the readout's probabilities. The last two get the token's absolute position again,
        and enter where tokens do: the loop must begin at block 0.
    reads_first: the second pass begins with the window's tokens again, so that the first only writes fast weights. N
        passes then make N - 1 steps, and N = 1 none.
    pass_embed: tokens that enter a later pass, handed on or read again, get a learned vector. It tells them from tokens
        that are read for the first time, of which the fast weights may need something else.
    fast_weight_lr: eta in (0, 2]; the write strength is beta = eta * sigmoid(...).
    fast_heads, key_dim, value_dim: fast-weight heads H and the size K x V of each one's matrix.
    conv: width of the short convolutions on q, k and v of every mixer with fast weights, 2 to 16; Gated DeltaNet's own
        layers have 4. jet and jet_nemotron, which convolve v themselves, get those on q and k. None: there are none.
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
    sandwich_norms: RMS norms also after each mixer and MLP, before the residual is added (Ouro). Not for training from
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
    sleep_on: Literal["prompts", "all"] = added_later("prompts")
    fast_weight_lr: float = 1.0
    fast_heads: int = 4
    key_dim: int = 64
    value_dim: int = 64
    conv: int | None = added_later(None)
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
    carry: Literal["hidden", "normalized", "token", "mixture"] = added_later("hidden")
    reads_first: bool = added_later(False)
    pass_embed: bool = added_later(False)

    def __post_init__(self) -> None:
        for field in ("d_model", "n_heads", "fast_heads", "key_dim", "value_dim", "mlp_ratio", "sleep_passes"):
            require_whole(field, getattr(self, field), 1, MAX_SIZE)
        require_whole("vocab_size", self.vocab_size, 2)
        require_whole("window", self.window, 2)
        if self.max_positions is not None:
            require_whole("max_positions", self.max_positions, 2)
        require_real("fast_weight_lr", self.fast_weight_lr, 1e-6, 2.0, "a number in (0, 2]")
        require_one_of("eviction", self.eviction, EVICTIONS)
        require_one_of("sleep_on", self.sleep_on, SLEEP_ON)
        named = isinstance(self.mixers, tuple) and self.mixers and all(map(_names_mixer, self.mixers))
        require(bool(named), "mixers", self.mixers, f"a tuple of at least one of {', '.join(MIXERS)}, or module:Class")
        require(len(self.mixers) <= MAX_BLOCKS, "mixers", len(self.mixers), f"at most {MAX_BLOCKS} blocks")
        if {"jet", "jet_nemotron"} & {*self.mixers}:
            check_convolution(self, "jet", JET_KERNEL)
        if self.conv is not None:
            require_whole("conv", self.conv, 2, MAX_KERNEL)
            check_convolution(self, f"conv = {self.conv}", self.conv)
        if self.loop is not None:
            allowed = f"null or two block numbers, 0 <= start < end <= {len(self.mixers)}"
            pair = isinstance(self.loop, tuple) and len(self.loop) == 2 and all(type(i) is int for i in self.loop)
            require(pair and 0 <= self.loop[0] < self.loop[1] <= len(self.mixers), "loop", self.loop, allowed)
        self._check_carry()
        self._check_options()
        make_floats(self)

    def _check_carry(self) -> None:
        """Raise ValueError if a pass cannot begin with what `carry` and `reads_first` hand to it."""
        require_one_of("carry", self.carry, CARRIES)
        for field in ("reads_first", "pass_embed"):
            require_bool(field, getattr(self, field))
        if self.loop is not None and self.loop[0] > 0:
            why = f"where the loop begins at block {self.loop[0]}: tokens enter at block 0"
            require(self.carry not in ("token", "mixture"), "carry", self.carry, f"hidden or normalized {why}")
            require(not self.reads_first, "reads_first", self.reads_first, f"false {why}")
        again = self.reads_first or self.carry in ("token", "mixture")
        allowed = f"false with carry = {self.carry} and without reads_first: no tokens enter a later pass"
        require(again or not self.pass_embed, "pass_embed", self.pass_embed, allowed)
        normed = self.loop_norm and self.carry != "hidden"
        require(not normed, "loop_norm", self.loop_norm, f"false with carry = {self.carry}: the norm is of h")

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
        require_one_of("attention_bias", self.attention_bias, BIASES)
        require_one_of("qk_norm", self.qk_norm, QK_NORMS)
        require_one_of("mlp", self.mlp, MLPS)
        for field in ("mlp_bias", "sandwich_norms", "loop_norm", "tied"):
            require_bool(field, getattr(self, field))
        require_real("rope_base", self.rope_base, 1.0, 1e12, "a number from 1 to 1e12")
        scaled = self.rope_scaling is None or isinstance(self.rope_scaling, RopeScaling)
        require(scaled, "rope_scaling", self.rope_scaling, "null or a RopeScaling")
        if self.norm_eps is not None:
            require_real("norm_eps", self.norm_eps, 1e-30, 1.0, "a number from 1e-30 to 1, or null")
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
