"""Imports texts, prompts with completions, and chats as a dataset, in Ray tasks.

The files are cut into parts of about PART_BYTES, at ends of lines. A Ray task reads one part, writes its shards and
then a record of them into `parts/<number>/` of the dataset's directory. When all parts are there, their shards move to
where the dataset's belong, in the order of the parts, and dataset.json is written. So the dataset does not depend on
the number of workers, and a run that was ended goes on with the parts that are missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datagen.byte_vocabulary import BYTES, TextVocabulary
from datagen.canonical import fingerprint_of
from datagen.cluster import connect_to_ray
from datagen.errors import MalformedLinesError
from datagen.files import remove_temporaries, replacing, sha256
from datagen.lines import NAMED_LINES, named
from datagen.ray_tasks import progress_bar, run_tasks, shared
from datagen.schema import DATASET_FILE, FORMAT_VERSION, Dataset, Split, shard_path
from datagen.storage import as_path, move
from datagen.task import SPLITS
from datagen.text.documents import Encoder
from datagen.text.options import Options
from datagen.text.parts import RECORD, PartRecord, write_part, written_shard
from datagen.text.sources import PART_BYTES, Source, Span, find_sources, parts_of
from datagen.tokenizer import Tokenizer

PARTS = "parts"


@dataclass(frozen=True)
class TextImport:
    """An import that can be written. path: the dataset's directory; config: what dataset.json says of it."""

    path: Path
    sources: tuple[Source, ...]
    parts: tuple[tuple[Span, ...], ...]
    vocabulary: TextVocabulary
    options: Options
    config: dict[str, Any]

    @property
    def bytes(self) -> int:
        return sum(source.size for source in self.sources)

    def write(self, skip_malformed: bool = False) -> tuple[Dataset, list[str]]:
        """Write the dataset, unless it is finished, and return it with a text for each of the first lines that are left
        out. Finished parts are kept, and Ray is not used if all are finished.

        Raises MalformedLinesError, and leaves no dataset, if a file is damaged, if lines cannot be used and are not to
        be skipped, or if no document remains.
        """
        remove_temporaries(self.path)
        for split in SPLITS:
            remove_temporaries(self.path / split)
        records = self._records()
        malformed, bad = self._malformed(records)
        if bad and not skip_malformed:
            lines = sum(span.lines for record in records for span in record.spans)
            raise MalformedLinesError(
                f"{bad:,} of {lines:,} lines cannot be used. Correct them, or import the others with --skip-malformed, "
                f"which keeps what is done:\n{malformed}"
            )
        if not any(record.shards.values() for record in records):
            raise MalformedLinesError(f"the files hold no document that can be used:\n{malformed}")
        return self._publish(records, bad), malformed.splitlines()

    def _records(self) -> list[PartRecord]:
        """The record of each part, whose shards are there: in its directory, or in the dataset."""
        standing = [_standing_record(self.part(number)) for number in range(len(self.parts))]
        targets = self._targets(standing)
        missing = [
            number
            for number, record in enumerate(standing)
            if record is None or not _are_there(record, self.part(number), targets[number])
        ]
        if missing:
            connect_to_ray()
            encoder = shared(Encoder(self.vocabulary, self.options))
            calls = ((self.parts[number], encoder, self.part(number)) for number in missing)
            with progress_bar("parts of the texts", len(missing), "parts") as advance:
                found = run_tasks(write_part, calls, lambda _: advance(1))
            for number, record in zip(missing, found, strict=True):
                standing[number] = record
        return [record for record in standing if record is not None]

    def _targets(self, records: Sequence[PartRecord | None]) -> list[dict[str, list[Path]]]:
        """Where the shards of each part belong in the dataset; unknown, and empty, behind a part without a record."""
        targets, counts, known = [], dict.fromkeys(SPLITS, 0), True
        for record in records:
            known = known and record is not None
            target: dict[str, list[Path]] = {}
            for split, shards in record.shards.items() if record is not None and known else ():
                target[split] = [shard_path(self.path, split, counts[split] + i) for i in range(len(shards))]
                counts[split] += len(shards)
            targets.append(target)
        return targets

    def part(self, number: int) -> Path:
        """The directory of a part."""
        return self.path / PARTS / f"{number:05d}"

    def _malformed(self, records: Sequence[PartRecord]) -> tuple[str, int]:
        """The first lines that cannot be used, as text, and how many there are. Raises MalformedLinesError if a file is
        damaged."""
        found: list[str] = []
        count, before = 0, dict.fromkeys((source.name for source in self.sources), 0)
        blank = dict.fromkeys(before, True)
        for part, record in zip(self.parts, records, strict=True):
            for span, read in zip(part, record.spans, strict=True):
                name, what = span.source.name, "row" if span.source.form == "parquet" else "line"
                if read.damaged:
                    raise MalformedLinesError(f"{name}, {what} {before[name] + read.lines + 1}: {read.damaged}")
                found += [f"{name}, {what} {before[name] + line}: {why}" for line, why in read.named]
                before[name] += read.lines
                blank[name] = blank[name] and not read.documents and not read.malformed
                count += read.malformed
        found += [f"{name}, line 1: the file holds no text" for name, there in blank.items() if there]
        count += sum(blank.values())
        more = count - min(len(found), NAMED_LINES)
        return named(found[:NAMED_LINES]) + (f"\nand {more:,} more" if more else ""), count

    def _publish(self, records: Sequence[PartRecord], skipped: int) -> Dataset:
        for number, (record, target) in enumerate(zip(records, self._targets(records), strict=True)):
            for split in record.shards:
                for i, path in enumerate(target[split]):
                    written = written_shard(self.part(number), split, i)
                    if written.exists():
                        move(written, path)
        shards = {split: [shard for record in records for shard in record.shards.get(split, [])] for split in SPLITS}
        longest, deepest = max(r.longest for r in records), max(r.deepest for r in records)
        dataset = Dataset(
            FORMAT_VERSION,
            "text",
            {**self.config, "skipped": skipped, "row_length": longest, "max_depth": deepest},
            self.vocabulary.tokens,
            0,
            {name: Split(sum(shard.rows for shard in each), tuple(each)) for name, each in shards.items() if each},
        )
        if isinstance(self.vocabulary, Tokenizer):
            self.vocabulary.write(self.path)
        with replacing(self.path / DATASET_FILE) as temporary:
            temporary.write_text(dataset.to_json())
        return dataset


