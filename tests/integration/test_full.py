"""The whole pipeline as a user runs it: the smoke preset, of one seed, on the session's Ray, from raw cells to a
champion."""

import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow import MlflowClient

from datagen import generate, read_rows
from pipelines.engine.locks import LOCKS
from pipelines.reporting.results import RESULTS
from pipelines.stages.generate import dataset
from pipelines.stages.register import REGISTRATION
from pipelines.stages.tune import TRIALS
from sleepmodel import load
from sleepmodel.config.training import Search
from sleepmodel.distributed.checkpoints import latest
from sleepmodel.distributed.job import MODEL, TrainingJob, has_model, read_training
from sleepmodel.distributed.ray_tune import remove_checkpoints, search
from sleepmodel.distributed.ray_worker import CHECKPOINTS
from sleepmodel.evaluation.accuracy import predict
from sleepmodel.tracking.runs import tracking_uri
from tests.sleepmodel.tiny import CONFIG, TASK
from tests.sleepmodel.tiny import MODEL as TINY
from tests.waiting import Background, in_thread, run, scaled

pytestmark = pytest.mark.slow
long = pytest.mark.skipif("MAKE_FAULTS" not in os.environ, reason="takes minutes: make faults")

ROOT = Path(__file__).parents[2]
NO_RAY = "127.0.0.1:1"
# a remark of a process of Ray: "(raylet)", "(PlacementGroupCleaner pid=1)", in colour
RAYS_OWN = re.compile(r"\x1b\[\d+m\(")
ONE_SEED = ("--set", "seeds=[20]")
# a pipeline of one training, which lasts long enough to be killed
SMALL = (*ONE_SEED, "search=null", "train.steps=400", "train.validate_every=20")


def command(script: str, root: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "pipelines" / f"{script}.py"), "smoke", "--root", str(root), *arguments]


def environment(ray_address: str) -> dict[str, str]:
    return {**os.environ, "RAY_ADDRESS": ray_address, "COLUMNS": "200"}


def completed(script: str, root: Path, ray_address: str, *arguments: str) -> str:
    result = run(command(script, root, *arguments), limit=800, env=environment(ray_address))
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def kill_when(
    condition: Callable[[], bool], script: str, root: Path, ray_address: str, *arguments: str, by: int = signal.SIGKILL
) -> int:
    """Start a script and send its driver a signal as soon as a condition holds; how it exits."""
    with Background(command(script, root, *arguments), env=environment(ray_address)) as driver:
        driver.until(condition, f"the moment to send it signal {by}")
        driver.send_signal(by)
        return driver.until_it_ends()


def only(root: Path, step: str) -> Path:
    (output,) = (root / "steps" / step).iterdir()
    assert (output / "SUCCESS").exists()
    return output


