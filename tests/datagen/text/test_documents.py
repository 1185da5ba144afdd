"""Documents: what is read is what is learned, token by token."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen.byte_vocabulary import BYTES
from datagen.task import SPLITS
from datagen.text.documents import Document, Encoder, cuts
from datagen.text.options import Options
from datagen.tokenizer import Tokenizer
from tests.datagen.gsm.problems import train_tokenizer
from tests.datagen.text.importing import CHATML

TEXTS = st.text(st.sampled_from("ab .\n\té漢🙂"), max_size=200)


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    directory = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(directory)
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHATML}))
    return Tokenizer.read(directory)


@given(TEXTS, st.integers(2, 40))
def test_documents_of_a_text_are_all_of_it_in_pieces_that_fit(text: str, most: int) -> None:
    ids, ends = BYTES.encode_with_ends(text)
    stops = list(cuts(text, np.array(ends, np.int64), most))
    starts = [0, *stops[:-1]]
    pieces = [bytes(ids[start:stop]) for start, stop in zip(starts, stops, strict=bool(stops))]
    assert b"".join(pieces).decode() == text
    assert all(len(piece) <= most for piece in pieces)
    if most >= 4:  # room for any character
        "".join(piece.decode() for piece in pieces)
    told = [
        bytes(document.tokens.tolist()).decode()
        for document in Encoder(BYTES, Options(max_tokens=max(most, 4))).text(text)
    ]
    assert all(piece in text and piece.strip() for piece in told)


@pytest.mark.parametrize(
    ("text", "most", "expected"),
    [
        ("one\ntwo\n\nthree\nfour", 16, ["one\ntwo\n\n", "three\nfour"]),
        ("one\ntwo\nthree", 9, ["one\ntwo\n", "three"]),
        ("abcdefghij", 4, ["abcd", "efgh", "ij"]),
        ("ab漢漢", 4, ["ab", "漢", "漢"]),
        ("short", 4096, ["short"]),
    ],
)
def test_they_end_with_a_paragraph_or_a_line_where_there_is_one(text: str, most: int, expected: list[str]) -> None:
    found = Encoder(BYTES, Options(max_tokens=most)).text(text)
    assert [bytes(document.tokens.tolist()).decode() for document in found] == expected


def test_a_text_is_predicted_from_its_second_token_on() -> None:
    (document,) = Encoder(BYTES, Options()).text("hello")
    assert document.answers == [(1, 4)]
    with pytest.raises(ValueError, match="has no completion: import it with --loss all"):
        list(Encoder(BYTES, Options(loss="completions")).text("hello"))


@given(TEXTS.filter(bool), TEXTS.filter(bool), st.booleans())
def test_the_loss_is_on_the_completion_alone(prompt: str, completion: str, pretrained: bool) -> None:
    vocabulary = _trained() if pretrained else BYTES
    (document,) = Encoder(vocabulary, Options()).record({"prompt": prompt, "completion": completion})
    assert _answers(document, vocabulary) == [completion]
    assert vocabulary.decode(document.tokens.tolist()) == prompt + completion
    (whole,) = Encoder(vocabulary, Options(loss="all")).record({"prompt": prompt, "completion": completion})
    assert whole.answers == [(1, len(whole.tokens) - 1)] and whole.split == document.split


def test_the_loss_is_on_what_the_assistant_says_and_ends_with(chatting: Tokenizer) -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Two and two?"},
        {"role": "assistant", "content": "4"},
        {"role": "user", "content": "And two?"},
        {"role": "assistant", "content": "6 \n"},
    ]
    (document,) = Encoder(chatting, Options()).record({"messages": messages, "kind": "sums", "depth": 3})
    assert _answers(document, chatting) == ["4<|end|>", "6 \n<|end|>"]
    assert (document.kind, document.depth) == ("sums", 3)
    assert chatting.decode(document.tokens.tolist()) == chatting.chat(messages, add_generation_prompt=False)


def test_chats_that_are_the_same_up_to_the_first_answer_lie_in_one_split(chatting: Tokenizer) -> None:
    def splits(greeting: bool) -> list[set[str]]:
        """For each of 40 questions, where its chats lie, which differ from the answer on."""
        begin = [{"role": "system", "content": "Be short."}, {"role": "assistant", "content": "Hello."}][: 1 + greeting]
        found = []
        for number in range(40):
            asked = [*begin, {"role": "user", "content": f"Is {number} even?"}]
            chats = [[*asked, {"role": "assistant", "content": said}] for said in ("yes", "no", "perhaps")]
            chats.append([*chats[0], {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}])
            found.append({Encoder(chatting, Options()).record({"messages": chat})[0].split for chat in chats})
        return found

    for greeting in (False, True):
        assert [len(each) for each in splits(greeting)] == [1] * 40
        assert set().union(*splits(greeting)) == set(SPLITS)  # those that begin with one greeting are not one prompt


def test_chats_in_which_the_assistant_answers_nobody_are_split_as_texts(chatting: Tokenizer) -> None:
    chats = [[{"role": "system", "content": "Talk."}, {"role": "assistant", "content": str(i)}] for i in range(40)]
    assert {Encoder(chatting, Options()).record({"messages": chat})[0].split for chat in chats} == set(SPLITS)


def test_a_template_that_rewrites_what_was_said_is_refused(chatting: Tokenizer) -> None:
    last_only = "{% for m in messages %}{{ m.content if loop.last or m.role == 'user' else '' }};{% endfor %}"
    rewriting = Tokenizer(chatting.json, last_only)
    chat = [{"role": role, "content": "word"} for role in ("user", "assistant", "user", "assistant")]
    with pytest.raises(ValueError, match="in another way once message 2 follows"):
        Encoder(rewriting, Options()).record({"messages": chat})


def test_a_template_that_writes_the_date_makes_the_same_dataset_every_day(chatting: Tokenizer) -> None:
    dated = Tokenizer(chatting.json, "{{ strftime_now('%Y-%m-%d') }}" + CHATML)
    chat = [{"role": role, "content": "word"} for role in ("user", "assistant")]
    (document,) = Encoder(dated, Options()).record({"messages": chat})
    assert dated.decode(document.tokens.tolist()).startswith("2024-07-26")


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ([1], "must be a JSON object"),
        ({}, "must have prompt and completion, or messages, or text, has nothing"),
        ({"prompt": "a"}, "must have prompt and completion.*has prompt"),
        ({"prompt": "a", "completion": None}, "has prompt"),
        ({"prompt": "a", "completion": "b", "text": "c"}, "has completion, prompt, text"),
        ({"prompt": "", "completion": "b"}, "prompt = '': must be a text"),
        ({"prompt": "a", "completion": ""}, "completion = '': must be"),
        ({"prompt": "a", "completion": 4}, "completion = 4: must be a text"),
        ({"text": " "}, "text = ' ': must be a text of at least two tokens"),
        ({"text": "\ud800 half"}, "surrogates"),
        ({"text": "abc", "depth": -1}, "depth = -1: must be an integer of at least 0"),
        ({"text": "abc", "kind": 3}, "kind = 3"),
        ({"text": "abc", "split": "dev"}, "split = 'dev': must be one of train, validation, test"),
        ({"messages": []}, "messages = .*at least one"),
        ({"messages": [{"role": "user", "content": "a"}]}, "a chat in which the assistant answers"),
        ({"messages": [{"role": "assistant"}]}, 'objects with the texts "role" and "content"'),
    ],
)
def test_what_is_no_document_is_refused(record: Any, why: str, chatting: Tokenizer) -> None:
    with pytest.raises(ValueError, match=why):
        Encoder(chatting, Options()).record(record)


def test_a_chat_without_a_tokenizer_is_refused() -> None:
    with pytest.raises(ValueError, match="give --tokenizer"):
        Encoder(BYTES, Options()).record({"messages": [{"role": "assistant", "content": "a"}]})


@cache
def _trained() -> Tokenizer:
    with tempfile.TemporaryDirectory() as directory:
        return Tokenizer.read(train_tokenizer(Path(directory)))


def _answers(document: Document, vocabulary: Any) -> list[str]:
    return [vocabulary.decode(document.tokens[start : start + length].tolist()) for start, length in document.answers]
