"""Tokens: exact round trips, clear refusals, and a pretrained tokenizer used piece by piece."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen import Gsm
from datagen.gsm.text import write_sentence
from datagen.gsm.themes import THEMES, Theme
from datagen.gsm.vocabulary import Words, pretrained
from datagen.tokenizer import Tokenizer
from datagen.vocabulary import PUNCTUATION
from tests.datagen.gsm.problems import statements, train_tokenizer

WORDS = Words()


@given(st.lists(st.integers(0, len(WORDS.tokens) - 1)))
def test_words_round_trip_from_tokens(ids: list[int]) -> None:
    assert WORDS.encode(WORDS.decode(ids)) == ids


@given(st.data(), st.sampled_from(THEMES))
def test_words_round_trip_from_text(data: st.DataObject, theme: Theme) -> None:
    numbers = st.integers(0, 200)
    said = data.draw(st.lists(statements(theme, numbers), min_size=1))
    text = "".join("".join(write_sentence(theme, statement)) for statement in said).removeprefix(" ")
    assert WORDS.decode(WORDS.encode(text)) == text


def test_each_token_stands_for_one_thing() -> None:
    assert len(set(WORDS.tokens)) == len(WORDS.tokens) < 2**16
    assert WORDS.tokens[:5] == (*PUNCTUATION, "0")
    assert WORDS.tokens[4 + 37] == "37"


def test_the_vocabulary_is_the_same_in_every_version() -> None:
    """Datasets that stand on someone's disk must stay what their fingerprint says."""
    assert hashlib.sha256("\n".join(WORDS.tokens).encode()).hexdigest()[:16] == "add89a09db47d26e"


def test_a_word_that_is_not_in_the_vocabulary_is_named() -> None:
    with pytest.raises(ValueError, match=f"'zebu' is not one of the {len(WORDS.tokens)} words"):
        WORDS.encode("The number of adult zebu in Pine Ridge equals 3.")


def test_more_words_come_behind_ours() -> None:
    text = "The number of adult zebu in Atlantis (new) equals 12345."
    more = Words([text, "How many adult zebu?"])
    assert more.tokens == (*WORDS.tokens, "(new)", "12345", "Atlantis", "zebu")
    assert more.decode(more.encode(text)) == text


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return pretrained(train_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@given(st.data(), st.sampled_from(THEMES))
def test_pretrained_pieces_are_the_whole(tokenizer: Tokenizer, data: st.DataObject, theme: Theme) -> None:
    pieces = write_sentence(theme, data.draw(statements(theme)))
    tokens = [token for piece in pieces for token in tokenizer.encode(piece)]
    assert tokens == tokenizer.encode("".join(pieces))
    assert tokenizer.decode(tokens) == "".join(pieces)


def test_pretrained_tokens_have_their_ids(tokenizer: Tokenizer) -> None:
    assert tokenizer.tokens[0] == "<end>"
    ids = tokenizer.encode(" 12")
    assert [tokenizer.tokens[i] for i in ids] == ["Ġ", "1", "2"]


def test_pretrained_from_a_directory(tmp_path: Path) -> None:
    file = train_tokenizer(tmp_path)
    assert pretrained(tmp_path).encode("How many") == pretrained(file).encode("How many")


@pytest.mark.parametrize("stride", [0, 5])
def test_a_limit_of_length_in_the_file_does_not_count(tokenizer: Tokenizer, tmp_path: Path, stride: int) -> None:
    """As many published files have it; with such a stride the package itself would abort."""
    file = train_tokenizer(tmp_path)
    limit = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": stride}
    fill = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<end>",
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), "truncation": limit, "padding": fill}))
    text = "How many adult owl does Pine Ridge have?"
    assert pretrained(file).encode(text) == tokenizer.encode(text)


def test_an_id_beyond_all_vocabularies_is_refused(tmp_path: Path) -> None:
    """A list of all tokens up to it would fill the memory."""
    file = train_tokenizer(tmp_path)
    content = json.loads(file.read_text())
    content["model"]["vocab"]["Ġowl"] = 2**31
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"must have 1 to 1,048,576 tokens, has 2,147,483,649 by its largest id"):
        pretrained(file)


def test_a_file_that_makes_the_package_panic_is_refused(tmp_path: Path) -> None:
    file = train_tokenizer(tmp_path)
    content = json.loads(file.read_text())
    content["model"]["merges"][0] = ["", ""]
    content["model"]["vocab"][""] = 3
    content["model"]["continuing_subword_prefix"] = "##"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"tokenizer .* cannot be read .*: give a Hugging Face tokenizer"):
        pretrained(file)


def test_no_tokenizer_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"but .*tokenizer\.json' does not exist"):
        pretrained(tmp_path)


def test_a_tokenizer_in_the_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = train_tokenizer(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Gsm(tokenizer=f"~/{file.name}").vocabulary == pretrained(file).tokens == pretrained("~").tokens


def test_a_tokenizer_that_joins_pieces_is_refused(tmp_path: Path) -> None:
    file = train_tokenizer(tmp_path, across_words=True)
    with pytest.raises(ValueError, match="must encode a text as it encodes its pieces"):
        pretrained(file)
