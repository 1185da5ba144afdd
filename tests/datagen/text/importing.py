"""Imports in this process, for tests that need no Ray: what its tasks would write is there before."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datagen.text.documents import Encoder
from datagen.text.importing import TextImport, plan_import
from datagen.text.options import Options
from datagen.text.parts import write_part
from datagen.text.sources import PART_BYTES, parts_of

CHATML = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def planned(
    files: Sequence[Path], root: Path, options: Options, tokenizer: Path | None = None, part_bytes: int = PART_BYTES
) -> TextImport:
    """An import whose parts are written."""
    found = plan_import(files, root, tokenizer, options)
    found = replace(found, parts=tuple(parts_of(found.sources, part_bytes)))
    for number, spans in enumerate(found.parts):
        write_part(spans, Encoder(found.vocabulary, found.options), found.part(number))
    return found


def imported(
    files: Sequence[Path],
    root: Path,
    options: Options = Options(),  # noqa: B008
    tokenizer: Path | None = None,
    *,
    part_bytes: int = PART_BYTES,
    skip_malformed: bool = False,
) -> Path:
    found = planned(files, root, options, tokenizer, part_bytes)
    found.write(skip_malformed)
    return found.path


def write_records(file: Path, records: Sequence[Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file