@pytest.fixture(scope="module")
def finished(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The root of a finished smoke pipeline, and what it printed."""
    root = tmp_path_factory.mktemp("full") / "job?1 #2" / 'it\'s 3% "ж" [4]'
    return root, completed("full", root, ray_cluster, *ONE_SEED)


def test_it_ends_with_a_table_pictures_and_a_champion(finished: tuple[Path, str]) -> None:
    root, printed = finished
    for text in ("held-out test rows", "winner", "report.html", "comparison.png", "@champion", "mlflow ui"):
        assert text in printed
    report = only(root, "report")
    pictures = {"comparison.png", "depths.png", "learning-curves.png", "search.png", "costs.png", "memory.png"}
    assert {path.name for path in report.glob("*.png")} == pictures
    assert "| winner | " in (report / "report.md").read_text()
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    page = (report / "report.html").read_text()
    assert page.count("data:image/png") == len(pictures) and (commit or "unknown") in page
    assert (report / "mistakes.md").read_text().count("## ") == 4


def test_the_printed_commands_are_pasted_into_a_shell(finished: tuple[Path, str], tmp_path: Path) -> None:
    root, printed = finished
    commands = {line[:9]: line[11:] for line in printed.splitlines()}
    unset = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    loaded = run(["sh", "-c", commands["load it  "]], cwd=tmp_path, env=unset)
    assert loaded.returncode == 0 and loaded.stdout.startswith("SleepModel("), loaded.stderr
    *_, option, uri = shlex.split(commands["MLflow UI"])
    assert (option, uri) == ("--backend-store-uri", tracking_uri(root))
    assert run(["sh", "-c", f"{commands['MLflow UI']} --help"], cwd=tmp_path, env=unset).returncode == 0


def test_a_refusal_names_the_command_that_meets_it(ray_cluster: str, tmp_path: Path) -> None:
    """From a root that needs quotes: pasted into a shell until the first stage runs."""
    root = tmp_path / 'a "root" that isn\'t  $HOME'
    refused = run(
        command("evaluate", root, "--set", "seeds=[20, 21]", "data.test_rows=300"), env=environment(ray_cluster)
    )
    for script in ("train", "generate"):
        assert refused.returncode == 2 and "which is not done" in refused.stderr
        pasted = refused.stderr.splitlines()[-1].strip()
        assert f"{script}.py" in pasted
        refused = run(["sh", "-c", pasted], cwd=ROOT, env=environment(ray_cluster))
    assert refused.returncode == 0, refused.stderr
    assert read_rows(dataset(only(root, "generate")), "test").answer_start.shape[0] >= 300


def test_a_log_has_the_progress_of_each_training_as_its_own_lines(finished: tuple[Path, str]) -> None:
    """Without Ray's "(RayTrainWorker pid=...)" in front, and before the stage is said to be done."""
    _, printed = finished
    lines = printed.splitlines()
    assert re.search(r"(?m)^Ray has .*\nfast weights: .* in float32 on CPU$", printed)
    assert [line for line in lines if "\x1b" in line and not RAYS_OWN.match(line)] == []
    assert "(RayTrainWorker" not in printed
    for name in ("n1-seed20", "winner-seed20", "n1-winner-eta-seed20"):
        reports = [line for line in lines if re.match(rf"{name}  step \d+/20  loss \d", line)]
        assert [line.split()[2] for line in reports] == ["10/20", "20/20"]
        done = next(line for line in lines if line.startswith(f"train-{name}: done in "))
        assert lines.index(reports[-1]) < lines.index(done)
    assert len([line for line in lines if re.match(r"tune-N[12]-eta1.00  step 10/20  loss", line)]) == 2


def test_a_second_run_does_nothing_and_needs_no_ray(finished: tuple[Path, str]) -> None:
    root, _ = finished
    before = {path: path.stat().st_mtime_ns for path in (root / "steps").rglob("*")}
    printed = completed("full", root, NO_RAY, *ONE_SEED)
    assert "nothing to do: all 8 stages are done" in printed and "@champion" in printed
    assert {path: path.stat().st_mtime_ns for path in (root / "steps").rglob("*")} == before


def test_a_changed_baseline_reuses_the_dataset(finished: tuple[Path, str]) -> None:
    root, _ = finished
    printed = completed("full", root, NO_RAY, "--dry-run", *ONE_SEED, "train.muon_lr=0.001")
    cells = [[cell.strip() for cell in line.split("│")[1:4]] for line in printed.splitlines() if line.startswith("│")]
    states = {step: stands for step, _, stands in cells if step}
    assert states.pop("generate") == "done"
    assert len(states) == 7 and set(states.values()) == {"to do"}


def test_the_champion_answers_as_it_was_evaluated(finished: tuple[Path, str]) -> None:
    """In a process of its own, through MLflow's pyfunc and through sleepmodel.load."""
    root, _ = finished
    path = dataset(only(root, "generate"))
    rows = read_rows(path, "test")[:64]
    registration = REGISTRATION.load(only(root, "register"))
    assert registration.champion and registration.name == "sleep-rule110"
    results = [result for result in RESULTS.load(only(root, "evaluate")) if result.variant == "winner"]
    chosen = max(results, key=lambda result: result.validation)
    expected = predict(load(root / chosen.path), rows).tokens[:, -1]
    np.save(root / "prompts.npy", rows.tokens[:, :-1].astype(np.int64))
    code = (
        "import sys, numpy, mlflow, sleepmodel, torch\n"
        "prompts = numpy.load(sys.argv[1])\n"
        "name = 'models:/sleep-rule110@champion'\n"
        "answers = mlflow.pyfunc.load_model(name).predict({'tokens': prompts})['answer']\n"
        "session = sleepmodel.Session(sleepmodel.load(name), len(prompts))\n"
        "session.read(torch.from_numpy(prompts))\n"
        "assert (answers == session.generate(1).numpy()).all()\n"
        "numpy.save(sys.argv[2], answers)\n"
    )
    uri = tracking_uri(root)
    fresh = run(
        [sys.executable, "-c", code, str(root / "prompts.npy"), str(root / "answers.npy")],
        cwd=root,
        env={**os.environ, "MLFLOW_TRACKING_URI": uri},
    )
    assert fresh.returncode == 0, fresh.stderr
    assert np.array_equal(np.load(root / "answers.npy")[:, 0], expected)


def test_mlflow_has_one_run_a_stage_and_trial_under_one_pipeline(finished: tuple[Path, str]) -> None:
    root, _ = finished
    client = MlflowClient(tracking_uri(root))
    (experiment,) = (e for e in client.search_experiments() if e.name == "sleepmodel")
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    assert all(r.info.status == "FINISHED" for r in runs.values()), {n: r.info.status for n, r in runs.items()}
    children = {name: r.data.tags.get("mlflow.parentRunId") for name, r in runs.items()}
    experiment, tune = runs["smoke"].info.run_id, runs["tune"].info.run_id
    trials = [name for name, parent in children.items() if parent == tune]
    assert len(trials) == 2 and children["smoke"] is None
    assert sum(parent == experiment for parent in children.values()) == 8
    training = runs["train-n1-seed20"]
    curve = client.get_metric_history(training.info.run_id, "loss")
    history = read_training(only(root, "train-n1-seed20")).history
    assert [(point.step, point.value) for point in curve] == [(at.tokens, pytest.approx(at.loss)) for at in history]
    assert "model.fast_weight_lr" in runs["train-winner-seed20"].data.params
    assert training.data.params["model.sleep_passes"] == "1"
    assert {"test/accuracy", "test/accuracy-n2", "test/accuracy-depth-6-n2"} <= training.data.metrics.keys()
    assert {"test/nats", "test/nats-n2", "test/token-accuracy-depth-6"} <= training.data.metrics.keys()
    assert {"report.html", "report.md", "comparison.png"} <= {
        Path(f.path).name for f in client.list_artifacts(experiment, "report")
    }


def test_what_is_finished_keeps_no_checkpoints(finished: tuple[Path, str]) -> None:
    root, _ = finished
    assert not list((root / "steps").rglob("checkpoint_*"))
    assert not list((root / "steps").rglob(".*.tmp"))


def test_every_trial_has_tensorboard_events(finished: tuple[Path, str]) -> None:
    root, _ = finished
    tune = only(root, "tune")
    assert len(list((tune / "search").glob("trial-*/events.out.tfevents.*"))) == len(TRIALS.load(tune)) == 2


@pytest.fixture(scope="module")
def worse(finished: tuple[Path, str], ray_cluster: str) -> tuple[str, str]:
    """What a second pipeline of the same root prints on a terminal, and the champion's version before it. Its learning
    rates are nearly zero, and it makes its dataset anew."""
    root, _ = finished
    champion = MlflowClient(tracking_uri(root)).get_model_version_by_alias("sleep-rule110", "champion").version
    rates = ("train.muon_lr=1e-9", "train.adam_lr=1e-9")
    arguments = (*ONE_SEED, *rates, "search=null", "train.steps=60", "train.validate_every=10", "data.train_rows=2000")
    printed, status = on_a_terminal(command("full", root, *arguments), environment(ray_cluster))
    assert status == 0, printed
    return printed, champion


def test_a_terminal_has_one_live_table_and_keeps_the_last(worse: tuple[str, str]) -> None:
    printed, _ = worse
    table, last = printed.partition("Ray has")[2], printed.rpartition("\x1b[2K")[2]
    assert table.count("\x1b[2K") > 50  # it was drawn again and again, each time over what stood there
    assert re.search(r"train-n1-seed20 +running", plain(table)) and "about 0:" in plain(table)
    for stage in ("generate", "train-n1-seed20", "evaluate", "report", "register"):
        assert len(re.findall(rf"(?m)^{stage} +done +\d+:\d\d", plain(last))) == 1, plain(last)
    assert re.search(r"train-n1-seed20 .*━ +60/60 +\d\.\d{3} +\d\.\d{3} +[\d,]+", plain(last))
    assert "5 of 5 stages done" in plain(last) and "held-out test rows" in plain(last)
    assert "loss 0." not in plain(printed) and "rows/s" not in plain(
        printed
    )  # no line of a log, no bar but the table's
    assert printed.rindex("\x1b[?25h") > printed.rindex("\x1b[?25l")


def on_a_terminal(command: list[str], environment: dict[str, str]) -> tuple[str, int]:
    """What a program prints where its output is a terminal, and how it exits."""
    ours, its = pty.openpty()
    termios.tcsetwinsize(its, (50, 200))
    with subprocess.Popen(
        command, stdin=its, stdout=its, stderr=its, env={**environment, "TERM": "xterm-256color"}
    ) as process:
        os.close(its)
        printed = b""
        while True:
            try:
                printed += os.read(ours, 65536)
            except OSError:  # Linux says so when nobody has the other end any longer
                break
        os.close(ours)
        return printed.decode().replace("\r\n", "\n"), process.wait(scaled())


def plain(text: str) -> str:
    """Without the escapes of a terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", text)


def test_a_worse_model_never_takes_the_alias(finished: tuple[Path, str], worse: tuple[str, str]) -> None:
    """It is registered as a version; the champion stands."""
    root, _ = finished
    printed, champion = worse
    client = MlflowClient(tracking_uri(root))
    assert "does not beat champion" in plain(printed)
    assert client.get_model_version_by_alias("sleep-rule110", "champion").version == champion
    assert {v.version for v in client.search_model_versions("name = 'sleep-rule110'")} > {champion}


@long
def test_a_search_survives_its_driver(ray_cluster: str, tmp_path: Path) -> None:
    """kill -9 of the driver after a trial has finished: the rest is run, no trial is lost or run as another."""
    # two cores a trial: two at a time on the session's four
    arguments = ("--set", "search.trials=3", "train.steps=100", "train.validate_every=10", "scale.cpus_per_worker=2")
    completed("generate", tmp_path, ray_cluster, *arguments)
    kill_when(lambda: bool(_finished_trials(tmp_path)), "tune", tmp_path, ray_cluster, *arguments)
    before = _finished_trials(tmp_path)
    assert before and not list((tmp_path / "steps" / "tune").glob("*/SUCCESS"))
    completed("tune", tmp_path, ray_cluster, *arguments)
    output = only(tmp_path, "tune")
    assert len(TRIALS.load(output)) == 3
    assert set(before) <= set(_finished_trials(tmp_path))
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = (e for e in client.search_experiments() if e.name == "sleepmodel")
    tune = client.search_runs([experiment.experiment_id], "attributes.run_name = 'tune'")
    trials = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{tune[0].info.run_id}'")
    assert len(tune) == 1 and len(trials) == 3
    assert all(trial.info.status == "FINISHED" for trial in trials)


def _finished_trials(root: Path) -> list[str]:
    """The trials whose last result is that of the last step."""
    done = []
    for results in (root / "steps" / "tune").glob("*/search/trial-*/result.json"):
        lines = results.read_text().splitlines()
        if lines and json.loads(lines[-1])["step"] == 100:
            done.append(results.parent.name)
    return done


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a pipeline that is killed and goes on."""
    return tmp_path_factory.mktemp("killed")


def test_a_killed_pipeline_keeps_what_is_finished(ray_cluster: str, killed: Path) -> None:
    """kill -9 of full.py while it trains, then Ctrl-C: the dataset is not made again, the training is saved at the
    step at which it was told to stop and goes on from there."""

    def step_saved() -> int:
        """The step of the latest checkpoint that is whole; 0 if there is none."""
        found = [latest(each) for each in killed.glob(f"steps/train-n1-seed20/*/{CHECKPOINTS}")]
        return max((saved.step for saved in found if saved is not None), default=0)

    kill_when(lambda: step_saved() >= 40, "full", killed, ray_cluster, *SMALL)
    made = (only(killed, "generate") / "SUCCESS").stat().st_mtime_ns
    assert not list((killed / "steps").glob(f"train-n1-seed20/*/{MODEL}"))
    (training,) = (killed / "steps" / "train-n1-seed20").iterdir()
    killed_at = step_saved()
    assert killed_at >= 40
    ended = kill_when(lambda: step_saved() > killed_at, "full", killed, ray_cluster, *SMALL, by=signal.SIGINT)
    assert ended == 128 + signal.SIGINT
    client = MlflowClient(tracking_uri(killed))
    states = {run.info.run_name: run.info.status for run in client.search_runs(["1"])}
    assert states == {"smoke": "KILLED", "generate": "FINISHED", "train-n1-seed20": "KILLED"}
    stopped_at = step_saved()
    assert stopped_at > killed_at and not (training / MODEL).exists()
    printed = completed("train", killed, ray_cluster, *SMALL)
    assert "1 of 2 stages are done already" in printed
    assert 0 < int(re.findall(r"n1-seed20  step (\d+)/400", printed)[0]) - stopped_at <= 20
    (logged,) = client.search_runs(["1"], "attributes.run_name = 'train-n1-seed20'")
    steps = sorted(point.value for point in client.get_metric_history(logged.info.run_id, "step"))
    assert steps == [*range(20, 401, 20)] and logged.info.status == "FINISHED"
    assert (only(killed, "generate") / "SUCCESS").stat().st_mtime_ns == made
    assert read_training(only(killed, "train-n1-seed20")).history[-1].step == 400


@long
def test_a_killed_pipeline_in_a_store_ends_as_one_on_a_disk(
    ray_cluster: str, killed: Path, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 while it trains; the same command takes its leases over, goes on from its checkpoint, and leaves what a
    local root has. A third does nothing."""
    if not list(killed.glob("steps/train-n1-seed20/*/SUCCESS")):
        completed("full", killed, ray_cluster, *SMALL)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    (expected,) = (killed / "steps" / "train-n1-seed20").iterdir()
    checkpoints = store / "steps" / "train-n1-seed20" / expected.name / CHECKPOINTS
    kill_when(lambda: latest(checkpoints) is not None, "full", store, ray_cluster, *SMALL)
    assert not has_model(checkpoints.parent) and list((store / LOCKS).iterdir())
    printed = completed("full", store, ray_cluster, *SMALL)
    assert "1 of 5 stages are done already" in printed and "@champion" in printed
    assert int(re.findall(r"n1-seed20  step (\d+)/400", printed)[0]) > 20
    weights, others = (load(path / MODEL).state_dict() for path in (checkpoints.parent, expected))
    assert all(torch.equal(weights[name], others[name]) for name in others)
    for step in ("generate", "evaluate", "report", "register"):
        only(store, step)
    # all is given back but what the killed one held of a step that was done
    assert [path.name.partition("-")[0] for path in (store / LOCKS).iterdir()] == ["generate"]
    assert "nothing to do: all 5 stages are done" in completed("full", store, NO_RAY, *SMALL)


def test_a_search_in_a_store_is_kept(ray_cluster: str, store: Path) -> None:
    """Its trials are not run again."""
    for split in ("train", "validation"):
        data = generate(TASK, split, 64, 0, store)
    job = TrainingJob("tune", TINY, CONFIG, str(data), str(store / "tune"))
    config = Search(trials=2, sleep_passes=(1, 2), grace=1)
    trials = in_thread(search, job, config, 2).result()
    assert list((store / "tune" / "search").glob("trial-*/checkpoint_*/*"))
    remove_checkpoints(store / "tune")
    assert not list((store / "tune" / "search").glob("trial-*/checkpoint_*/*"))
    again = in_thread(search, job, config, 2).result()
    assert len(trials) == 2 and all(trial.complete for trial in trials)
    assert {trial.sleep_passes: trial for trial in again} == {trial.sleep_passes: trial for trial in trials}
    assert len(list((store / "tune" / "search").glob("trial-*/events.out.tfevents.*"))) == 2
