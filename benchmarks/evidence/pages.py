"""Fill in the tables of README and of the pages of docs/. Their prose is written by hand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks.results_file import ROOT
from datagen.files import replacing

README = ROOT.parent / "README.md"
DEMO, EVIDENCE, ITERATED_SLEEP, PERFORMANCE, SCALING = (
    ROOT.parent / "docs" / name
    for name in ("demo.md", "evidence.md", "iterated-sleep.md", "performance.md", "scaling.md")
)


def fill(page: Path, blocks: Mapping[str, str]) -> None:
    """Replace the text between `<!-- NAME -->` and `<!-- end -->` on the page, for each (NAME, text) of `blocks`.

    Raises KeyError if the page lacks one of the markers, and writes nothing then.
    """
    missing = set(blocks)

    def block(found: re.Match[str]) -> str:
        missing.discard(found[1])
        return f"<!-- {found[1]} -->\n{blocks[found[1]]}\n<!-- end -->" if found[1] in blocks else found[0]

    text = re.sub(r"<!-- ([a-z0-9-]+) -->\n.*?<!-- end -->", block, page.read_text(), flags=re.DOTALL)
    if missing:
        raise KeyError(f"{page.name} has no <!-- {min(missing)} --> ... <!-- end -->")
    with replacing(page) as temporary:
        temporary.write_text(text)
