"""Measure the import of texts: MB per second of a core, and peak memory, by the size and the form of the file.

    python -m benchmarks.importing [--megabytes 200] [--tokenizer FILE.json]

Each measurement is a fresh process that reads one file, part by part, as one of Ray's tasks does. The peak must not
grow with the file: compare --megabytes 200 2000. Writes benchmarks/results/importing.json.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.arguments import command_parser
from benchmarks.reading import peak_bytes
from benchmarks.results_file import ROOT, write_result
from datagen import Gsm
from datagen.text.documents import Encoder
from datagen.text.importing import plan_import
from datagen.text.parts import write_part
from pipelines.arguments import filled, positive

FORMS = {"plain text": "texts.txt", "JSONL": "texts.jsonl", "gzipped JSONL": "texts.jsonl.gz"}


def import_file(file: Path, tokenizer: str | None) -> dict[str, Any]:
    """Import a file in this process, and measure it."""
    before = peak_bytes()
    begin = time.process_time()
    with tempfile.TemporaryDirectory() as root:
        found = plan_import([file], root, tokenizer)
        for number, spans in enumerate(found.parts):
            write_part(spans, Encoder(found.vocabulary, found.options), found.part(number))
        dataset, _ = found.write()
    seconds = time.process_time() - begin
    return {
        "documents": sum(split.rows for split in dataset.splits.values()),
        "seconds": seconds,
        "peak_bytes": peak_bytes() - before,
    }


def write_files(directory: Path, size: int) -> dict[str, Path]:
    """Files with `size` bytes of sentences of problems, which repeat themselves."""
    problems = Gsm(operations=(1, 4), tokens=(300, 500)).samples("train", 0, 0)
    texts = [next(problems).problem for _ in range(2000)]
    lines: dict[str, Callable[[], Iterator[bytes]]] = {
        "plain text": lambda: (f"{text.prompt}{text.completion}\n\n".encode() for text in texts),
        "JSONL": lambda: (
            json.dumps({"prompt": text.prompt, "completion": text.completion}).encode() + b"\n" for text in texts
        ),
    }
    lines["gzipped JSONL"] = lines["JSONL"]
    found = {}
    for form, name in FORMS.items():
        found[form] = directory / name
        block = b"".join(lines[form]())
        with gzip.open(found[form], "wb", 1) if name.endswith(".gz") else found[form].open("wb") as file:
            for _ in range(-(-size // len(block))):
                file.write(block)
    return found


def main() -> None:
    parser = command_parser("importing", __doc__)
    parser.add_argument("--megabytes", type=positive, nargs="+", default=[200], help="sizes of the files, unzipped")
    parser.add_argument("--tokenizer", type=filled, help="a tokenizer.json, or a directory with one; default: bytes")
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.file:
        print(json.dumps(import_file(given.file, given.tokenizer)))
        return
    measured = []
    tokenizer = ["--tokenizer", given.tokenizer] if given.tokenizer else []
    for megabytes in given.megabytes:
        with tempfile.TemporaryDirectory() as directory:
            for form, file in write_files(Path(directory), megabytes * 10**6).items():
                command = [sys.executable, "-m", "benchmarks.importing", "--file", str(file), *tokenizer]
                printed = subprocess.run(command, cwd=ROOT.parent, check=True, capture_output=True, text=True).stdout
                found = json.loads(printed)
                rate = megabytes / found["seconds"]
                measured.append({"megabytes": megabytes, "form": form, "mb_per_core_second": rate, **found})
    table = Table("MB", "form", "documents", "MB/s of a core", "peak MB", title="import of texts")
    for each in measured:
        cells = (f"{each['megabytes']:,}", each["form"], f"{each['documents']:,}", f"{each['mb_per_core_second']:.1f}")
        table.add_row(*cells, f"{each['peak_bytes'] / 1e6:,.0f}")
    Console().print(table)
    print(write_result("importing", {"pretrained": bool(given.tokenizer), "measured": measured}).name)


if __name__ == "__main__":
    main()
