"""One part of an import: its documents as shards, and a record of what was read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datagen.artifact import Artifact
from datagen.files import remove_temporaries, replacing
from datagen.lines import LONGEST_LINE, NAMED_LINES
from datagen.rows import Ragged, Rows
from datagen.schema import Shard
from datagen.shards import to_table, write_shard
from datagen.task import SPLITS
from datagen.text.documents import Document, Encoder
from datagen.text.sources import DamagedFileError, Span, read_lines, read_rows

PART_SHARD_TOKENS = 2**22  # about: 8 MiB of uint16
CHUNK = 2**18  # characters of plain text that are encoded at once


@dataclass(frozen=True)
class SpanRecord:
    """What was read of a span. malformed: its lines that cannot be used; named: the first of them, by their numbers in
    the span, with the reason; damaged: why the file could not be read to its end."""

    lines: int
    documents: int
    malformed: int
    named: list[tuple[int, str]]
    damaged: str | None = None


@dataclass(frozen=True)
class PartRecord:
    """shards: of each split, those of this part; longest: tokens of the longest row; deepest: the greatest depth."""

    spans: list[SpanRecord]
    shards: dict[str, list[Shard]]
    longest: int
    deepest: int


RECORD = Artifact("part.json", PartRecord, "run the import again")


def written_shard(part: Path, split: str, number: int) -> Path:
    return part / f"{split}-{number:05d}.parquet"


def write_part(spans: Sequence[Span], encoder: Encoder, part: Path) -> PartRecord:
    """Read a part, write its shards and its record into the directory `part`: one Ray task."""
    remove_temporaries(part)
    writers = {split: _ShardWriter(part, split, len(encoder.vocabulary.tokens)) for split in SPLITS}
    records = []
    for span in spans:
        reader = _SpanReader(span, encoder)
        for document in reader.documents():
            writers[document.split].add(document)
        records.append(reader.record())
    for writer in writers.values():
        writer.flush()
    record = PartRecord(
        records,
        {split: writer.shards for split, writer in writers.items() if writer.shards},
        max(writer.longest for writer in writers.values()),
        max(writer.deepest for writer in writers.values()),
    )
    RECORD.save(part, record)
    return record


class _SpanReader:
    """The documents of a span, and what could not be used of it."""

    def __init__(self, span: Span, encoder: Encoder) -> None:
        self.span, self.encoder = span, encoder
        self._lines = self._documents = self._malformed = 0
        self._named: list[tuple[int, str]] = []
        self._damaged: str | None = None

    def record(self) -> SpanRecord:
        return SpanRecord(self._lines, self._documents, self._malformed, self._named, self._damaged)

    def documents(self) -> Iterator[Document]:
        form = self.span.source.form
        try:
            for document in self._texts() if form == "text" else self._records(form == "parquet"):
                self._documents += 1
                yield document
        except DamagedFileError as error:
            self._damaged = str(error)

    def _records(self, parquet: bool) -> Iterator[Document]:
        for line in read_rows(self.span) if parquet else read_lines(self.span):
            self._lines += 1
            if isinstance(line, bytes) and not line.strip():
                continue
            try:
                found = self.encoder.record(line if not isinstance(line, bytes) else json.loads(_decoded(line)))
            except RecursionError:
                self._refuse("the JSON is nested too deeply")
            except ValueError as error:  # from JSON, the encoder, bad UTF-8, integers of too many digits
                self._refuse(f"{error!s:.300}")
            else:
                yield from found

    def _texts(self) -> Iterator[Document]:
        """Of a plain text, chunk by chunk."""
        chunk, filled, most = list[str](), 0, max(CHUNK, 4 * self.encoder.options.max_tokens)
        for line in read_lines(self.span):
            self._lines += 1
            try:
                chunk.append(_decoded(line).replace("\r\n", "\n"))
            except ValueError as error:
                self._refuse(f"{error!s:.300}")
                continue
            filled += len(chunk[-1])
            if filled >= most:
                yield from self.encoder.text("".join(chunk))
                chunk, filled = [], 0
        yield from self.encoder.text("".join(chunk))

    def _refuse(self, why: str) -> None:
        self._malformed += 1
        if len(self._named) < NAMED_LINES:
            self._named.append((self._lines, why))


def _decoded(line: bytes) -> str:
    if len(line) >= LONGEST_LINE:
        raise ValueError(f"must be shorter than {LONGEST_LINE:,} bytes")
    return line.decode()


class _ShardWriter:
    """Writes the documents of one split of a part, in shards of about PART_SHARD_TOKENS."""

    def __init__(self, part: Path, split: str, vocabulary_size: int) -> None:
        self._part, self._split, self._size = part, split, vocabulary_size
        self._open: list[Document] = []
        self._tokens = self.longest = self.deepest = 0
        self.shards: list[Shard] = []

    def add(self, document: Document) -> None:
        size = len(document.tokens)
        if self._open and self._tokens + size > PART_SHARD_TOKENS:
            self.flush()
        self._open.append(document)
        self._tokens += size
        self.longest, self.deepest = max(self.longest, size), max(self.deepest, document.depth)

    def flush(self) -> None:
        if self._open:
            with replacing(written_shard(self._part, self._split, len(self.shards))) as temporary:
                self.shards.append(write_shard(to_table(_rows(self._open, self._size), self._size), temporary))
            self._open, self._tokens = [], 0


def _rows(documents: Sequence[Document], vocabulary_size: int) -> Rows:
    dtype = np.uint16 if vocabulary_size <= 2**16 else np.uint32
    counts = np.array([len(document.answers) for document in documents])
    start, length = np.array([answer for document in documents for answer in document.answers], np.int32).T
    depth = np.repeat(np.array([document.depth for document in documents], np.int32), counts)
    lengths = np.array([len(document.tokens) for document in documents])
    tokens = np.concatenate([document.tokens for document in documents]).astype(dtype)
    return Rows(
        Ragged.of(tokens, lengths),
        Ragged.of(start, counts),
        Ragged.of(length, counts),
        Ragged.of(depth, counts),
        kind=np.array([document.kind for document in documents], dtype=object),
    )
