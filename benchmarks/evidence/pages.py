"""Pages of docs/ whose prose is written by hand and whose tables are filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks.results_file import ROOT
from datagen.files import replacing

EVIDENCE, ITERATED_SLEEP, SCALING = (
    ROOT.parent / "docs" / name for name in ("evidence.md", "iterated-sleep.md", "scaling.md")
)


def fill(page: Path, blocks: Mapping[str, str]) -> None:
    """Replace what stands on the page between `<!-- NAME -->` and `<!-- end -->` by each of `blocks`.

    Raises KeyError for a block that the page has no place for; nothing is written then.
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
