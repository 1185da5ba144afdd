"""Files to import: what they hold, and the parts of about equal size that Ray tasks read, whatever their number."""

from __future__ import annotations

import gzip
import os
import zlib
from codecs import BOM_UTF8
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from datagen.errors import MalformedLinesError
from datagen.files import sha256
from datagen.lines import GZIP, PARQUET, whole_lines
from datagen.storage import local_path

Form = Literal["records", "text", "parquet"]

RECORDS = (".json", ".jsonl", ".ndjson")  # names of files with a JSON object in each line
SUFFIXES = (".jsonl", ".md", ".ndjson", ".parquet", ".txt")  # what is taken from a folder, also with .gz behind
COLUMNS = ("prompt", "completion", "messages", "text", "depth", "kind", "split")
CONTENTS = ({"prompt", "completion"}, {"messages"}, {"text"})  # a record has the columns of one of these
PART_BYTES = 2**24
BATCH = 64  # rows of Parquet read at once


@dataclass(frozen=True)
class Source:
    """A file. name: as it was given, for errors; size: in bytes."""

    path: Path
    name: str
    form: Form
    zipped: bool
    size: int
    sha256: str


@dataclass(frozen=True)
class Span:
    """The lines of a source that begin in bytes start..end - 1; of Parquet, its row groups start..end - 1."""

    source: Source
    start: int
    end: int


class DamagedFileError(ValueError):
    """The file ends too early, or is not what it begins as."""


def find_sources(given: Sequence[str | Path]) -> list[Source]:
    """The files that are given, and those in given folders, in the order of their checksums, so that neither names nor
    the order in which they are given count. Of files with the same content the first is taken.

    Raises ValueError if there is none, or if something that is given does not exist; MalformedLinesError if a Parquet
    file is damaged or has none of the columns.
    """
    found: dict[tuple[str, str], Source] = {}
    for each in given:
        for file, name in _files(each):
            source = _source(file, name)
            found.setdefault((source.sha256, source.form), source)
    return [found[key] for key in sorted(found)]


def _files(given: str | Path) -> list[tuple[Path, str]]:
    """Files to read, with their names for errors."""
    where = local_path(given)
    # os.path, unlike pathlib, also returns False for names that no file system accepts.
    if os.path.isfile(where):
        return [(where.absolute(), str(given))]
    if not os.path.isdir(where):
        raise ValueError(f"{str(given)[:200]!r} does not exist: give files or folders to import")
    files = [file for file in where.rglob("*") if _suffix(file) in SUFFIXES and file.is_file()]
    if not files:
        raise ValueError(f"folder {given} has no {', '.join(SUFFIXES)} file, also with .gz: give files, or another")
    return [(file.absolute(), f"{given}/{file.relative_to(where).as_posix()}") for file in sorted(files)]


def _suffix(file: Path) -> str:
    return Path(file.name.lower().removesuffix(".gz")).suffix


def _source(file: Path, name: str) -> Source:
    with file.open("rb") as content:
        start = content.read(4)
    form: Form = "records" if _suffix(file) in RECORDS else "text"
    if start == PARQUET:
        form = "parquet"
        columns = set(_footer(file, name).schema.to_arrow_schema().names)
        if not any(content <= columns for content in CONTENTS):
            raise MalformedLinesError(
                f"{name}: has the columns {', '.join(sorted(columns))[:200]}; must have prompt and completion, "
                "messages, or text: rename its columns"
            )
    return Source(file, name, form, start.startswith(GZIP), file.stat().st_size, sha256(file))


def _footer(file: Path, name: str) -> pq.FileMetaData:
    try:
        return pq.read_metadata(file)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise MalformedLinesError(f"{name} is not a whole Parquet file ({error}): download or copy it again") from error


def parts_of(sources: Sequence[Source], part_bytes: int = PART_BYTES) -> list[tuple[Span, ...]]:
    """The sources in parts of about `part_bytes`: small files together, large ones cut. A gzipped file, which can only
    be read from its beginning, lies in one part."""
    parts: list[tuple[Span, ...]] = []
    open_part: list[Span] = []
    filled = 0
    for source in sources:
        for span, size in _spans(source, part_bytes):
            if open_part and filled + size > part_bytes:
                parts.append(tuple(open_part))
                open_part, filled = [], 0
            open_part.append(span)
            filled += size
    return [*parts, tuple(open_part)] if open_part else parts


def _spans(source: Source, part_bytes: int) -> Iterator[tuple[Span, int]]:
    """The spans of a source, each with its size in bytes."""
    if source.zipped:
        yield Span(source, 0, source.size), source.size
        return
    if source.form != "parquet":
        for start in range(0, max(source.size, 1), part_bytes):
            end = min(start + part_bytes, source.size)
            yield Span(source, start, end), end - start
        return
    footer = _footer(source.path, source.name)
    for group in range(max(footer.num_row_groups, 1)):
        size = footer.row_group(group).total_byte_size if footer.num_row_groups else 0
        yield Span(source, group, min(group + 1, footer.num_row_groups)), size


def read_lines(span: Span) -> Iterator[bytes]:
    """The lines of a span, with their ends. A line that is too long is cut off at LONGEST_LINE bytes.

    Raises ValueError if the file has changed since it was found, and DamagedFileError for a damaged gzipped one.
    """
    _check_unchanged(span.source)
    with span.source.path.open("rb") as file:
        if not span.source.zipped:
            _skip_begun_line(file, span.start)
            lines = whole_lines(file)
            while file.tell() < span.end and (line := next(lines, None)) is not None:
                yield line if span.start or file.tell() > len(line) else line.removeprefix(BOM_UTF8)
            return
        with gzip.open(file) as text:
            try:
                for number, line in enumerate(whole_lines(text)):
                    yield line if number else line.removeprefix(BOM_UTF8)
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise DamagedFileError(f"the file is damaged ({error}): download or copy it again") from error


def _skip_begun_line(file: IO[bytes], start: int) -> None:
    """Go to the first line that begins at `start` or behind."""
    if start:
        file.seek(start - 1)
        next(whole_lines(file), None)


def read_rows(span: Span) -> Iterator[dict[str, Any]]:
    """The rows of a span of a Parquet file, of COLUMNS. Raises as read_lines."""
    _check_unchanged(span.source)
    try:
        with pq.ParquetFile(span.source.path) as file:
            columns = [name for name in file.schema_arrow.names if name in COLUMNS]
            groups = list(range(span.start, span.end))
            for batch in file.iter_batches(BATCH, row_groups=groups, columns=columns, use_threads=False):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DamagedFileError(f"the file is damaged ({error!s:.200}): download or copy it again") from error


def _check_unchanged(source: Source) -> None:
    if not os.path.isfile(source.path):
        raise ValueError(f"{source.name} is gone: all nodes of a cluster must see it at this path during the import")
    if source.path.stat().st_size != source.size:
        raise ValueError(f"{source.name} has changed during the import: run it again")
