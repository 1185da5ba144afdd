"""Directories of Hugging Face's layout: what is read, what is written, and what is refused, by name and before work."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sleepmodel import ModelConfig, SleepModel, from_pretrained, load, save, save_pretrained
from sleepmodel.accounting import fingerprint, n_params
from sleepmodel.mixers.base import Mixer
from sleepmodel.serialization import tensors as safetensors_files
from sleepmodel.training.optim import split_parameters
from tests.sleepmodel.pretrained.test_parity import CASES, JET_NEMOTRON, OURO, batch, every_case, oracle

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")


class Still(Mixer):
    """A mixer with nothing to copy attention to."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    """A directory that transformers wrote."""
    oracle("Llama", {"tie_word_embeddings": True}, tmp_path / "llama")
    return tmp_path / "llama"


def change(directory: Path, **fields: Any) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, **fields}))


def logits(model: SleepModel) -> Tensor:
    """In the last window of 16, after two sleeps."""
    tokens, mask = batch()
    mask[:, :33] = False
    with torch.no_grad():
        return model(tokens, mask).logits


@every_case
@pytest.mark.parametrize("shard_bytes", [10**9, 20_000])
def test_what_is_written_transformers_reads_back(
    kind: str, fields: dict[str, Any], shard_bytes: int, tmp_path: Path
) -> None:
    """Whole or in shards, and so do we; tied weights are in the files once."""
    oracle(kind, fields, tmp_path / "given")
    model = from_pretrained(tmp_path / "given", window=64)
    save_pretrained(model, tmp_path / "written", shard_bytes)
    files = sorted(file.name for file in (tmp_path / "written").glob("*.safetensors"))
    assert (len(files) > 3) == (shard_bytes == 20_000) and len(files) != 2
    tensors = {name: weight for file in files for name, weight in load_file(tmp_path / "written" / file).items()}
    assert sum(weight.numel() for weight in tensors.values()) == n_params(model)
    assert model.config.tied == ("lm_head.weight" not in tensors)
    theirs, report = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "written", attn_implementation="eager", output_loading_info=True
    )
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    given = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "given", attn_implementation="eager")
    with torch.no_grad():
        assert torch.equal(theirs(batch()[0]).logits, given(batch()[0]).logits)
    again = from_pretrained(tmp_path / "written", window=64)
    assert again.config == model.config and fingerprint(again) == fingerprint(model)


def test_shards_that_transformers_wrote_are_read(tmp_path: Path) -> None:
    theirs = oracle("Llama", {}, tmp_path / "whole")
    theirs.float().save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 3
    whole, shards = (from_pretrained(tmp_path / name, window=64) for name in ("whole", "shards"))
    assert fingerprint(whole) == fingerprint(shards)


def test_a_grown_model_is_saved_and_loaded_as_any_other(llama: Path, tmp_path: Path) -> None:
    """Its tied weights are counted, saved and trained once."""
    base = from_pretrained(llama, window=16)
    model = from_pretrained(llama, 16, {0: "jet", 2: "jet"}, sleep_passes=2, loop=(1, 4), fast_heads=2, conv=4)
    assert model.config.mixers == ("attention", "jet", "attention", "attention", "jet")
    new = sum(p.numel() for i in (1, 4) for p in model.blocks[i].parameters())
    assert n_params(model) == n_params(base) + new
    torch.nn.init.normal_(model.blocks[1].mixer.out.weight)
    save(model, tmp_path / "ours")
    again = load(tmp_path / "ours")
    assert again.config == model.config and fingerprint(again) == fingerprint(model)
    assert torch.equal(logits(again), logits(model)) and not torch.equal(logits(model), logits(base))
    assert "lm_head.weight" not in load_file(tmp_path / "ours" / "model.safetensors")
    muon, adam = split_parameters(model)
    assert len(muon) + len(adam) == len(list(model.parameters()))
    assert not any(parameter is model.embed.weight for parameter in muon)


def test_tokens_of_later_passes_begin_unmarked(llama: Path, tmp_path: Path) -> None:
    model = from_pretrained(llama, 16, {0: "jet"}, carry="token", pass_embed=True)
    assert not model.pass_embed.any()
    torch.nn.init.normal_(model.pass_embed)
    save(model, tmp_path / "ours")
    assert torch.equal(load(tmp_path / "ours").pass_embed, model.pass_embed)


def test_half_precision_and_tied_weights_that_are_stored_twice_are_read(llama: Path) -> None:
    tensors = load_file(llama / "model.safetensors")
    tensors = {name: weight.bfloat16() for name, weight in tensors.items()}
    expected = {name: weight.float() for name, weight in tensors.items()}
    twice = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    save_file(twice, llama / "model.safetensors")
    model = from_pretrained(llama, window=16)
    assert torch.equal(model.embed.weight, expected["model.embed_tokens.weight"]) and model.lm_head is None
    save_file({**twice, "lm_head.weight": twice["lm_head.weight"] * 2}, llama / "model.safetensors")
    with pytest.raises(
        ValueError, match=r"lm_head.weight is not model.embed_tokens.weight, but .* tie_word_embeddings"
    ):
        from_pretrained(llama, window=16)


def test_new_layers_begin_with_the_next_attention(llama: Path) -> None:
    """Also behind the last layer; head by head, as many rows as both have, keys and values repeated."""
    torch.manual_seed(0)
    sizes = {"fast_heads": 7, "key_dim": 10, "value_dim": 5}  # the base: 6 heads of 8, keys and values of 2
    model = from_pretrained(llama, 16, {0: "jet", 2: "gated_delta"}, "attention", **sizes)
    for number, source in ((1, 2), (4, 3)):
        new, old = model.stack[number], model.stack[source]
        assert torch.equal(new.mixer_norm.weight, old.mixer_norm.weight) and new.mlp is None
        assert not new.mixer.out.weight.any()
        for head in range(7):
            query, key = head % 6, head % 6 // 3
            for name, size, rows, theirs in (("q", 10, 8, query), ("k", 10, 8, key), ("v", 5, 5, key)):
                mine = getattr(new.mixer, name).weight.view(7, size, -1)[head]
                copied = getattr(old.mixer, name).weight.view(-1, 8, 48)[theirs]
                assert torch.equal(mine[:rows], copied[:rows])
                assert (mine[rows:].abs() < 48**-0.5).all()  # as random as before
    attention = from_pretrained(llama, 16, {0: "attention"})
    for name in ("mixer_norm", "mixer.q", "mixer.k", "mixer.v"):
        new, old = (attention.stack[number].get_submodule(name) for number in (1, 2))
        assert torch.equal(new.weight, old.weight)  # type: ignore[arg-type]
    assert not attention.stack[1].mixer.out.weight.any() and attention.stack[1].mlp is None
    zero = from_pretrained(llama, 16, {0: "jet"}, "zero")
    assert not torch.equal(zero.stack[1].mixer_norm.weight, zero.stack[2].mixer_norm.weight)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "mistral"}, "model_type = 'mistral': must be one of llama, qwen2, qwen3, ouro, jet_nemotron"),
        ({"model_type": "qwen3_moe"}, "model_type = 'qwen3_moe': must be one of"),
        ({"num_local_experts": 8}, "num_local_experts = 8: is not known here and may change what a llama"),
        ({"quantization_config": {"bits": 4}}, "quantization_config = {'bits': 4}: is not known"),
        ({"attention_dropout": 0.1}, r"attention_dropout = 0.1: is not known"),
        ({"use_sliding_window": True}, "use_sliding_window = True: is not known"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu': must be silu"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type = 'yarn': must be default or llama3"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": None}, "rope_type = 'linear'"),
        (
            {"rope_parameters": {"rope_type": "default", "factor": 2.0}},
            "factor has no meaning for rope_type = 'default'",
        ),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_scaling: not that of Llama 3"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, r"partial_rotary_factor = 0.5: must be 1"),
        ({"num_hidden_layers": 2.5}, r"num_hidden_layers = 2.5: must be an integer"),
        ({"head_dim": 7}, "head_dim = 7: must be even"),
        ({"num_key_value_heads": 4}, "kv_heads = 4: must be a divisor of n_heads = 6"),
        ({"rms_norm_eps": "small"}, "norm_eps = 'small'"),
        ({"rms_norm_eps": None}, "rms_norm_eps = None: must be stated"),
        ({"vocab_size": None}, "vocab_size = None"),
    ],
)
def test_a_config_that_is_not_computed_is_refused(llama: Path, fields: dict[str, Any], message: str) -> None:
    change(llama, **fields)
    with pytest.raises(ValueError, match=f"config.json: .*{message}"):
        from_pretrained(llama, window=16)


@pytest.mark.parametrize(
    ("config", "fields", "message"),
    [
        (OURO, {"layer_types": ["full_attention", "mamba"]}, "layer_types = .*each one of full_attention, sliding"),
        (OURO, {"layer_types": ["full_attention"]}, "layer_types = .*num_hidden_layers = 2"),
        (OURO, {"layer_types": ["full_attention", "sliding_attention"]}, "local_span = None"),
        (JET_NEMOTRON, {"layer_types": ["jet", "attn", "mla"]}, "layer_types = .*each one of attn, swa, jet"),
        (JET_NEMOTRON, {"efficient_attention_config": None}, "efficient_attention_config = None"),
        (JET_NEMOTRON, {"efficient_attention_config": {"jet": {"conv_size": 5}}}, "conv_size = 5: must be 4"),
        (JET_NEMOTRON, {"efficient_attention_config": {"jet": {"gate": 1}}}, "efficient_attention_config = .*gate"),
        (JET_NEMOTRON, {"use_mrope": True}, "use_mrope = True: is not known"),
    ],
)
def test_another_ouro_or_jet_nemotron_is_refused(
    config: dict[str, Any], fields: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**config, **fields}))
    with pytest.raises(ValueError, match=f"config.json: {message}"):
        from_pretrained(tmp_path, window=16)


def test_convolutions_that_published_weights_do_not_have_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(JET_NEMOTRON))
    with pytest.raises(ValueError, match=r"conv = 4: must be None, as in the fast weights of .*config\.json"):
        from_pretrained(tmp_path, window=16, conv=4)


@pytest.mark.parametrize("content", ["", "[]", "{", "nonsense", '{"model_type": ["llama"]}', "null"])
def test_a_config_that_is_none_is_refused(llama: Path, content: str) -> None:
    (llama / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config.json: .*take another model, or another copy"):
        from_pretrained(llama, window=16)


def tensors_changed(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], None]:
    def run(directory: Path) -> None:
        tensors = load_file(directory / "model.safetensors")
        change(tensors)
        save_file(tensors, directory / "model.safetensors")

    return run


def cut(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


Q, EXTRA = "model.layers.1.self_attn.q_proj.weight", "model.layers.1.self_attn.q_proj.bias"


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (tensors_changed(lambda t: t.pop(Q)), rf"{Q} must be \[48, 48\], is absent"),
        (tensors_changed(lambda t: t.update({EXTRA: torch.ones(48)})), rf"{EXTRA} must be absent, is \[48\]"),
        (tensors_changed(lambda t: t.update({Q: torch.ones(48, 8)})), rf"{Q} must be \[48, 48\], is \[48, 8\]"),
        (tensors_changed(lambda t: t[Q].fill_(torch.nan)), f"{Q} has values that are not finite"),
        (
            tensors_changed(lambda t: t.update({Q: torch.ones(48, 48, dtype=torch.int8)})),
            f"{Q} must be torch.float32, is torch.int8",
        ),
        (cut, "not a whole safetensors file"),
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(
    llama: Path, damage: Callable[[Path], None], message: str
) -> None:
    damage(llama)
    with pytest.raises(ValueError, match=message):
        from_pretrained(llama, window=16)


def test_a_pretrained_model_must_fit_the_memory_in_float32(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the new layers, and whatever the dtype of its files."""
    save_pretrained(from_pretrained(llama, window=16).bfloat16(), tmp_path / "low")
    needed = sum(weight.nbytes for weight in from_pretrained(tmp_path / "low", 16, {0: "jet"}).parameters())
    monkeypatch.setattr(safetensors_files, "available_memory", lambda: needed)
    assert 4 * n_params(from_pretrained(tmp_path / "low", 16, {0: "jet"})) == needed
    monkeypatch.setattr(safetensors_files, "available_memory", lambda: needed - 1)
    with pytest.raises(ValueError, match=r"low: the weights take 0\.00 GiB, but 0\.00 GiB are free here; free some"):
        from_pretrained(tmp_path / "low", 16, {0: "jet"})
    from_pretrained(tmp_path / "low", 16)


