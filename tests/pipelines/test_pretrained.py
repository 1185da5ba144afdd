"""Experiments that begin with a pretrained model: what its files give, what identifies it, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from datagen import Gsm
from pipelines.config.experiment import Experiment, step_flops
from pipelines.config.overrides import OverrideError, apply_overrides
from pipelines.config.presets import PRESETS
from pipelines.config.pretrained import Pretrained
from pipelines.config.variant import Variant
from pipelines.plan import plan
from pipelines.runtime.services import Services
from sleepmodel import ModelConfig, SleepModel, from_pretrained, save, save_pretrained
from sleepmodel.hub import find_base, load_base
from sleepmodel.mixers.base import Mixer
from sleepmodel.serialization.model_dir import stated_license
from sleepmodel.tracking.registry import promote, register
from sleepmodel.tracking.runs import open_store, start_run
from tests.datagen.gsm.problems import train_tokenizer

LLAMA = ModelConfig(
    vocab_size=640,  # above the tokenizer's 600
    d_model=32,
    n_heads=4,
    kv_heads=2,
    mixers=("attention",) * 3,
    window=64,
    qk_norm="none",
    mlp="swiglu",
    mlp_width=48,
    norm_eps=1e-5,
    tied=True,
)


def write_llama(directory: Path, layers: int = 3) -> Path:
    """A small pretrained model with its tokenizer and its licence."""
    torch.manual_seed(0)
    model = SleepModel(replace(LLAMA, mixers=("attention",) * layers))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_pretrained(model, directory)
    train_tokenizer(directory)
    (directory / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\nlicense: none\n")
    return directory


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("pretrained") / "llama")


def begun(*assignments: str) -> Experiment:
    """gsm-fig4-mini, whose variants have the pretrained model's mixers."""
    variants = (Variant(name="evicted", inserted_mixer="attention"), Variant(name="n2", sleep_passes=2))
    mini = replace(PRESETS["gsm-fig4-mini"], variants=variants, task=Gsm(operations=(1, 1), tokens=(256, 400)))
    return apply_overrides(mini, assignments)


def identities(experiment: Experiment) -> dict[str, str]:
    return {stage.name: stage.identity for stage in plan(experiment, Services(experiment, Path("runs")))}


