"""Files of one's own as surfaces: problems and texts that are imported, and tokenizers."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from datagen import read_rows
from datagen.errors import DatasetError
from datagen.gsm.official import read_official
from datagen.gsm.solver import solve
from datagen.gsm.vocabulary import pretrained
from datagen.reader import read_dataset
from tests.datagen.gsm.problems import train_tokenizer
from tests.datagen.text.importing import imported
from tests.hostile.surface import Surface

GSM_LINE = {
    "problem": "The total number of schools in Ruby Bay equals 4. The number of art school in Ruby Bay exists, and its"
    " number is greater than 0. ",
    "question": "How many art school does Ruby Bay have?",
    "solution": "Define art school in Ruby Bay as x. Solution: x = 4. Answer: 4.",
    "op": 2,
    "template": "teachers_in_school",
    "mode": "forwardreverse",
}


# --- a model's directory


def _read_official(content: bytes, place: Path) -> None:
    (place / "problems.jsonl").write_bytes(content)
    for problem in read_official(place / "problems.jsonl"):
        assert solve(problem.question, problem.context).answer == problem.answer


def _problems(place: Path) -> tuple[bytes, ...]:
    line, table = json.dumps(GSM_LINE).encode(), BytesIO()
    pq.write_table(pa.Table.from_pylist([GSM_LINE, GSM_LINE]), table)
    return (line, line + b"\n" + line + b"\n", gzip.compress(line + b"\n" + line), table.getvalue())


TEXTS = ("texts.jsonl", "texts.txt")  # read as records, and as they are


def _import_texts(content: bytes, place: Path) -> None:
    """Every name for the same bytes: what one form refuses another may read."""
    refused = []
    for name in TEXTS:
        root, file = place / name / hashlib.sha256(content).hexdigest()[:16], place / name
        root.mkdir(parents=True, exist_ok=True)
        (root / file.name).write_bytes(content)
        try:
            path = imported([root / file.name], root)
        except DatasetError as error:
            refused.append(error)
            assert not list(root.rglob("dataset.json"))
        else:
            for split in read_dataset(path).splits:
                rows = read_rows(path, split)
                assert rows.loss_mask().any(1).all() and rows.tokens.values.max() < 256  # type: ignore[union-attr]
        finally:
            shutil.rmtree(root)
    if refused:
        raise refused[0]


def _texts(place: Path) -> tuple[bytes, ...]:
    records = [{"prompt": "Who? ", "completion": "Me.", "depth": 2, "kind": "who"}, {"text": "Some text.\n"}]
    lines, table = b"".join(json.dumps(record).encode() + b"\n" for record in records), BytesIO()
    pq.write_table(pa.Table.from_pylist(records[:1]), table)
    return (lines, gzip.compress(lines), table.getvalue())


def _read_tokenizer(content: bytes, place: Path) -> None:
    """What it encodes is in its vocabulary, and a task that it fits makes rows of it."""
    (place / "tokenizer.json").write_bytes(content)
    tokenizer = pretrained(place)
    ids = tokenizer.encode("The number of adult owl in Pine Ridge equals 3.")
    assert all(0 <= token < len(tokenizer.tokens) for token in ids)


def _tokenizers(place: Path) -> tuple[bytes, ...]:
    return (train_tokenizer(place).read_bytes(),)


IMPORTS = {
    "tokenizers": Surface(_tokenizers, _read_tokenizer, (ValueError,), "tokenizer.*give|must encode"),
    "imported problems": Surface(
        _problems, _read_official, (DatasetError,), "(line|row) [1-9]|not a whole Parquet file"
    ),
    "imported texts": Surface(
        _texts, _import_texts, (DatasetError,), "texts.*((line|row) [1-9]|not a whole Parquet file|has the columns)"
    ),
}
