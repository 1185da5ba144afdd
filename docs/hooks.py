"""What mkdocs does with links out of docs/, so that the same Markdown works in the repository and on the site.

Pictures and numbers under benchmarks/results are copied to the site. A link to anything else in the repository
becomes its path, as the site does not hold the source.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
RESULTS = "benchmarks/results/"


def on_files(files: Files, config: Any, **_: Any) -> Files:
    for path in sorted((ROOT / RESULTS).rglob("*")):
        if path.suffix in (".png", ".json"):
            name = str(path.relative_to(ROOT / RESULTS))
            files.append(File.generated(config, f"results/{name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    return re.sub(r"(!?)\[([^]]+)\]\(\.\./([^)#\s]+)\)", _link, markdown)


def _link(found: re.Match[str]) -> str:
    picture, text, target = found.groups()
    if not (ROOT / target).exists():
        return found[0]  # mkdocs names the page and the link
    if target.startswith(RESULTS) and (ROOT / target).is_file():
        return f"{picture}[{text}](results/{target.removeprefix(RESULTS)})"
    return f"`{target}`"