def test_the_files_say_what_the_model_computes(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(llama.parent)
    found = begun("pretrained.model=llama", "pretrained.insert=[0, 2]", "model.window=64", "model.key_dim=8")
    assert found.pretrained.model == str(llama)  # also where a training runs in another directory
    wanted = from_pretrained(llama, 64, {0: "jet", 2: "jet"}, key_dim=8, fast_heads=1).config
    assert found.variant_model(found.variants[1]) == replace(wanted, sleep_passes=2)
    evicted = ("attention",) * 5
    assert found.variant_model(found.variants[0]) == replace(wanted, mixers=evicted)
    assert found.task == Gsm(operations=(1, 1), tokens=(256, 400), tokenizer=str(llama))
    assert len(found.task.vocabulary) == 600 < found.model.vocab_size == 640


def test_identities_follow_the_weights_and_not_their_place(llama: Path, tmp_path: Path) -> None:
    there = Path(shutil.copytree(llama, tmp_path / "there"))
    (there / "model.safetensors").unlink()
    save_pretrained(from_pretrained(llama, 64), there, shard_bytes=20_000)
    assert len(list(there.glob("*.safetensors"))) > 1
    here = identities(begun(f"pretrained.model={llama}"))
    assert identities(begun(f"pretrained.model={there}")) == here
    other = Path(shutil.copytree(llama, tmp_path / "other"))
    tensors = load_file(other / "model.safetensors")
    save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"] * 2}, other / "model.safetensors")
    changed = identities(begun(f"pretrained.model={other}"))
    assert changed["generate"] == here["generate"]  # the same tokenizer
    for name in ("train-evicted-seed30", "train-n2-seed30", "evaluate"):
        assert changed[name] != here[name]
    zero = identities(begun(f"pretrained.model={llama}", "pretrained.init=zero"))
    assert zero["train-n2-seed30"] != here["train-n2-seed30"]


def test_one_of_ours_is_a_base_with_its_inserted_blocks(llama: Path, tmp_path: Path) -> None:
    grown = from_pretrained(llama, 32, {1: "jet"}, fast_heads=2, key_dim=8, value_dim=8)
    save(grown, tmp_path / "grown")
    train_tokenizer(tmp_path / "grown")
    found = begun(f"pretrained.model={tmp_path / 'grown'}", "pretrained.insert=[0]", "model.window=64")
    assert found.model.mixers == ("attention", "jet", "attention", "jet", "attention")
    assert found.model.inserted == (1, 3) and found.model.window == 64 and found.model.key_dim == 8
    assert load_base(str(tmp_path / "grown"), 64).config == grown.config
    with pytest.raises(ValueError, match=r"conv = 4: must be None, as in the fast weights of .*grown"):
        begun(f"pretrained.model={tmp_path / 'grown'}", "model.conv=4")
    later = begun(f"pretrained.model={tmp_path / 'grown'}", "model.sleep_on=all", "model.eviction=sliding")
    assert (later.model.sleep_on, later.model.eviction) == ("all", "sliding")


def test_one_of_ours_without_fast_weights_leaves_their_sizes_to_the_experiment(llama: Path, tmp_path: Path) -> None:
    save(from_pretrained(llama, 32), tmp_path / "saved")
    train_tokenizer(tmp_path / "saved")
    sizes = ("pretrained.insert=[0]", "model.fast_heads=3", "model.key_dim=8", "model.conv=4")
    saved, foreign = (begun(f"pretrained.model={place}", *sizes).model for place in (tmp_path / "saved", llama))
    assert saved == foreign and (saved.fast_heads, saved.conv) == (3, 4)


def test_weights_that_change_after_the_plan_are_not_trained(llama: Path, tmp_path: Path) -> None:
    """Or a result would have the identity of another model."""
    there = Path(shutil.copytree(llama, tmp_path / "there"))
    start = begun(f"pretrained.model={there}").pretrained.start()
    assert start["start"] == str(there) and start["weights"] == find_base(str(llama)).weights
    load_base(start["start"], 64, start["weights"])
    tensors = load_file(there / "model.safetensors")
    save_file({**tensors, "model.norm.weight": tensors["model.norm.weight"] * 2}, there / "model.safetensors")
    with pytest.raises(ValueError, match=r"there: its weights have changed since the run began; run the same command"):
        load_base(start["start"], 64, start["weights"])


@pytest.mark.slow
def test_one_of_the_registry_is_found_under_the_root_and_its_licence_goes_on(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "runs"
    store = open_store(root)
    run = start_run(store, "train", "0" * 16, None, {}, {})
    model = from_pretrained(llama, 64)
    version = register(store, run, model, "sleep-base", np.ones((1, 4), np.int64), 1, {})
    promote(store, "sleep-base", version)
    monkeypatch.setenv("SLEEPMODEL_ROOT", str(root))
    monkeypatch.chdir(tmp_path)
    found = begun("pretrained.model=models:/sleep-base@champion", "pretrained.insert=[0]")
    start = found.pretrained.start()
    assert Path(start["start"]).is_absolute()
    assert load_base(start["start"], 64, start["weights"]).license == "apache-2.0"
    assert len(found.task.vocabulary) == 600  # of the tokenizer that is registered with it
    save(model, tmp_path / "saved")
    assert identities(found) == identities(begun(f"pretrained.model={tmp_path / 'saved'}", "pretrained.insert=[0]"))


def test_equal_flops_are_those_of_what_is_trained(llama: Path) -> None:
    """Layers that rest cost less than trained ones, but each pass runs them all the same."""
    variants = (Variant(name="n1", compute_of=4),)
    mini = replace(PRESETS["gsm-fig4-mini"], variants=variants, task=Gsm(operations=(1, 1), tokens=(256, 400)))
    settings = [f"pretrained.model={llama}", "pretrained.insert=[2]", "model.window=64"]
    for trained in ("all", "inserted"):
        found = apply_overrides(mini, [*settings, f"train.trained={trained}"])
        model, steps = found.variant_model(variants[0]), found.variant_steps(variants[0])
        each, long = (step_flops(replace(model, sleep_passes=n), found.train, found.task) for n in (1, 4))
        assert steps == round(found.train.steps * long / each)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["model.norm_eps=1e-6"], r"model\.norm_eps = 1e-06: is given by .*llama; leave it out"),
        (["model.d_model=48"], r"model\.d_model = 48: is given by"),
        (["pretrained.insert=[3]"], r"insert = 3: must be an integer of at least 0, and at most 2"),
        (["pretrained.mixer=mamba"], r"mixers = .*mamba"),
        (["model.loop=[0, 9]"], r"loop = \(0, 9\): must be"),
        (["pretrained.model="], r"pretrained\.model = '': must be a directory"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(llama: Path, assignments: Sequence[str], message: str) -> None:
    given = [] if assignments[0].startswith("pretrained.model") else [f"pretrained.model={llama}"]
    with pytest.raises(OverrideError, match=message):
        begun(*given, "pretrained.insert=[0]" if "insert" not in assignments[0] else "model.window=64", *assignments)


def test_variants_of_another_architecture_are_refused(llama: Path) -> None:
    with pytest.raises(ValueError, match=r"transformer-evicted, which starts from .*llama: mixers = .*: must be"):
        identities(apply_overrides(PRESETS["gsm-fig4-mini"], [f"pretrained.model={llama}"]))


class Counting(Mixer):
    """Neither attention nor fast weights."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()


def test_what_a_training_could_not_begin_with_is_refused_before_any_work(llama: Path, tmp_path: Path) -> None:
    """As where a variant changes what the files of the pretrained model decide."""
    grown = from_pretrained(llama, 32, {1: "jet"}, fast_heads=2, key_dim=8, value_dim=8, pass_embed=True, carry="token")
    save(grown, tmp_path / "grown")
    train_tokenizer(tmp_path / "grown")
    marked = {"pass_embed": True, "carry": "token"}
    for base, own, message in (
        (llama, {"mlp_width": 96}, "the model to start from has other sizes than this model"),
        (llama, {"tied": False}, "tied = True in the model to start from"),
        (llama, {"norm_eps": 0.1}, "norm_eps = 1e-05 in the model to start from: must be 0.1"),
        (tmp_path / "grown", {}, "pass_embed = True in the model to start from"),
        (tmp_path / "grown", {**marked, "conv": 4}, "conv = None in the model to start from: must be 4"),
    ):
        fitting = begun(f"pretrained.model={base}")
        with pytest.raises(ValueError, match=rf"variant n2, which starts from {base}: {message}"):
            identities(replace(fitting, variants=(Variant(name="n2", model=own),)))
    with pytest.raises(ValueError, match=r"n2, which starts from .*: insert = '.*:Counting': .*; use init='zero'"):
        identities(begun(f"pretrained.model={llama}", "pretrained.insert=[0]", f"pretrained.mixer={__name__}:Counting"))


def test_a_tokenizer_with_more_tokens_than_the_model_is_refused(llama: Path, tmp_path: Path) -> None:
    small = Path(shutil.copytree(llama, tmp_path / "small"))
    save_pretrained(SleepModel(replace(LLAMA, vocab_size=599)), small)
    with pytest.raises(OverrideError, match=r"model\.vocab_size = 599: must be at least 600, the task's"):
        begun(f"pretrained.model={small}")


def test_a_task_of_another_tokenizer_is_refused(llama: Path, tmp_path: Path) -> None:
    """Its vocabulary may fit, and every token means something else."""
    content = json.loads((llama / "tokenizer.json").read_text())
    first, second, *_ = content["model"]["vocab"]
    vocab = content["model"]["vocab"]
    vocab[first], vocab[second] = vocab[second], vocab[first]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    begun(f"pretrained.model={llama}", f"task.tokenizer={llama / 'tokenizer.json'}")
    with pytest.raises(OverrideError, match=rf"task: its tokens are of {tmp_path}.* not of the tokenizer of {llama}"):
        begun(f"pretrained.model={llama}", f"task.tokenizer={tmp_path}")


def test_without_weights_it_is_planned_and_not_run() -> None:
    """The error says which weights, and where they are."""
    for name in ("gsm-fig4", "gsm-fig4-ouro", "gsm-sliding-fig5"):
        assert identities(PRESETS[name])
        with pytest.raises(ValueError, match=rf"{name} begins with .*huggingface-cli download .*pretrained\.model="):
            PRESETS[name].check_weights()


@pytest.mark.parametrize("assignment", ["insert=[3]", "mixer=gated_delta", "init=zero"])
def test_new_layers_without_a_model_to_put_them_into_are_refused(assignment: str) -> None:
    """They were ignored: the model was that of the preset."""
    field = assignment.partition("=")[0]
    for name in ("smoke", "gsm-fig4-ouro"):
        with pytest.raises(OverrideError, match=rf"^pretrained\.{field} = .* without pretrained\.model, .*: set pretr"):
            apply_overrides(PRESETS[name], [f"pretrained.{assignment}"])
    with pytest.raises(ValueError, match=r"insert = \(3,\): must be \(\) without pretrained\.model"):
        Pretrained(insert=(3,))


def test_the_licence_is_that_of_the_model_card(llama: Path, tmp_path: Path) -> None:
    assert stated_license(llama) == "apache-2.0"
    card = tmp_path / "README.md"
    for text, expected in (
        ("---\nlicense: other\nlicense_name: 'research only'\n---\n", "research only"),
        ("# No head\nlicense: mit\n", None),
        ("", None),
    ):
        card.write_text(text)
        assert stated_license(tmp_path) == expected
    card.unlink()
    assert stated_license(tmp_path) is None
