"""A tokenizer is what its file holds, wherever it lies; datasets and models keep a copy."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from datagen import Facts, Gsm, Recall
from datagen.gsm.importing import import_official, read_import
from datagen.schema import fingerprint
from datagen.task import Task
from datagen.tokenizer import Tokenizer, stored_tokenizer
from sleepmodel import load, save
from tests.datagen.gsm.problems import train_tokenizer
from tests.datagen.gsm.test_importing import official_lines
from tests.datagen.gsm.test_importing import write as write_lines
from tests.sleepmodel.conftest import build_small

TEMPLATE = "{% for message in messages %}<{{ message.role }}>{{ message.content }}{% endfor %}"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Of a pretrained model, without its weights."""
    here = tmp_path / "here"
    here.mkdir()
    train_tokenizer(here)
    (here / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE, "model_max_length": 64}))
    return here


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_a_file_that_is_not_text_is_named(name: str, directory: Path) -> None:
    (directory / name).write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=f"{name}: not .*; take another copy of the tokenizer"):
        stored_tokenizer(directory)


def test_a_dataset_is_identified_by_the_tokens_that_it_is_made_of(directory: Path, tmp_path: Path) -> None:
    there = Path(shutil.copytree(directory, tmp_path / "there"))
    assert Gsm(tokenizer=str(directory)).identity() == Gsm(tokenizer=str(there / "tokenizer.json")).identity()
    assert fingerprint(Gsm(tokenizer=str(directory)), 0) == fingerprint(Gsm(tokenizer=str(there)), 0)
    content = json.loads((there / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 600, "content": "<more>"})
    (there / "tokenizer.json").write_text(json.dumps(content))
    assert fingerprint(Gsm(tokenizer=str(directory)), 0) != fingerprint(Gsm(tokenizer=str(there)), 0)
    assert Gsm().identity()["tokenizer"] is None


def test_a_dataset_keeps_it(directory: Path, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "problems.jsonl", official_lines(2))
    kept = stored_tokenizer(import_official(file, tmp_path, tokenizer=str(directory)))
    assert kept is not None and (kept.json, kept.chat_template) == (
        (directory / "tokenizer.json").read_text(),
        TEMPLATE,
    )
    assert stored_tokenizer(import_official(file, tmp_path)) is None


def test_a_model_keeps_it(directory: Path, tmp_path: Path) -> None:
    model = build_small(dtype=torch.float32)
    model.tokenizer = Tokenizer.read(directory)
    save(model, tmp_path / "model")
    kept = load(tmp_path / "model").tokenizer
    assert kept is not None and kept.chat_template == TEMPLATE
    text = "How many adult owl does Pine Ridge have?"
    assert kept.decode(kept.encode(text)) == text


