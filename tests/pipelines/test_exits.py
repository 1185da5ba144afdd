"""Exit statuses: 2 where the input is refused before any work, 1 where work has failed; never a traceback."""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NoReturn

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError

from pipelines import cli
from pipelines.config.presets import PRESETS
from tests.hostile.imports import GSM_LINE
from tests.waiting import run

ROOT = Path(__file__).parents[2]
TROUBLES = (
    OSError(errno.ENOSPC, "No space left on device"),
    ValueError("results.json is damaged"),
    EndpointConnectionError(endpoint_url="http://store:1"),
    ClientError({"Error": {"Code": "SlowDown", "Message": "reduce your rate"}}, "PutObject"),
)


def raising(trouble: Exception) -> Callable[..., NoReturn]:
    def work(*_: object, **__: object) -> NoReturn:
        raise trouble

    return work


def status_of(arguments: list[str], monkeypatch: pytest.MonkeyPatch, script: str = "full") -> object:
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main(script, None)
    return ended.value.code


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: type(trouble).__name__)
@pytest.mark.parametrize(
    ("where", "status"), [("absolute_root", 2), ("require_inputs", 2), ("hold_locks", 2), ("_execute", 1)]
)
def test_a_trouble_is_a_refusal_before_the_work_and_a_failure_after(
    where: str,
    status: int,
    trouble: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from pipelines.runtime.services import Services

    monkeypatch.setattr(Services, "connect", lambda *_: None)
    monkeypatch.setattr(cli, "require_inputs", lambda *_: None)
    monkeypatch.setattr(cli, where, raising(trouble))
    assert status_of(["smoke", "--root", str(tmp_path)], monkeypatch, "train") == status
    assert capsys.readouterr().err == f"error: {trouble}\n"


def test_what_goes_wrong_after_the_last_stage_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "_execute", lambda *_: None)
    monkeypatch.setattr("pipelines.runtime.services.Services.connect", lambda *_: None)
    monkeypatch.setattr(cli, "print_summary", raising(ValueError("results.json is damaged")))
    assert status_of(["smoke", "--root", str(tmp_path)], monkeypatch) == 1
    assert capsys.readouterr().err == "error: results.json is damaged\n"


@pytest.mark.parametrize("preset", ["smoke", "rule110-fig2b"])
def test_force_that_has_no_effect_is_refused(
    preset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert status_of([preset, "--force", "--root", str(tmp_path)], monkeypatch) == 2
    assert "error: --force has no effect: " in capsys.readouterr().err
    monkeypatch.setenv("RAY_ADDRESS", "local")
    if PRESETS[preset].paper_scale:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        monkeypatch.setattr(cli, "run", lambda *_: None)
        assert status_of([preset, "--force", "--root", str(tmp_path)], monkeypatch) == 0


def test_a_full_disk_is_a_failure_and_a_bad_file_a_refusal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "problems.jsonl"
    arguments = ["--task", "gsm", "--import", str(file), "--root", str(tmp_path / "root")]
    assert status_of(arguments, monkeypatch, "generate") == 2
    assert "is not a file" in capsys.readouterr().err
    file.write_text(json.dumps(GSM_LINE))
    command = [sys.executable, str(ROOT / "pipelines" / "generate.py"), *arguments]
    full = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (700, 700))  # no file grows further, as on a full disk
    failed = run(command, preexec_fn=full, env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})
    assert failed.returncode == 1, failed.stderr
    assert failed.stderr.startswith("error: ") and "cannot be written" in failed.stderr
    assert status_of(arguments, monkeypatch, "generate") == 0


def test_an_import_tells_what_it_leaves_out_and_a_dry_one_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "problems.jsonl").write_text("\n".join([json.dumps(GSM_LINE), "{", json.dumps(GSM_LINE), "[]"]))
    before = sorted(tmp_path.rglob("*"))
    arguments = ["--task", "gsm", "--import", "~/problems.jsonl", "--root", "~/root"]
    assert status_of([*arguments, "--dry-run"], monkeypatch, "generate") == 2
    said = capsys.readouterr().err
    assert "2 of its 4 lines" in said and "\nline 2: Expecting" in said and "\nline 4: not a JSON object" in said
    assert status_of([*arguments, "--dry-run", "--skip-malformed"], monkeypatch, "generate") == 0
    said = capsys.readouterr().out
    assert "left out: 2\nline 2: " in said and "would import 2 problems" in said and "nothing was written" in said
    assert sorted(tmp_path.rglob("*")) == before
    assert status_of([*arguments, "--skip-malformed"], monkeypatch, "generate") == 0
    said = capsys.readouterr().out
    assert "left out: 2\nline 2: " in said and "imported 2 problems" in said
    (dataset,) = (tmp_path / "root" / "imported" / "gsm").iterdir()
    assert f"of {dataset}\n" in said and (dataset / "dataset.json").exists()
