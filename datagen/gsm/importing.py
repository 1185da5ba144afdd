"""Imports problems from GSM-Infinite's official generator as a dataset."""

from __future__ import annotations

import hashlib
from dataclasses import asdict
from pathlib import Path

from datagen.files import replacing, sha256
from datagen.gsm.official import read_official
from datagen.gsm.task import encode, to_rows
from datagen.gsm.vocabulary import Pretrained, Vocabulary, Words
from datagen.gsm.wording import Imported
from datagen.schema import DATASET_FILE, FORMAT_VERSION, Dataset, Split, shard_path
from datagen.shards import to_table, write_shard
from datagen.storage import as_path
from datagen.task import check_split


def import_official(file: str | Path, root: str | Path, split: str = "test", tokenizer: str | None = None) -> Path:
    """Write a JSONL file of official problems as one split of a new dataset, and return the dataset's directory.

    The directory is `<root>/gsm/<fingerprint>`; the fingerprint is a hash of the file's bytes, the split and the
    vocabulary. Import files with the same tokenizer if they have to share token ids.

    tokenizer: a tokenizer.json or a directory with one; None makes each word one token, in a vocabulary that includes
    the words of this file.

    Raises FileNotFoundError, ValueError for an unknown split or a bad tokenizer, and MalformedLinesError, which lists
    lines that do not follow the format or contradict themselves. Nothing is written then.
    """
    check_split(split)
    problems = read_official(file)
    texts = (problem.prompt + problem.completion for problem in problems)
    vocabulary: Vocabulary = Words(texts) if tokenizer is None else Pretrained(tokenizer)
    rows = to_rows((encode(problem, vocabulary) for problem in problems), len(vocabulary.tokens))
    source = asdict(Imported(sha256(Path(file)), split, tokenizer and Path(tokenizer).name))
    words = hashlib.sha256("\n".join(vocabulary.tokens).encode()).hexdigest()
    identity = hashlib.sha256(f"{source} {words} {FORMAT_VERSION}".encode()).hexdigest()[:16]
    dataset = as_path(root).absolute() / "gsm" / identity
    with replacing(shard_path(dataset, split, 0)) as temporary:
        shard = write_shard(to_table(rows, len(vocabulary.tokens)), temporary)
    described = Dataset(FORMAT_VERSION, "gsm", source, vocabulary.tokens, 0, {split: Split(len(rows), (shard,))})
    with replacing(dataset / DATASET_FILE) as temporary:
        temporary.write_text(described.to_json())
    return dataset
