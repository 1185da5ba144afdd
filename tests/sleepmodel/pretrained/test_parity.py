"""What is read computes what the model's own code computes: logits and every gradient. The oracles are transformers for
Llama and Qwen, and the models' published code, written out, for Ouro and Jet-Nemotron's block."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from sleepmodel import Session, SleepModel, from_pretrained
from sleepmodel.mixers.base import Span
from sleepmodel.pretrained.layout import tensor_names

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")

VOCABULARY, TOKENS = 101, 40
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
LLAMA_3 = {
    "rope_type": "llama3",
    "rope_theta": 100.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 5e4}}),
    "llama tied, with biases": ("Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama 3, other head size": ("Llama", {"rope_parameters": LLAMA_3, "head_dim": 12, "rms_norm_eps": 1e-5}),
    "llama without groups": ("Llama", {"num_key_value_heads": 6}),
    "qwen2": ("Qwen2", {}),
    "qwen2 tied, sliding": (
        "Qwen2",
        {"tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    ),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3 tied, with biases": ("Qwen3", {"head_dim": 8, "attention_bias": True, "tie_word_embeddings": True}),
}
every_case = pytest.mark.parametrize(("kind", "fields"), CASES.values(), ids=CASES)
# transformers computes RoPE's angles in float32, whatever the dtype; 2e-6 was measured
CLOSE = 1e-5


def oracle(kind: str, fields: dict[str, Any], directory: Path) -> Any:
    """A random model of transformers, float64, whose float32 form it has written to `directory`."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{kind}Config")(**{**SIZES, **fields}, attn_implementation="eager")
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.2)
            else:
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(directory)
    return model.double().eval()


def batch(rows: int = 2) -> tuple[Tensor, Tensor]:
    """Tokens, each of which but the first is an answer."""
    tokens = torch.randint(0, VOCABULARY, (rows, TOKENS), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 0] = False
    return tokens, mask


def relative(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).detach().norm() / expected.detach().norm())


@every_case
def test_logits_and_gradients_are_those_of_transformers(kind: str, fields: dict[str, Any], tmp_path: Path) -> None:
    theirs = oracle(kind, fields, tmp_path)
    ours = from_pretrained(tmp_path, window=64).double()
    tokens, mask = batch()
    out, logits = ours(tokens, mask), theirs(tokens).logits[:, :-1].flatten(0, 1)
    assert relative(out.logits, logits) < CLOSE
    out.loss.backward()
    F.cross_entropy(logits, tokens[mask]).backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    names = tensor_names([name for name, _ in ours.named_parameters()], [0, 1, 2])
    assert set(names.values()) == set(gradients)
    for name, parameter in ours.named_parameters():
        assert relative(parameter.grad, gradients[names[name]]) < CLOSE, name


