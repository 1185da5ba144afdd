"""Imports problems from GSM-Infinite's official generator as a dataset."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from datagen.files import replacing, sha256
from datagen.gsm.official import read_lines, read_official
from datagen.gsm.task import encode, to_rows
from datagen.gsm.vocabulary import Words, pretrained
from datagen.gsm.wording import Imported
from datagen.rows import Rows
from datagen.schema import DATASET_FILE, FORMAT_VERSION, Dataset, Split, shard_path
from datagen.shards import to_table, write_shard
from datagen.storage import as_path, local_path
from datagen.task import check_split
from datagen.tokenizer import Tokenizer
from datagen.vocabulary import Vocabulary


def import_official(
    file: str | Path,
    root: str | Path,
    split: str = "test",
    tokenizer: str | None = None,
    *,
    skip_malformed: bool = False,
) -> Path:
    """Write a file of official problems as one split of a new dataset, and return the dataset's directory.

    file: JSONL, also gzipped, or Parquet. tokenizer, skip_malformed, errors: as of `read_import`.
    """
    return read_import(file, root, split, tokenizer, skip_malformed=skip_malformed).write()


@dataclass(frozen=True)
class Import:
    """Problems that have been read and solved, and can be written as a dataset.

    path: the dataset's directory; skipped: a text for each line that is left out ("line 3: ..."), with the reason.
    """

    path: Path
    config: Imported
    vocabulary: tuple[str, ...]
    rows: Rows
    skipped: tuple[str, ...]
    tokenizer: Tokenizer | None = None

    def write(self) -> Path:
        """Write the dataset and return its directory."""
        split = self.config.split
        with replacing(shard_path(self.path, split, 0)) as temporary:
            shard = write_shard(to_table(self.rows, len(self.vocabulary)), temporary)
        if self.tokenizer is not None:
            self.tokenizer.write(self.path)
        splits = {split: Split(len(self.rows), (shard,))}
        described = Dataset(FORMAT_VERSION, "gsm", asdict(self.config), self.vocabulary, 0, splits)
        with replacing(self.path / DATASET_FILE) as temporary:
            temporary.write_text(described.to_json())
        return self.path


def read_import(
    file: str | Path,
    root: str | Path,
    split: str = "test",
    tokenizer: str | None = None,
    *,
    skip_malformed: bool = False,
) -> Import:
    """Read and solve the problems of a file, for one split of a new dataset. Writes nothing.

    The dataset's directory is `<root>/gsm/<fingerprint>`; the fingerprint is a hash of the file's bytes, the number of
    lines left out, the split, the vocabulary and the content of the tokenizer. Import files with the same tokenizer if
    they have to share token ids.

    tokenizer: a tokenizer.json or a directory with one; None makes each word one token, in a vocabulary that includes
    the words of this file. skip_malformed: leave out lines that do not follow the format or contradict themselves.

    Raises FileNotFoundError, ValueError for an unknown split or a bad tokenizer, and MalformedLinesError, which lists
    the malformed lines, unless they are skipped and other lines remain.
    """
    check_split(split)
    problems, skipped = read_lines(file) if skip_malformed else (read_official(file), [])
    texts = (problem.prompt + problem.completion for problem in problems)
    found = None if tokenizer is None else pretrained(tokenizer)
    vocabulary: Vocabulary = Words(texts) if found is None else found
    rows = to_rows((encode(problem, vocabulary) for problem in problems), len(vocabulary.tokens))
    config = Imported(sha256(local_path(file)), split, tokenizer and Path(tokenizer).name, len(skipped))
    words = hashlib.sha256("\n".join(vocabulary.tokens).encode()).hexdigest()
    identifying = replace(config, tokenizer=None if found is None else found.sha256)
    identity = hashlib.sha256(f"{asdict(identifying)} {words} {FORMAT_VERSION}".encode()).hexdigest()[:16]
    path = as_path(root).absolute() / "gsm" / identity
    return Import(path, config, vocabulary.tokens, rows, tuple(skipped), found)
