"""The command lines of the benchmarks."""

from __future__ import annotations

import runpy
import sys

import pytest

from benchmarks.results_file import ROOT

COMMANDS = sorted(
    "benchmarks." + ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
    for file in ROOT.rglob("*.py")
    if '__name__ == "__main__"' in file.read_text() or file.name == "__main__.py"
)


@pytest.mark.filterwarnings("ignore:.* found in sys.modules:RuntimeWarning")  # another test has imported it
@pytest.mark.parametrize("command", COMMANDS)
def test_a_benchmark_refuses_unknown_arguments_before_it_measures(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that ignores what it is given takes minutes and writes over published results."""
    if command == "benchmarks.pictures":
        pytest.importorskip("playwright")
    monkeypatch.setattr(sys, "argv", [command, "--no-such-option"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(command, run_name="__main__")
    said = capsys.readouterr().err
    assert ended.value.code == 2 and f"python -m {command}" in said
