"""Text: the documents of an imported dataset as a task. Not in the paper.

Needs only NumPy to be imported; PyArrow loads when documents are read.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from datagen.canonical import fingerprint_of
from datagen.checks import require
from datagen.files import Stamp, stamp
from datagen.rows import Rows
from datagen.shard_size import rows_per_shard
from datagen.storage import as_path, in_store
from datagen.task import Task, check_split
from datagen.tokenizer import Tokenizer, stored_tokenizer
from datagen.wording import AnsweredQuestion, QuestionText, Wording, byte_level_text

if TYPE_CHECKING:
    from datagen.schema import Dataset

CHARACTERS = 400  # of a text in a report


@dataclass(frozen=True)
class Text(Task):
    """The documents that `python pipelines/generate.py --task text --import` made a dataset of.

    path    the directory of that dataset, which the import prints.

    A split has the rows that were imported, in that order, and no more: set data.train_rows, data.validation_rows and
    data.test_rows to what is there. Seeds have no effect. Without completions, so with answers on all
    tokens, a model needs sleep_on = "all".

    The task is identified by the content of the dataset, not by its path; Ray's workers read it at this path.
    """

    path: str

    def __post_init__(self) -> None:
        require(type(self.path) is str and self.path != "", "path", self.path, "the directory of an imported dataset")
        where = as_path(self.path)
        # Ray's workers run in other directories
        object.__setattr__(self, "path", str(where if in_store(where) else where.absolute()))
        found = self.dataset
        require(found.task == "text", "path", self.path, f"a dataset of texts, holds the task {found.task}")

    @property
    def dataset(self) -> Dataset:
        """Raises DatasetNotFoundError, a ValueError, if there is none."""
        file = as_path(self.path) / "dataset.json"
        return _dataset(self.path, None if in_store(file) else stamp(file))

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return self.dataset.vocabulary

    @property
    def row_length(self) -> int:
        return int(self.dataset.config["row_length"])

    @property
    def max_depth(self) -> int:
        return int(self.dataset.config["max_depth"])

    def identity(self) -> dict[str, Any]:
        """The dataset by its contents."""
        found = self.dataset
        sums = {name: [shard.sha256 for shard in split.shards] for name, split in found.splits.items()}
        return {"dataset": fingerprint_of([sums, found.config])}

    def read_tokenizer(self) -> Tokenizer | None:
        return stored_tokenizer(self.path)

    def check_rows(self, split: str, rows: int) -> None:
        there = self.dataset.splits
        available = there[split].rows if split in there else 0
        if rows > available:
            raise ValueError(
                f"{split} has {available:,} of the {rows:,} rows that are asked for, in {self.path}: set "
                f"data.{split}_rows={available} or fewer, or import more documents"
            )

    def sample(self, split: str, seed: int, shard: int, rows: int) -> Rows:
        """Rows of the imported split, of which each shard has its range. Raises ValueError where there are too few."""
        from datagen.reader import read_range

        check_split(split)
        start = shard * rows_per_shard(self)
        self.check_rows(split, start + rows)
        return read_range(self.path, split, start, rows)

    @classmethod
    def wording(cls, config: Mapping[str, Any]) -> Wording:
        return DocumentWording()


class DocumentWording(Wording):
    """Decodes tokens from the vocabulary alone: bytes, or those of a byte-level tokenizer."""

    def question_text(self, asked: AnsweredQuestion) -> QuestionText:
        parts = (asked.words[: asked.start], asked.right, asked.given)
        return QuestionText(*(_shortened(byte_level_text(words)) for words in parts))


def _shortened(text: str) -> str:
    return textwrap.shorten(text, CHARACTERS, placeholder=" …")


@lru_cache(maxsize=4)
def _dataset(path: str, _stamp: Stamp | None) -> Dataset:
    """The description of the dataset in a directory, whose dataset.json had that stamp."""
    from datagen.reader import read_dataset

    return read_dataset(path)