@every_case
def test_greedy_text_of_a_session_is_that_of_transformers(kind: str, fields: dict[str, Any], tmp_path: Path) -> None:
    theirs, (tokens, _) = oracle(kind, fields, tmp_path), batch()
    session = Session(from_pretrained(tmp_path, window=64).double(), 2)
    session.read(tokens)
    told = theirs.generate(tokens, max_new_tokens=20, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(session.generate(20), told[:, TOKENS:])


@every_case
def test_inserted_layers_begin_as_the_identity(kind: str, fields: dict[str, Any], tmp_path: Path) -> None:
    """To the last bit, in the forward and in a session across borders, however they begin."""
    oracle(kind, fields, tmp_path)
    tokens, mask = batch()
    base = from_pretrained(tmp_path, window=16, sleep_passes=2, eviction="sliding")
    late = mask & (torch.arange(TOKENS) > 33)
    with torch.no_grad():
        logits, read = base(tokens, late).logits, Session(base, 2).read(tokens)
    for init in ("attention", "zero"):
        insert = {0: "jet", 1: "gated_delta", 2: "jet_nemotron"}
        grown = from_pretrained(tmp_path, 16, insert, init, sleep_passes=2, eviction="sliding", key_dim=8, value_dim=16)
        assert grown.config.inserted == (1, 3, 5) and len(grown.blocks) == 6
        with torch.no_grad():
            assert torch.equal(grown(tokens, late).logits, logits)
            assert torch.equal(Session(grown, 2).read(tokens), read)


# --- Ouro: its published code, written out


OURO = {
    "model_type": "ouro",
    "hidden_act": "silu",
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": None,
    "sliding_window": None,
    "use_sliding_window": False,
    "layer_types": ["full_attention", "full_attention"],
    "tie_word_embeddings": False,
    "total_ut_steps": 4,
    "early_exit_threshold": 1.0,
}
OURO_NORMS = ("input_layernorm", "input_layernorm_2", "post_attention_layernorm", "post_attention_layernorm_2")


def ouro_weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    width, hidden = OURO["hidden_size"], OURO["intermediate_size"]
    sizes = {"model.embed_tokens": (50, width), "lm_head": (50, width), "model.norm": (width,)}
    sizes |= {"model.early_exit_gate": (1, width)}
    for layer in ("model.layers.0", "model.layers.1"):
        sizes |= {f"{layer}.self_attn.{name}_proj": (width, width) for name in "qkvo"}
        sizes |= {f"{layer}.mlp.{name}_proj": (hidden, width) for name in ("gate", "up")}
        sizes |= {f"{layer}.mlp.down_proj": (width, hidden)}
        sizes |= {f"{layer}.{name}": (width,) for name in OURO_NORMS}
    return {f"{name}.weight": torch.randn(size) * 0.3 + (len(size) == 1) for name, size in sizes.items()}


def ouro_passes(weights: dict[str, Tensor], tokens: Tensor, passes: int) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Logits after the passes, and the keys (turned) and values of each layer in the last."""

    def norm(h: Tensor, name: str) -> Tensor:
        return weights[f"model.{name}.weight"] * (h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6))

    def heads(h: Tensor, name: str) -> Tensor:
        return (h @ weights[f"model.{name}.weight"].T).unflatten(-1, (4, 8)).transpose(1, 2)

    def turned(x: Tensor) -> Tensor:
        angles = torch.arange(tokens.shape[1])[:, None] * 1e6 ** -(torch.arange(0, 8, 2, dtype=x.dtype) / 8)
        both = torch.cat((angles, angles), -1)
        return x * both.cos() + torch.cat((-x[..., 4:], x[..., :4]), -1) * both.sin()

    h = weights["model.embed_tokens.weight"][tokens]
    for _ in range(passes):
        kept = []
        for layer in ("layers.0", "layers.1"):
            x = norm(h, f"{layer}.input_layernorm")
            q, k, v = (heads(x, f"{layer}.self_attn.{name}_proj") for name in "qkv")
            q, k = turned(q), turned(k)
            kept.append((k, v))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
            y = y @ weights[f"model.{layer}.self_attn.o_proj.weight"].T
            h = h + norm(y, f"{layer}.input_layernorm_2")
            x = norm(h, f"{layer}.post_attention_layernorm")
            gate, up, down = (weights[f"model.{layer}.mlp.{name}_proj.weight"] for name in ("gate", "up", "down"))
            y = (F.silu(x @ gate.T) * (x @ up.T)) @ down.T
            h = h + norm(y, f"{layer}.post_attention_layernorm_2")
        h = norm(h, "norm")
    return h @ weights["lm_head.weight"].T, kept


@pytest.fixture
def ouro(tmp_path: Path) -> tuple[Path, dict[str, Tensor]]:
    weights = ouro_weights()
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt", "by": "another tool"})
    (tmp_path / "config.json").write_text(json.dumps(OURO))
    return tmp_path, {name: weight.double().requires_grad_() for name, weight in weights.items()}


@pytest.mark.parametrize("passes", [1, 2, 4])
def test_passes_of_a_sleep_are_those_of_ouro(ouro: tuple[Path, dict[str, Tensor]], passes: int) -> None:
    """A sleep's last pass leaves the keys and values of Ouro's last, and its gradients; one more pass answers."""
    directory, weights = ouro
    model = from_pretrained(directory, window=64, eviction="sliding", sleep_passes=passes).double()
    tokens, span = batch()[0] % 50, Span.whole(TOKENS, torch.device("cpu"))
    h = model.embedded(tokens, span)
    logits, kept = ouro_passes(weights, tokens, passes)
    slept, _ = model._run_passes(model.sleep_schedule(passes), h, model.initial_states(2), span)
    for (k, v), state in zip(kept, slept, strict=True):
        torch.testing.assert_close((state.k, state.v), (k, v), rtol=1e-9, atol=1e-10)
    cotangents = [(torch.randn_like(k), torch.randn_like(v)) for k, v in kept]
    ours = sum((s.k * a + s.v * b).sum() for s, (a, b) in zip(slept, cotangents, strict=True))
    theirs = sum((k * a + v * b).sum() for (k, v), (a, b) in zip(kept, cotangents, strict=True))
    parameters = dict(model.named_parameters())
    names = tensor_names(list(parameters), [0, 1])
    got = torch.autograd.grad(ours, list(parameters.values()), allow_unused=True, materialize_grads=True)
    wanted = [weights[names[name]] for name in parameters]
    expected = torch.autograd.grad(theirs, wanted, allow_unused=True, materialize_grads=True)
    for name, g, e in zip(parameters, got, expected, strict=True):
        torch.testing.assert_close(g, e, rtol=1e-7, atol=1e-9, msg=name)
    if passes == 1:  # Ouro with one pass answers as we do
        tokens, mask = tokens, batch()[1]
        out = model(tokens, mask)
        torch.testing.assert_close(out.logits, logits[:, :-1].flatten(0, 1), rtol=1e-9, atol=1e-10)


# --- Jet-Nemotron's block: its published code with implementation="naive", written out, its rule from transformers


JET_NEMOTRON = {
    "model_type": "jet_nemotron",
    "hidden_act": "silu",
    "vocab_size": 50,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
    "use_mrope": False,
    "layer_types": ["jet", "attn", "swa"],
    "efficient_attention_config": {
        "jet": {
            "conv_size": 4,
            "dconv_generator_reduction": 8,
            "dconv_implementation": "triton",
            "expand_v": 2.5,
            "head_dim": 16,
            "mode": "chunk",
            "norm_eps": "1e-5",
            "num_heads": 3,
        },
        "swa": {"window_size": 9},
    },
}


def jet_nemotron_weights() -> dict[str, Tensor]:
    torch.manual_seed(0)
    width, keys, values = 48, 3 * 16, 3 * 40
    jet = {"q_proj": (keys, width), "k_proj": (keys, width), "v_proj": (values, width), "g_proj": (values, width)}
    jet |= {"o_proj": (width, values), "b_proj": (3, width), "a_proj": (3, width), "o_norm": (40,)}
    generator = "dynamic_conv1d.kernel_generator"
    jet |= {f"{generator}.w1": (values // 8, width), f"{generator}.w2": (values * 4, values // 8)}
    attention = {"q_proj": (48, width), "k_proj": (16, width), "v_proj": (16, width), "o_proj": (width, 48)}
    sizes = {"model.embed_tokens.weight": (50, width), "model.norm.weight": (width,)}
    for layer in range(3):
        place = f"model.layers.{layer}"
        mixer = jet if layer == 0 else attention
        sizes |= {f"{place}.self_attn.{name}.weight": size for name, size in mixer.items()}
        if layer == 0:
            sizes |= {f"{place}.self_attn.{name}": (3,) for name in ("A_log", "dt_bias")}
            sizes |= {f"{place}.self_attn.{generator}.w2.bias": (values * 4,)}
        else:
            sizes |= {f"{place}.self_attn.{name}_proj.bias": (attention[f"{name}_proj"][0],) for name in "qkv"}
        sizes |= {f"{place}.mlp.{name}_proj.weight": (64, width) for name in ("gate", "up")}
        sizes |= {f"{place}.mlp.down_proj.weight": (width, 64)}
        sizes |= {f"{place}.{name}.weight": (width,) for name in ("input_layernorm", "post_attention_layernorm")}
    return {name: torch.randn(size) * 0.3 + ("norm" in name) for name, size in sizes.items()}


def jet_block(p: dict[str, Tensor], x: Tensor) -> Tensor:
    from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

    rows, tokens, _ = x.shape
    q, k = (F.silu(x @ p[f"{name}_proj.weight"].T).view(rows, tokens, 3, 16) for name in "qk")
    kernel = F.silu(x @ p["dynamic_conv1d.kernel_generator.w1.weight"].T)
    kernel = kernel @ p["dynamic_conv1d.kernel_generator.w2.weight"].T + p["dynamic_conv1d.kernel_generator.w2.bias"]
    v = F.pad((x @ p["v_proj.weight"].T).transpose(1, 2), (3, 0)).unfold(2, 4, 1).permute(0, 2, 1, 3)
    v = F.silu((v * kernel.view(rows, tokens, 120, 4)).sum(-1)).view(rows, tokens, 3, 40)
    beta = (x @ p["b_proj.weight"].T).sigmoid()
    g = -p["A_log"].exp() * F.softplus(x @ p["a_proj.weight"].T + p["dt_bias"])
    o, _ = torch_chunk_gated_delta_rule(
        q, k, v, g=g, beta=beta, initial_state=None, output_final_state=True, use_qk_l2norm_in_kernel=True
    )
    o = o * torch.rsqrt(o.pow(2).mean(-1, keepdim=True) + 1e-5) * p["o_norm.weight"]
    o = o * F.silu((x @ p["g_proj.weight"].T).view(rows, tokens, 3, 40))
    return o.flatten(2) @ p["o_proj.weight"].T


@pytest.fixture
def jet_nemotron(tmp_path: Path) -> tuple[SleepModel, dict[str, Tensor]]:
    weights = jet_nemotron_weights()
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(JET_NEMOTRON))
    return from_pretrained(tmp_path, window=64), weights


def test_jet_nemotrons_block_is_its_published_code(jet_nemotron: tuple[SleepModel, dict[str, Tensor]]) -> None:
    model, weights = jet_nemotron
    place, mixer = "model.layers.0.self_attn.", model.stack[0].mixer
    theirs = {name.removeprefix(place): weight.requires_grad_() for name, weight in weights.items() if place in name}
    x = torch.randn(2, 37, 48)
    expected = jet_block(theirs, x)
    got, _ = mixer(x, mixer.initial_state(2), Span.whole(37, x.device))
    assert relative(got, expected) < 1e-5  # transformers' rule is float32
    cotangent = torch.randn_like(expected)
    parameters = dict(model.named_parameters())
    names = tensor_names(list(parameters), [0, 1, 2])
    mine = {name: parameter for name, parameter in parameters.items() if name.startswith("blocks.0.mixer.")}
    gradients = torch.autograd.grad((got * cotangent).sum(), list(mine.values()))
    others = torch.autograd.grad(
        (expected * cotangent).sum(), [theirs[names[name].removeprefix(place)] for name in mine]
    )
    assert len(theirs) == len(mine)
    for name, g, e in zip(mine, gradients, others, strict=True):
        assert relative(g, e) < 2e-5, name


def test_jet_nemotron_has_qwen2s_other_layers(jet_nemotron: tuple[SleepModel, dict[str, Tensor]]) -> None:
    """The layers of attention, one of them over 9 tokens, are those of a Qwen2 with these weights."""
    model, weights = jet_nemotron
    sizes = {name: value for name, value in JET_NEMOTRON.items() if name in SIZES}
    layers = {"use_sliding_window": True, "sliding_window": 9, "layer_types": ["full_attention", "sliding_attention"]}
    fields = {**sizes, **layers, "num_hidden_layers": 2, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}
    qwen = transformers.Qwen2Model(transformers.Qwen2Config(**fields, attn_implementation="eager"))
    moved = {
        name.replace("layers.1", "layers.0").replace("layers.2", "layers.1"): weight
        for name, weight in weights.items()
        if "layers.0" not in name
    }
    qwen.load_state_dict({name.removeprefix("model."): weight for name, weight in moved.items()})
    x, span = torch.randn(2, 30, 48), Span.whole(30, torch.device("cpu"))
    h, states = x, model.initial_states(2)
    for block, state in list(zip(model.stack, states, strict=True))[1:]:
        h, _ = block(h, state, span)
    assert model.config.mixers == ("jet_nemotron", "attention", "local_attention")
    assert relative(model.norm(h), qwen.eval()(inputs_embeds=x).last_hidden_state) < CLOSE
