"""Runs: one for each identity, whose curve has each point once."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException

from sleepmodel.tracking import runs as tracking
from sleepmodel.tracking.provenance import COMMIT_TAG, DIRTY_TAG, git_commit
from sleepmodel.tracking.runs import (
    PROCESS,
    ProgressLog,
    TrackingStore,
    commit_of_run,
    end_open_runs,
    end_run,
    find_run,
    log_artifact,
    log_metrics,
    open_store,
    start_run,
)
from tests.sleepmodel.tracking.helpers import AT, client, curve, fresh_identity, read

pytestmark = pytest.mark.slow


def test_an_identity_has_one_run_which_is_reopened(store: TrackingStore) -> None:
    identity = fresh_identity()
    assert find_run(store, identity) is None
    parent = start_run(store, "all", fresh_identity(), None, {}, {})
    first = start_run(store, "train", identity, parent, {"lr": 0.5}, {"kind": "step"})
    end_run(store, first, "FAILED")
    assert read(store, first).info.status == "FAILED"
    assert start_run(store, "train", identity, parent, {"lr": 0.5, "seed": 1}, {}) == first == find_run(store, identity)
    run = read(store, first)
    assert run.info.status == "RUNNING"
    assert run.info.run_name == "train"
    assert run.data.params == {"lr": "0.5", "seed": "1"}
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["kind"] == "step"


def test_a_run_tells_what_made_it(store: TrackingStore, run: str) -> None:
    tags = read(store, run).data.tags
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert tags.get("mlflow.source.git.commit", "") == head.stdout.strip()
    assert tags["sleepmodel.env.torch"] == torch.__version__
    assert tags["sleepmodel.env.cpus"] == str(os.cpu_count())
    for what in ("python", "platform", "ray", "deepspeed", "mlflow"):
        assert tags[f"sleepmodel.env.{what}"]


def test_the_commit_of_a_run_is_told_with_what_was_changed(store: TrackingStore) -> None:
    clean, dirty, bare = fresh_identity(), fresh_identity(), fresh_identity()
    for identity, changed in ((clean, "false"), (dirty, "true")):
        tags = {COMMIT_TAG: "abc", DIRTY_TAG: changed}
        start_run(store, "train", identity, None, {}, tags)
    assert (commit_of_run(store, clean), commit_of_run(store, dirty), commit_of_run(store, bare)) == (
        "abc",
        "abc-dirty",
        "",
    )


def test_changed_code_makes_a_commit_dirty_and_a_filled_page_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, page = tmp_path / "package" / "module.py", tmp_path / "docs" / "page.md"
    for file in (code, page):
        file.parent.mkdir()
        file.write_text("as committed\n")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    page.write_text("filled\n")
    assert git_commit(code) == head
    code.write_text("changed\n")
    assert git_commit(code) == f"{head}-dirty"


def test_roots_that_share_a_store_have_runs_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    one, two = (open_store(tmp_path / name) for name in ("one", "two"))
    mine, theirs = (start_run(store, "train", "0123", None, {}, {PROCESS: "a process"}) for store in (one, two))
    assert mine != theirs and (find_run(one, "0123"), find_run(two, "0123")) == (mine, theirs)
    end_open_runs(two, "FAILED", lambda process: True)
    assert (read(one, mine).info.status, read(one, theirs).info.status) == ("RUNNING", "FAILED")
    owner = open_store(tmp_path)  # the root of the database itself
    assert start_run(owner, "train", "0123", None, {}, {}) not in (mine, theirs)
    untold = start_run(owner, "train", "4567", None, {}, {})  # as before roots had names: the first that asks takes it
    assert start_run(one, "train", "4567", None, {}, {}) == untold != start_run(two, "train", "4567", None, {}, {})
    (tmp_path / "one").rename(tmp_path / "moved")
    assert start_run(open_store(tmp_path / "moved"), "train", "0123", None, {}, {}) == mine


_leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("xyz .,", max_size=9)
_keys = st.text("abc_", min_size=1, max_size=5)
_trees = st.recursive(_leaves, lambda inner: st.dictionaries(_keys, inner, min_size=1, max_size=5), max_leaves=20)


@settings(max_examples=10)
@given(st.dictionaries(_keys, _trees, max_size=5))
def test_params_can_be_read_back_as_the_tree_they_were(store: TrackingStore, params: dict[str, Any]) -> None:
    def strings(tree: Any) -> Any:
        return {key: strings(value) for key, value in tree.items()} if isinstance(tree, dict) else str(tree)

    run = start_run(store, "tree", fresh_identity(), None, params, {})
    tree: dict[str, Any] = {}
    for name, value in read(store, run).data.params.items():
        *path, last = name.split(".")
        place = tree
        for key in path:
            place = place.setdefault(key, {})
        place[last] = value
    assert tree == strings(params)


def test_params_beyond_the_limits_of_one_call(store: TrackingStore) -> None:
    params = {"many": {f"p{i}": i for i in range(250)}, "long": "x" * 10_000}
    identity = fresh_identity()
    for _ in range(2):
        run = start_run(store, "many", identity, None, params, {})
    logged = read(store, run).data.params
    assert len(logged) == 251
    assert logged["many.p249"] == "249"
    assert logged["long"] == "x" * 6000


def test_a_param_cannot_change_under_an_identity(store: TrackingStore) -> None:
    identity = fresh_identity()
    start_run(store, "train", identity, None, {"lr": 0.5}, {})
    with pytest.raises(MlflowException, match="lr"):
        start_run(store, "train", identity, None, {"lr": 0.25}, {})


def test_a_curve_has_each_point_once_after_restarts(store: TrackingStore, run: str) -> None:
    reports = [replace(AT, step=step, tokens=64 * step, loss=1 / step) for step in (10, 20, 30, 40)]
    for process in (reports[:2], reports[1:3], reports[:1] + reports[3:]):
        log = ProgressLog(store, run)
        for at in process:
            log.log(at)
    assert curve(store, run, "loss") == [(at.tokens, at.loss) for at in reports]
    assert curve(store, run, "step") == [(at.tokens, at.step) for at in reports]
    for metric in ("accuracy", "grad_norm", "tokens_per_second", "rate"):
        assert curve(store, run, metric) == [(at.tokens, getattr(AT, metric)) for at in reports]


def test_a_point_whose_answer_was_lost_is_one_point(
    store: TrackingStore, run: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store has heard it, the training has not heard the store."""

    def unheard(*arguments: Any) -> None:
        log_metrics(*arguments)
        time.sleep(0.01)
        raise MlflowException("no answer")

    log = ProgressLog(store, run)
    monkeypatch.setattr(tracking, "log_metrics", unheard)
    log.log(AT)
    monkeypatch.undo()
    log.send()
    assert curve(store, run, "loss") == [(AT.tokens, AT.loss)]


