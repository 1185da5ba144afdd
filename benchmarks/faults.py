"""Inject faults into a whole pipeline: start full.py on its own Ray, break it while it trains, run the command again.

    python -m benchmarks.faults

Each fault gets its own root. The final weights are compared with those of an undisturbed run. Writes
benchmarks/results/faults.json and exits with status 1 if the pipeline did not survive a fault.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
import torch
from mlflow import MlflowClient
from rich.console import Console
from rich.table import Table

from benchmarks.arguments import command_parser
from benchmarks.results_file import ROOT, write_result
from sleepmodel import load
from sleepmodel.distributed.checkpoints import latest
from sleepmodel.distributed.job import MODEL
from sleepmodel.distributed.ray_worker import CHECKPOINTS

STEPS, EVERY, TIMEOUT = 400, 20, 300
TRAINING = "train-n1-seed20"
SMALL = ("search=null", "seeds=[20]", f"train.steps={STEPS}", f"train.validate_every={EVERY}", "scale.workers=2")
WORKER = "ray::RayTrainWorker"
Fault = Callable[[psutil.Process, Path], None]


@dataclass(frozen=True)
class Outcome:
    """The result of one fault.

    commands: how often full.py was started; at: the last step with a checkpoint when the fault was injected;
    same_weights: whether the final weights equal those of the undisturbed run; runs: MLflow runs of the training;
    reports, expected: points of its learning curve, as logged and as they should be.
    """

    fault: str
    commands: int
    at: int
    same_weights: bool
    runs: int
    reports: int
    expected: int
    seconds: float

    @property
    def survived(self) -> bool:
        return self.same_weights and self.runs == 1 and self.reports == self.expected


def workers(driver: psutil.Process) -> list[psutil.Process]:
    return [process for process in driver.children(recursive=True) if process.name().startswith(WORKER[:15])]


def kill_one_worker(driver: psutil.Process, root: Path) -> None:
    workers(driver)[-1].kill()


def kill_all_workers(driver: psutil.Process, root: Path) -> None:
    for worker in workers(driver):
        worker.kill()


def kill_driver(driver: psutil.Process, root: Path) -> None:
    driver.kill()


def kill_cluster(driver: psutil.Process, root: Path) -> None:
    for process in [driver, *driver.children(recursive=True)]:
        process.kill()


def terminate_driver(driver: psutil.Process, root: Path) -> None:
    driver.terminate()


def kill_and_tear(driver: psutil.Process, root: Path) -> None:
    """Kill the cluster and cut each file of the last checkpoint to half its length."""
    kill_cluster(driver, root)
    saved = latest(checkpoints(root))
    assert saved is not None
    for path in saved.path.iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


FAULTS: dict[str, Fault] = {
    "SIGKILL of one of two workers": kill_one_worker,
    "SIGKILL of all workers": kill_all_workers,
    "SIGKILL of full.py": kill_driver,
    "SIGKILL of full.py and its Ray": kill_cluster,
    "the same, and the last checkpoint torn": kill_and_tear,
    "SIGTERM of full.py": terminate_driver,
}


def main() -> None:
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        undisturbed = Path(directory) / "undisturbed"
        assert _start(undisturbed).wait(TIMEOUT) == 0, "the undisturbed pipeline failed; run full.py smoke to see why"
        outcomes = [_survive(name, Path(directory) / str(i), undisturbed) for i, name in enumerate(FAULTS)]
    _show(outcomes)
    rows = [{**asdict(outcome), "survived": outcome.survived} for outcome in outcomes]
    print(write_result("faults", {"steps": STEPS, "report_every": EVERY, "workers": 2, "faults": rows}))
    sys.exit(not all(outcome.survived for outcome in outcomes))


def checkpoints(root: Path) -> Path:
    return next(iter((root / "steps" / TRAINING).glob("*")), root / "none") / CHECKPOINTS


def _start(root: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "pipelines/full.py", "smoke", "--root", str(root), "--set", *SMALL]
    environment = {**os.environ, "RAY_ADDRESS": "local"}  # never use a Ray that already runs on this machine
    quiet = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=ROOT.parent, env=environment, stdout=quiet, stderr=quiet)


def _survive(name: str, root: Path, undisturbed: Path) -> Outcome:
    begin = time.monotonic()
    shutil.copytree(undisturbed / "steps" / "generate", root / "steps" / "generate")
    process, commands = _start(root), 1
    while (saved := latest(checkpoints(root))) is None or saved.step < 2 * EVERY:
        assert process.poll() is None and time.monotonic() - begin < TIMEOUT, (
            f"{name}: full.py did not reach step {2 * EVERY} within {TIMEOUT} s"
        )
        time.sleep(0.2)
    FAULTS[name](psutil.Process(process.pid), root)
    while process.wait(TIMEOUT) != 0:
        assert commands < 3, f"{name}: full.py failed {commands} times in {root}"
        process, commands = _start(root), commands + 1
    runs, reports = _logged(root)
    seconds = time.monotonic() - begin
    outcome = Outcome(
        name, commands, saved.step, _same_weights(root, undisturbed), runs, reports, STEPS // EVERY, seconds
    )
    print(f"{name}: {'survived' if outcome.survived else 'NOT survived'}", flush=True)
    return outcome


def _same_weights(root: Path, undisturbed: Path) -> bool:
    one, other = (load(checkpoints(each).parent / MODEL).state_dict() for each in (root, undisturbed))
    return all(torch.equal(one[name], other[name]) for name in one)


def _logged(root: Path) -> tuple[int, int]:
    client = MlflowClient(f"sqlite:///{root}/mlflow.db")
    (experiment,) = (e for e in client.search_experiments() if e.name == "sleepmodel")
    runs = client.search_runs([experiment.experiment_id], f"attributes.run_name = '{TRAINING}'")
    return len(runs), len(client.get_metric_history(runs[0].info.run_id, "step"))


def _show(outcomes: list[Outcome]) -> None:
    table = Table(title=f"full.py with two workers, {STEPS} steps, a report every {EVERY} steps")
    for column in ("fault", "commands", "last checkpoint", "weights", "MLflow runs", "reports", "seconds"):
        table.add_column(column)
    for o in outcomes:
        weights = "equal" if o.same_weights else "DIFFER"
        reports = f"{o.reports} of {o.expected}"
        table.add_row(o.fault, str(o.commands), f"step {o.at}", weights, str(o.runs), reports, f"{o.seconds:.0f}")
    Console().print(table)


if __name__ == "__main__":
    command_parser("faults", __doc__).parse_args()
    main()
