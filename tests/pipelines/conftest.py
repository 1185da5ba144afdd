from pathlib import Path

import pytest
from matplotlib.figure import Figure

from pipelines.reporting import plots
from pipelines.reporting.sections import sections
from tests.pipelines.reports import data


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Each picture that the test draws, before it is a PNG, by its file's name."""
    kept: dict[str, Figure] = {}
    write = plots.write

    def keep(figure: Figure, title: str, path: Path) -> None:
        write(figure, title, path)
        kept[path.stem] = figure

    monkeypatch.setattr(plots, "write", keep)
    return kept


@pytest.fixture
def figures(drawn: dict[str, Figure], tmp_path: Path) -> dict[str, Figure]:
    """The same, with those of a report."""
    sections(data(), tmp_path)
    return drawn