def test_stages_in_threads_share_a_store(store: TrackingStore) -> None:
    def work(identity: str) -> str:
        run = start_run(store, identity, identity, None, {"identity": identity}, {})
        log = ProgressLog(store, run)
        for step in range(1, 6):
            log.log(replace(AT, step=step, tokens=step))
        end_run(store, run, "FINISHED")
        return run

    identities = [fresh_identity() for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(work, identities))
    for run, identity in zip(runs, identities, strict=True):
        assert read(store, run).data.params == {"identity": identity}
        assert [step for step, _ in curve(store, run, "loss")] == [1, 2, 3, 4, 5]


def test_metrics_and_artifacts_go_to_the_run(store: TrackingStore, run: str, tmp_path: Path) -> None:
    log_metrics(store, run, {"test/accuracy": 0.5, "test/accuracy-depth-3": 1.0}, 640)
    assert curve(store, run, "test/accuracy-depth-3") == [(640, 1.0)]
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "curve.svg").write_text("<svg/>")
    log_artifact(store, run, tmp_path / "plots", "report")
    log_artifact(store, run, tmp_path / "plots" / "curve.svg")
    files = client(store).list_artifacts(run, "report/plots")
    assert [file.path for file in files] == ["report/plots/curve.svg"]
    assert Path(client(store).download_artifacts(run, "curve.svg")).read_text() == "<svg/>"


def test_a_run_that_was_deleted_is_made_anew(store: TrackingStore) -> None:
    identity = fresh_identity()
    deleted = start_run(store, "train", identity, None, {"lr": 0.5}, {})
    client(store).delete_run(deleted)
    assert find_run(store, identity) is None
    again = start_run(store, "train", identity, None, {"lr": 0.5}, {})
    assert again == find_run(store, identity) != deleted


def test_open_runs_of_a_process_are_ended_with_what_is_nested_in_them(store: TrackingStore) -> None:
    """A trial that is stopped cannot end its run; its stage may have ended its own."""
    mine, other = {PROCESS: "mine"}, {PROCESS: "other"}

    def start(tags: dict[str, str], parent: str | None = None) -> str:
        return start_run(store, "a run", fresh_identity(), parent, {}, tags)

    pipeline = start(mine)
    stage, done, others = start(mine, pipeline), start(mine, pipeline), start(other, pipeline)
    trials = [start({}, parent) for parent in (stage, done, others, "removed-by-gc")]
    inner = start({}, trials[1])
    end_run(store, done, "FINISHED")
    end_run(store, trials[1], "FINISHED")
    end_open_runs(store, "KILLED", lambda process: process == "mine")
    status = {run: read(store, run).info.status for run in (pipeline, stage, done, others, *trials, inner)}
    killed, running = {pipeline, stage, trials[0], inner}, {others, trials[2], trials[3]}
    assert {run for run in status if status[run] == "KILLED"} == killed
    assert {run for run in status if status[run] == "RUNNING"} == running
    for run in running:
        end_run(store, run, "FINISHED")


def test_a_reopened_run_is_of_the_process_that_reopened_it(store: TrackingStore) -> None:
    identity = fresh_identity()
    for process in ("first", "second"):
        run = start_run(store, "train", identity, None, {}, {PROCESS: process})
        assert read(store, run).data.tags[PROCESS] == process


def test_processes_that_begin_together_share_a_new_database(tmp_path: Path) -> None:
    """As two pipelines do on a fresh root. Each says when it has imported MLflow, and opens the store when told to."""
    code = (
        "import sys, pathlib; from sleepmodel.tracking.runs import open_store\n"
        "print('ready', flush=True); sys.stdin.readline(); print(open_store(pathlib.Path(sys.argv[1])).experiment_id)"
    )
    command, pipes = [sys.executable, "-c", code, str(tmp_path / "root")], {"stdin": subprocess.PIPE, "text": True}
    with ExitStack() as stack:
        both = [stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, **pipes)) for _ in range(2)]  # type: ignore[call-overload]
        for process in both:
            assert process.stdout.readline() == "ready\n"
        for process in both:
            process.stdin.write("\n")
            process.stdin.flush()
        found = [process.stdout.read() for process in both]
    assert [process.returncode for process in both] == [0, 0] and found[0] == found[1]
