"""Who holds a lock or an MLflow run, and whether it still lives."""

import subprocess
import sys

from pipelines.engine.processes import has_ended, has_ended_here, this_process


def test_a_process_on_a_copy_of_this_machine_is_not_taken_for_dead() -> None:
    """A cloned machine has this one's name and the same first namespace of pids, and was booted at another time."""
    me = this_process()
    assert not has_ended(me) and not has_ended_here(me)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    ended = {**me, "pid": process.pid}
    assert has_ended(ended) and has_ended_here(ended)
    assert not has_ended_here({**ended, "boot": "another"})
    assert not has_ended({**ended, "host": "another"}) and not has_ended({**ended, "pids": "another"})