def test_a_text_is_decoded_without_reading_the_vocabulary_for_each_token(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer, reads = Tokenizer.read(directory), list[bool]()
    get_vocab = tokenizer._backend.get_vocab

    class Counted:
        def __getattr__(self, name: str) -> object:
            return getattr(backend, name)

        def get_vocab(self, with_added_tokens: bool) -> dict[str, int]:
            reads.append(True)
            return get_vocab(with_added_tokens)

    backend = tokenizer._backend
    monkeypatch.setitem(vars(tokenizer), "_backend", Counted())
    assert tokenizer.decode(tokenizer.encode("Pine Ridge") * 5) == "Pine Ridge" * 5
    assert len(reads) <= 1


def test_padding_of_a_vocabulary_has_no_text(directory: Path) -> None:
    tokenizer = Tokenizer.read(directory)
    ids = tokenizer.encode("Pine Ridge")
    assert tokenizer.decode([*ids, tokenizer.size, tokenizer.size + 7]) == "Pine Ridge"


@pytest.mark.parametrize("content", ["{", "[" * 100_000])
def test_damaged_settings_are_named(directory: Path, content: str) -> None:
    (directory / "tokenizer_config.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: not JSON .*; take another copy of the tokenizer"):
        Tokenizer.read(directory)


CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA = """{{- bos_token }}
{%- set ns = namespace(system='', count=0) %}
{%- if messages[0].role == 'system' %}
    {%- set ns.system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- endif %}
{{- '[' ~ ns.system ~ strftime_now(' %Y') ~ ']' }}
{%- for message in messages %}
    {%- if message.role == 'system' %}
        {%- continue %}
    {%- endif %}
    {%- set ns.count = ns.count + 1 %}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{ message.content + eos_token }}{% endgeneration %}
    {%- else %}
        {{- {'said': message.content} | tojson }}
    {%- endif %}
{%- endfor %}
{%- if tools is not none %}{{ raise_exception('no tools') }}{% endif %}
{%- if add_generation_prompt %}{{ ns.count ~ ':' }}{% endif %}
"""
BLOCKS = """{% for message in messages %}
    {% if message['role'] == 'user' %}
    <{{ message['content'] }}>
    {% else %}
    {{ message['content'] }}{{ eos_token }}{{ unk_token }}
    {% endif %}
{% endfor %}
"""
CHATS = [
    [{"role": "user", "content": "How many <owls> & “foxes”?"}],
    [{"role": "system", "content": " Be short. "}, {"role": "user", "content": "Hi"}],
    [
        {"role": "user", "content": "One"},
        {"role": "assistant", "content": "Two"},
        {"role": "system", "content": "now"},
        {"role": "user", "content": "Three\n"},
    ],
]


@pytest.mark.parametrize("prompted", [True, False])
@pytest.mark.parametrize("template", [CHATML, LLAMA, BLOCKS], ids=["ChatML", "Llama", "blocks"])
def test_a_chat_is_rendered_as_transformers_does(template: str, prompted: bool, directory: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "chat_template": template,
        "bos_token": "<end>",
        "eos_token": {"content": "owl", "__type": "AddedToken", "lstrip": False, "normalized": False},
        "add_bos_token": False,
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    theirs = PreTrainedTokenizerFast.from_pretrained(directory)
    for messages in CHATS:
        expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompted)
        assert Tokenizer.read(directory).chat(messages, prompted) == expected


def test_a_copy_renders_and_ends_as_the_original(directory: Path, tmp_path: Path) -> None:
    """Also where the template has a file of its own, as newer directories do, or a name in a list."""
    named = [{"name": "tools", "template": "-"}, {"name": "default", "template": CHATML}]
    (directory / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<end>", "chat_template": named}))
    listed = stored_tokenizer(directory)
    (directory / "chat_template.jinja").write_text(LLAMA)
    own = stored_tokenizer(directory)
    assert listed is not None and own is not None
    assert (listed.chat_template, own.chat_template) == (CHATML, LLAMA)
    own.write(tmp_path)
    copy = stored_tokenizer(tmp_path)
    assert copy is not None and copy.chat(CHATS[2]) == own.chat(CHATS[2])
    assert copy.decode(copy.ends) == "<end>" and copy.ends == own.ends


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template: give plain text"),
        ("{{ raise_exception('only one user') }}", "cannot render these messages: only one user; change them"),
        ("{% for %}", "cannot render these messages: "),
        ("{{ messages[9].content + 1 }}", "cannot render these messages: "),
        ("{{ messages[0].content + 1 }}", "cannot render these messages: "),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe|not safe"),
        ("{% set ns = namespace() %}{% set ns.__call__ = 1 %}", "begin with _ are refused"),
        ("{% set ns = namespace(_x=1) %}", "begin with _ are refused"),
    ],
)
def test_a_template_that_fails_or_reaches_out_is_an_error(directory: Path, template: str | None, message: str) -> None:
    tokenizer = Tokenizer((directory / "tokenizer.json").read_text(), template)
    with pytest.raises(ValueError, match=message):
        tokenizer.chat(CHATS[0])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("tokenizer_config.json", json.dumps({"chat_template": CHATML, "model_max_length": 64})),
        ("tokenizer_config.json", json.dumps({"chat_template": TEMPLATE, "eos_token": "<end>"})),
        ("tokenizer_config.json", json.dumps({"model_max_length": 64})),
        ("chat_template.jinja", CHATML),
    ],
)
def test_what_renders_and_ends_a_chat_identifies_it(name: str, settings: str, directory: Path, tmp_path: Path) -> None:
    """The dataset keeps a copy, which its models answer with. A file that is edited is read again, in one process."""
    file = write_lines(tmp_path / "problems.jsonl", official_lines(2))

    def identities() -> list[object]:
        tokenizer = str(directory)
        generated = [fingerprint(task(tokenizer=tokenizer), 0) for task in (Gsm, Recall, Facts)]
        return [*generated, read_import(file, tmp_path, tokenizer=tokenizer).path, Tokenizer.read(directory).sha256]

    before = identities()
    Tokenizer.read(directory).write(tmp_path / "copy")
    copy = stored_tokenizer(tmp_path / "copy")
    assert copy is not None and copy.sha256 == before[-1] == Tokenizer.read(tmp_path / "copy").sha256
    (directory / name).write_text(settings)
    assert not set(before) & set(identities())


@pytest.mark.parametrize("task", [Gsm(), Recall(), Facts()])
def test_rows_are_of_the_tokenizer_that_is_there_now(task: Task, directory: Path, tmp_path: Path) -> None:
    """A notebook may edit its files: the rows must be those that the new identity stands for."""
    here = dataclasses.replace(task, tokenizer=str(directory))  # type: ignore[call-arg]
    assert "<more>" not in here.vocabulary
    content = json.loads((directory / "tokenizer.json").read_text())
    content["added_tokens"].append({**content["added_tokens"][0], "id": 600, "content": "<more>"})
    (directory / "tokenizer.json").write_text(json.dumps(content))
    assert "<more>" in here.vocabulary


def test_an_import_is_identified_by_its_tokenizer_wherever_that_lies(directory: Path, tmp_path: Path) -> None:
    file = write_lines(tmp_path / "problems.jsonl", official_lines(2))
    there = shutil.copytree(directory, tmp_path / "there")
    places = {read_import(file, tmp_path, tokenizer=str(place)).path for place in (directory, there)}
    assert len(places) == 1


def test_no_file_of_another_tokenizer_stays_beside_it(directory: Path, tmp_path: Path) -> None:
    (directory / "chat_template.jinja").write_text(LLAMA)
    written, kept = tmp_path / "written", Tokenizer.read(directory)
    written.mkdir()
    (written / "chat_template.jinja").write_text(BLOCKS)
    (written / "README.md").write_text("mine")
    kept.write(written)
    assert stored_tokenizer(written) == dataclasses.replace(kept, source=str(written / "tokenizer.json"))
    plain = Tokenizer(kept.json)
    plain.write(written)
    assert stored_tokenizer(written) == dataclasses.replace(plain, source=str(written / "tokenizer.json"))
    assert (written / "README.md").read_text() == "mine"