def plan_import(
    files: Sequence[str | Path],
    root: str | Path,
    tokenizer: str | Path | None = None,
    options: Options = Options(),  # noqa: B008
) -> TextImport:
    """What `import_text` would write. Writes nothing.

    Raises ValueError for files, folders or a tokenizer that cannot be used, and MalformedLinesError for a damaged
    Parquet file or one with other columns.
    """
    vocabulary: TextVocabulary = BYTES if tokenizer is None else Tokenizer.read(tokenizer)
    sources = find_sources(files)
    plain = [source.name for source in sources if source.form == "text"]
    if plain and options.loss == "completions":
        raise ValueError(f"{plain[0]} is plain text, which has no completions: import it with --loss all")
    config = {
        "sources": fingerprint_of([[source.sha256, source.form] for source in sources]),
        **asdict(options),
        "tokenizer": _identity(vocabulary) if isinstance(vocabulary, Tokenizer) else None,
        "part_bytes": PART_BYTES,
    }
    hashed = {**config, "format": FORMAT_VERSION}
    if any(source.form != "text" for source in sources):
        hashed["splits"] = "by prompt"  # a hash of whole documents chose them in 0.1.0: no such dataset is overwritten
    path = as_path(root).absolute() / "text" / fingerprint_of(hashed)
    return TextImport(path, tuple(sources), tuple(parts_of(sources, PART_BYTES)), vocabulary, options, config)


def import_text(
    files: Sequence[str | Path],
    root: str | Path,
    tokenizer: str | Path | None = None,
    options: Options = Options(),  # noqa: B008
    *,
    skip_malformed: bool = False,
) -> Path:
    """Write the documents of files and folders as a new dataset, and return its directory, `<root>/text/<fingerprint>`.

    files: JSONL or Parquet with the columns prompt and completion, messages, or text, and perhaps depth, kind and
    split; all other files are plain text, such as .txt and .md; each may be gzipped. tokenizer: a tokenizer.json or a
    directory with one; None makes each byte of the UTF-8 text one token.

    The fingerprint is a hash of the files' contents, the options and the tokenizer: not of names, paths or the order
    of files. Raises as `plan_import` and `TextImport.write`.
    """
    found = plan_import(files, root, tokenizer, options)
    found.write(skip_malformed)
    return found.path


def _identity(tokenizer: Tokenizer) -> str:
    return fingerprint_of([tokenizer.sha256, tokenizer.chat_template, tokenizer.special])


def _standing_record(part: Path) -> PartRecord | None:
    try:
        return RECORD.load(part)
    except (FileNotFoundError, ValueError):
        return None  # not finished, or damaged: written again


def _are_there(record: PartRecord, part: Path, targets: dict[str, list[Path]]) -> bool:
    """Whether each shard of a part is whole, in the part's directory or in the dataset."""
    return all(
        any(file.exists() and sha256(file) == shard.sha256 for file in (written_shard(part, split, i), *target))
        for split, shards in record.shards.items()
        for i, shard in enumerate(shards)
        for target in ([targets[split][i]] if split in targets else [],)
    )
