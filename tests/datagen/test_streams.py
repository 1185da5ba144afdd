"""Programs whose standard streams are closed, from the start or as they run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.waiting import run

PROGRAM = """
import sys
from pathlib import Path
from datagen.streams import open_closed_streams, outlive_readers

open_closed_streams()
outlive_readers()
with open(sys.argv[1], "w") as file:
    for _ in range(10_000):
        print("out", flush=True)
        print("err", file=sys.stderr)
    file.write(repr(sys.stdin.read()))
"""


@pytest.mark.parametrize(
    "redirection",
    ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "| true", "2>&1 | head -1", ">/dev/full", ">/dev/full 2>/dev/full"],
)
def test_a_program_ends_its_work_though_nobody_reads_it(redirection: str, tmp_path: Path) -> None:
    """And what it prints goes to no file that was opened in place of the stream."""
    program, file = tmp_path / "program.py", tmp_path / "file"
    program.write_text(PROGRAM)
    shell = f'set -o pipefail; "$0" "$1" "$2" {redirection}'
    done = run(["bash", "-c", shell, sys.executable, str(program), str(file)], input="")
    assert done.returncode == 0 and "Traceback" not in done.stderr and "Error" not in done.stderr
    assert file.read_text() == "''"


def test_output_that_is_not_buffered_stays_so(tmp_path: Path) -> None:
    """PYTHONUNBUFFERED, as in containers: what was printed is there, however the process ends."""
    program = """
import os
from datagen.streams import outlive_readers

outlive_readers()
print("said", end="")
os._exit(0)
"""
    assert run([sys.executable, "-u", "-c", program]).stdout == "said"