def test_missing_files_are_named(llama: Path, tmp_path: Path) -> None:
    model = from_pretrained(llama, window=16)
    shards = tmp_path / "shards"
    save_pretrained(model, shards, 20_000)
    second = sorted(shards.glob("*.safetensors"))[1]
    content = second.read_bytes()
    second.write_bytes(content[:-9])
    with pytest.raises(ValueError, match=rf"{second.name}: not a whole safetensors file"):
        from_pretrained(shards, window=16)
    second.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=rf"{second.name}: changed since it was written"):
        from_pretrained(shards, window=16)
    second.unlink()
    with pytest.raises(FileNotFoundError, match=rf"{second.name}: this shard is missing; take another copy"):
        from_pretrained(shards, window=16)
    (llama / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"no weights here .*only safetensors are read"):
        from_pretrained(llama, window=16)
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no model here"):
        from_pretrained(tmp_path, window=16)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"weight_map": {}}', '{"weight_map": {"a": "../x.safetensors"}}', '{"weight_map": {"a": 1}}'],
)
def test_an_index_that_is_none_is_refused(llama: Path, content: str) -> None:
    (llama / "model.safetensors").unlink()
    (llama / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"index.json: .*take another copy of the model"):
        from_pretrained(llama, window=16)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"insert": {3: "jet"}}, "insert = 3: must be an integer of at least 0, and at most 2"),
        ({"insert": {-1: "jet"}}, "insert = -1"),
        ({"insert": {"1": "jet"}}, "insert = '1'"),
        ({"insert": [1]}, "insert = .*must be a dict from layers to mixers"),
        ({"insert": {1: "mamba"}}, "mixers = .*mamba"),
        ({"insert": {1: f"{__name__}:Still"}}, "insert = .*Still': has no q, k and v .*init='zero'"),
        ({"insert": {1: "jet"}, "key_dim": 0}, "key_dim = 0"),
        ({"insert": {1: "jet"}, "conv": 1}, "conv = 1"),
        ({"insert": {1: "jet"}, "fast_heads": 2.0}, r"fast_heads = 2.0"),
        ({"init": "random"}, "init = 'random': must be one of attention, zero"),
        ({"window": 1}, "window = 1"),
        ({"loop": (0, 4)}, r"loop = \(0, 4\): must be .* end <= 3"),
        ({"d_model": 64}, "d_model = 64: is given by .*config.json and `insert`; leave it out"),
        ({"mixers": ("attention",)}, "mixers = .*leave it out"),
        ({"inserted": (0,)}, "inserted = .*leave it out"),
        ({"max_positions": 64}, "max_positions = 64: is given .*leave it out"),
        ({"sleeps": 2}, "not a model config: .*sleeps"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(llama: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_pretrained(llama, **{"window": 16, **arguments})


def test_a_model_that_transformers_lacks_is_not_written(llama: Path, tmp_path: Path, make_model: Any) -> None:
    for model, message in (
        (from_pretrained(llama, 16, {0: "jet"}), r"inserted = \(1,\): transformers has no such model; use `save`"),
        (make_model(mixers=("attention",)), "mlp = relu2: transformers has no such model"),
        (make_model(mixers=("attention", "jet"), mlp="swiglu"), "mixers = "),
        (
            make_model(mixers=("attention",), mlp="swiglu", norm_eps=1e-6, max_positions=None),
            "qk_norm = unit, attention_bias = none, mlp_bias = False, .*together in no type",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            save_pretrained(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_shards_of_another_model_are_not_mixed_with_new_ones(llama: Path, tmp_path: Path) -> None:
    model = from_pretrained(llama, window=16)
    save_pretrained(model, tmp_path / "new", 20_000)
    with pytest.raises(ValueError, match=r"holds model.* of another model; give an empty directory"):
        save_pretrained(model, tmp_path / "new")
    save_pretrained(model, llama)  # the same files: they are replaced
    assert fingerprint(from_pretrained(llama, window=16)) == fingerprint(model)


def test_neither_layout_is_written_over_the_other(llama: Path, tmp_path: Path) -> None:
    """The other model would be lost, or be left with the config of this one."""
    model = from_pretrained(llama, window=16)
    save(model, tmp_path / "ours")
    before = {path: path.read_bytes() for place in (llama, tmp_path / "ours") for path in place.iterdir()}
    with pytest.raises(ValueError, match=rf"{llama}: holds a model in Hugging Face's layout, .*give another directory"):
        save(model, llama)
    with pytest.raises(ValueError, match=r"ours: holds a model that `save` wrote, .*give another directory"):
        save_pretrained(model, tmp_path / "ours")
    assert {path: path.read_bytes() for place in (llama, tmp_path / "ours") for path in place.iterdir()} == before


def test_a_directory_in_a_store_is_read_and_written(llama: Path, store: Path) -> None:
    model = from_pretrained(llama, window=16)
    save_pretrained(model, f"{store}/model", 20_000)
    assert fingerprint(from_pretrained(f"{store}/model", window=16)) == fingerprint(model)


def test_every_type_of_model_stands_among_the_cases() -> None:
    assert {kind for kind, _ in CASES.values()} == {"Llama", "Qwen2", "Qwen3"}


def test_load_names_what_reads_a_directory_of_hugging_face(llama: Path) -> None:
    with pytest.raises(ValueError, match=r"use sleepmodel.from_pretrained\('.*llama', window=\.\.\.\)"):
        load(llama)


def test_a_directory_that_save_wrote_is_for_load(make_model: Any, tmp_path: Path) -> None:
    save(make_model(), tmp_path)
    with pytest.raises(
        ValueError, match=r"directory = .*must be of Hugging Face's layout; load what .*sleepmodel\.load"
    ):
        from_pretrained(tmp_path, 6)
