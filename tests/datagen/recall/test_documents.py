"""Texts of one's own: which files are read, what is refused, and which text belongs to which split."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datagen import Recall, generate, read_rows
from datagen.byte_vocabulary import BYTES
from datagen.recall.documents import STRETCH, Documents, stretches
from datagen.task import SPLITS
from datagen.tokenizer import Tokenizer
from tests.datagen.gsm.problems import train_tokenizer
from tests.datagen.recall.texts import write_documents

texts = st.text(st.sampled_from("ab .!?。\n\t é漢🙂"), min_size=1, max_size=400).filter(str.strip)


@given(texts, st.integers(1, 40))
def test_stretches_lose_nothing(text: str, times: int) -> None:
    found = list(stretches(text * times))
    assert "".join(sentence for stretch in found for sentence in stretch) == (text * times).strip() + "\n\n"
    assert all(sentence.strip() for stretch in found for sentence in stretch)
    for stretch in found[:-1]:
        assert len("".join(stretch)) >= STRETCH > len("".join(stretch[:-1]))


def test_sentences_end_with_a_mark_before_white_space_or_before_an_empty_line() -> None:
    text = "# A title\n\nOne, 1.5 of them. Two\nlines? 三。四。\n  \nFive!"
    (found,) = stretches(text)
    assert found == ["# A title", "\n\nOne, 1.5 of them.", " Two\nlines?", " 三。", "四。", "\n  \nFive!\n\n"]


def test_lines_are_sentences_where_nothing_else_ends_one() -> None:
    """As in a poem or a log, and there alone."""
    lines = [f"{number:04} the owl of the ridge flies" for number in range(200)]
    found = [sentence for stretch in stretches("\n".join(lines)) for sentence in stretch]
    assert [sentence.strip() for sentence in found] == lines
    wrapped = "\n".join(f"{line}\nas it did." for line in lines)
    assert len([sentence for stretch in stretches(wrapped) for sentence in stretch]) == len(lines)


def test_text_that_has_no_sentences_is_named_as_such(tmp_path: Path) -> None:
    lines = [f"{number} owls of the ridge" for number in range(10_000)]
    (tmp_path / "line.txt").write_text(" ".join(lines))
    with pytest.raises(ValueError, match="a passage begins with a sentence, text whose sentences end with"):
        Recall(text=str(tmp_path / "line.txt")).sample("test", 0, 0, 2)
    (tmp_path / "lines.txt").write_text("\n".join(lines))
    rows = Recall(text=str(tmp_path / "lines.txt")).sample("test", 0, 0, 20).tokens.tolist()
    assert all(bytes(row[-48:]).decode().splitlines()[0] in lines for row in rows)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.read(train_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@given(texts)
def test_tokens_know_where_they_end(tokenizer: Tokenizer, text: str) -> None:
    for vocabulary in (BYTES, tokenizer):
        tokens, ends = vocabulary.encode_with_ends(text)
        assert tokens == vocabulary.encode(text) and len(ends) == len(tokens) and ends[-1] == len(text)
        for number in range(1, len(tokens) + 1):
            if number == len(tokens) or ends[number] > ends[number - 1]:  # not within a character
                assert vocabulary.decode(tokens[:number]) == text[: ends[number - 1]]


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    for name, text in {"b.md": "Four.", "a/z.txt": "Three.", "a.TXT": "Two.", "A.md": "\ufeffOne.\r\nAgain."}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / "c.pdf").write_bytes(b"%PDF")
    assert Documents.read(tmp_path).texts == ("One.\nAgain.", "Two.", "Three.", "Four.")
    assert Documents.read(tmp_path / "a" / "z.txt").texts == ("Three.",)
    assert Documents.read(tmp_path / "a" / "z.txt").sha256 == Documents.read(tmp_path / "a").sha256


def test_an_edited_file_is_read_again(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("One.")
    before = Documents.read(tmp_path)
    (tmp_path / "a.txt").write_text("Two, longer.")
    assert Documents.read(tmp_path).texts == ("Two, longer.",) and Documents.read(tmp_path) != before


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"abc \xff", r"b\.txt: is not UTF-8 \(byte 4: invalid start byte\); convert it, or take it away"),
        (b"", r"b\.txt: is empty; fill it, or take it away"),
        (b"\xef\xbb\xbf \n\t", r"b\.txt: is empty; fill it, or take it away"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    write_documents(tmp_path)
    (tmp_path / "b.txt").write_bytes(content)
    with pytest.raises(ValueError, match=f"text {tmp_path}/{why}"):
        Recall(text=str(tmp_path)).sample("train", 0, 0, 1)


def test_a_path_without_texts_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no \.txt or \.md file; give another folder, or one file"):
        Documents.read(tmp_path)
    for path in (tmp_path / "gone", "\0", "x" * 9999):
        with pytest.raises(ValueError, match=r"text must be a file or a folder of \.txt and \.md .*not exist"):
            Documents.read(path)


def test_text_that_is_added_moves_no_other_text_to_another_split(tmp_path: Path) -> None:
    here = write_documents(tmp_path)
    task = Recall(passage=30, text=str(here))

    def asked() -> dict[str, set[bytes]]:
        rows = {split: task.sample(split, 0, 0, 3000).tokens for split in SPLITS}
        return {split: {row[-30:].tobytes() for row in np.asarray(tokens)} for split, tokens in rows.items()}

    before = asked()
    write_documents(here / "added", 100_000, seed=1)
    after = asked()
    for split in SPLITS:
        assert len(before[split] & after[split]) > 10
        assert not any(before[split] & after[other] for other in set(SPLITS) - {split})


def test_what_a_text_says_twice_is_not_asked(tmp_path: Path) -> None:
    """A licence in every file, say: it would stand in train and in test."""
    licence = "".join(f" Clause {number} of this licence holds everywhere." for number in range(20))
    for number, file in enumerate(sorted(write_documents(tmp_path).rglob("*.*"))):
        if file.suffix != ".png":
            text = file.read_text()
            places = range(0, len(text), 3000 + number)
            file.write_text("".join(f"{text[at : at + 3000 + number]}.\n\n{licence}\n\n" for at in places))
    task = Recall(passage=60, span=80, text=str(tmp_path))
    for split in SPLITS:
        passages = [bytes(row[-60:]).decode(errors="replace") for row in task.sample(split, 0, 0, 500).tokens.tolist()]
        assert not any(licence.count(passage) for passage in passages)
        assert sum(" of this licence" in passage for passage in passages) < 50  # at its end, with what follows


def test_the_control_holds_nothing_of_the_excerpt(tmp_path: Path) -> None:
    """Not the beginning of the asked passage, say, which the following sentence of the text would bring with it."""
    (tmp_path / "a.txt").write_text("".join(f"It is number {number} of them. " for number in range(100_000, 105_000)))
    task = Recall(passage=80, span=100, distances=(8,), text=str(tmp_path))
    rows = task.sample("test", 0, 0, 400).tokens.tolist()
    for own, other in zip(rows[::2], rows[1::2], strict=True):
        changed = [at for at in range(100) if own[at] != other[at]]
        brought = bytes(other[changed[0] : changed[-1] + 1]).decode()
        numbers = set(re.findall(r"\d{6}", brought))
        assert not numbers & set(re.findall(r"\d{6}", bytes(own).decode()))


@pytest.mark.slow
def test_workers_make_the_rows_of_the_folder(ray_cluster: str, tmp_path: Path) -> None:
    text, tokenizer = str(write_documents(tmp_path / "text")), str(train_tokenizer(tmp_path))
    task = Recall(text=text, tokenizer=tokenizer, distances=(1, 2))
    path = generate(task, "test", 50, 0, tmp_path / "root")
    assert read_rows(path, "test").tokens.tolist() == task.sample("test", 0, 0, 50).tokens.tolist()
    assert str(tmp_path) not in (path / "dataset.json").read_text()
