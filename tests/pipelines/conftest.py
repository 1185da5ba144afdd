from pathlib import Path

import pytest
from matplotlib.figure import Figure

from pipelines.reporting.sections import sections
from tests.pipelines.reports import data, kept_figures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Figure]:
    """Each picture that the test draws, before it is a PNG, by its file's name."""
    return kept_figures(monkeypatch)


@pytest.fixture
def figures(drawn: dict[str, Figure], tmp_path: Path) -> dict[str, Figure]:
    """The same, with those of a report."""
    sections(data(), tmp_path)
    return drawn
