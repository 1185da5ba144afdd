"""Texts of one's own: files, their sentences, and the split that each part of them belongs to."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from datagen.canonical import canonical_json
from datagen.files import Stamp, stamp
from datagen.storage import local_path

SUFFIXES = (".txt", ".md")
STRETCH = 2048  # characters, about, that belong to one split

# Before the white space behind a sentence's end, and before an empty line, as a title has no full stop.
# Lines of a poem or a log may have none of them.
_LINE = re.compile(r"(?<=\S)(?=[^\S\n]*\n)")
_BOUNDARY = re.compile(r"(?<=[.!?])(?=\s)|(?<=[。\uff01\uff1f])(?!\Z)|(?<=\S)(?=[^\S\n]*\n\s*\n)")


@dataclass(frozen=True)
class Documents:
    """texts: of the files, in the order of their names; source: where they lie, for errors; sha256: of the files'
    contents in this order, which identifies them."""

    texts: tuple[str, ...] = field(repr=False, compare=False)
    source: str
    sha256: str

    @classmethod
    def read(cls, path: str | Path) -> Documents:
        """The UTF-8 text of a file, or of all .txt and .md files in a folder and its folders.

        Raises ValueError if there is none, and one that names the file if it is empty or not UTF-8.
        """
        where = local_path(path)
        # os.path, unlike pathlib, also returns False for names that no file system accepts.
        if os.path.isfile(where):
            files = [where]
        elif os.path.isdir(where):
            files = [file for file in where.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file()]
            files.sort(key=lambda file: file.relative_to(where).as_posix())
        else:
            missing = str(where)[:200]
            raise ValueError(
                f"text must be a file or a folder of {' and '.join(SUFFIXES)} files, but {missing!r} does not exist"
            )
        if not files:
            raise ValueError(f"text {where}: has no {' or '.join(SUFFIXES)} file; give another folder, or one file")
        return _read(str(where), tuple(files), tuple(map(stamp, files)))


@lru_cache(maxsize=4)
def _read(source: str, files: tuple[Path, ...], _stamps: tuple[Stamp | None, ...]) -> Documents:
    """The documents in files, which had these stamps."""
    contents = [file.read_bytes() for file in files]
    texts = tuple(_text(file, content) for file, content in zip(files, contents, strict=True))
    sums = canonical_json([hashlib.sha256(content).hexdigest() for content in contents])
    return Documents(texts, source, hashlib.sha256(sums.encode()).hexdigest())


def _text(file: Path, content: bytes) -> str:
    try:
        text = content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"text {file}: is not UTF-8 (byte {error.start}: {error.reason}); convert it, or take it away"
        ) from error
    if not text.strip():
        raise ValueError(f"text {file}: is empty; fill it, or take it away")
    return text


def stretches(text: str) -> Iterator[list[str]]:
    """A text in stretches of about STRETCH characters, each as its sentences, which begin with the white space before
    them. A line break ends a sentence that has no other end for STRETCH characters. The last one ends with an empty
    line, as another text may follow."""
    found = _BOUNDARY.split(text.strip())
    sentences = [part for each in found for part in ([each] if len(each) < STRETCH else _LINE.split(each))]
    sentences[-1] += "\n\n"
    stretch, characters = list[str](), 0
    for sentence in sentences:
        stretch.append(sentence)
        characters += len(sentence)
        if characters >= STRETCH:
            yield stretch
            stretch, characters = [], 0
    if stretch:
        yield stretch
