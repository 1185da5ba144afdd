"""The command line of the scripts: what --help shows, and which arguments are refused."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from pipelines import cli
from pipelines.arguments import parse, parser
from pipelines.cli import _duration
from pipelines.config.presets import PRESETS
from pipelines.engine.signals import Terminated

IMPORT = ("--import", "x.jsonl", "--task", "gsm")


@pytest.mark.parametrize("script", ["full", "generate"])
def test_help_has_a_short_usage_and_names_each_preset_once(script: str) -> None:
    usage, _, rest = parser(script, "What it does.").format_help().partition("\n\n")
    assert "[PRESET]" in usage and not set(PRESETS) & set(usage.replace("[", " ").split())
    words = rest.partition("presets (")[2].replace(",", " ").split()
    assert {name: words.count(name) for name in PRESETS} == dict.fromkeys(PRESETS, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "invalid choice: 'nosuch'"),
        (["--import", "x.jsonl"], "--import needs --task gsm or --task text"),
        (["smoke", "--task", "gsm"], "--task needs --import FILE;"),
        (["--task", "gsm"], "--task needs --import FILE;"),
        (["--loss", "all"], "--loss needs --import"),
        (["--max-tokens", "9"], "--max-tokens needs --import"),
        ([*IMPORT, "--loss", "all"], "--loss needs --task text"),
        (["--import", "a", "b", "--task", "gsm"], "--task gsm imports one file, got 2"),
        (["--import", "a", "--task", "text", "--max-tokens", "0"], "must be a whole number"),
        (["--split", "test"], "--split needs --import"),
        (["--split", "banana"], "invalid choice: 'banana'"),
        (["--tokenizer", "x.json"], "--tokenizer needs --import"),
        (["--skip-malformed"], "--skip-malformed needs --import"),
        (["--import", ""], "--import: must not be empty"),
        (["--import", " ", "--task", "gsm"], "--import: must not be empty"),
        ([*IMPORT, "demo"], "PRESET demo has no effect on --import"),
        ([*IMPORT, "--set", "no.such=1"], "--set has no effect on --import"),
        ([*IMPORT, "--force", "--dry-run"], "--force has no effect on --import"),
        ([*IMPORT, "--tokenizer", ""], "--tokenizer: must not be empty"),
        ([*IMPORT, "--split", "a/b"], "invalid choice: 'a/b'"),
        ([*IMPORT, "--split", ""], "invalid choice: ''"),
        ([*IMPORT, "--split", ".."], "invalid choice: '..'"),
        (["smoke", "--root", ""], "--root: must not be empty"),
    ],
)
def test_arguments_that_would_be_ignored_are_refused(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["generate.py", *arguments])
    with pytest.raises(SystemExit) as refused:
        parse("generate", None)
    assert refused.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "text"), [(20, "1 minute"), (3600, "60 minutes"), (7200, "2 hours"), (180_000, "2 days")]
)
def test_a_duration_has_the_unit_that_reads_best(seconds: float, text: str) -> None:
    assert _duration(seconds) == text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_broken_off_exits_with_the_status_of_its_signal(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_off(*_: object) -> None:
        raise Terminated(number)

    monkeypatch.setattr(sys, "argv", ["full.py", "smoke", "--root", str(tmp_path)])
    monkeypatch.setattr(cli, "run", broken_off)
    with pytest.raises(SystemExit) as ended:
        cli.main("full", None)
    assert ended.value.code == 128 + number
