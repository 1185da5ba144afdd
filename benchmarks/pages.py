"""Pages of docs/ whose prose is written by hand and whose tables are filled in."""

from __future__ import annotations

import re
from collections.abc import Mapping


def filled(page: str, blocks: Mapping[str, str]) -> str:
    """The page with what stands between `<!-- NAME -->` and `<!-- end -->` replaced by each of `blocks`."""

    def block(found: re.Match[str]) -> str:
        return f"<!-- {found[1]} -->\n{blocks[found[1]]}\n<!-- end -->" if found[1] in blocks else found[0]

    return re.sub(r"<!-- ([a-z0-9-]+) -->\n.*?<!-- end -->", block, page, flags=re.DOTALL)
