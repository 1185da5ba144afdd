from pathlib import Path

import pytest
from matplotlib.figure import Figure

from pipelines.reporting import plots
from pipelines.reporting.sections import sections
from tests.pipelines.reports import data


@pytest.fixture
def figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Each picture of a report, before it is a PNG, by its file's name."""
    drawn: dict[str, Figure] = {}
    write = plots.write

    def keep(figure: Figure, title: str, path: Path) -> None:
        write(figure, title, path)
        drawn[path.stem] = figure

    monkeypatch.setattr(plots, "write", keep)
    sections(data(), tmp_path)
    return drawn
