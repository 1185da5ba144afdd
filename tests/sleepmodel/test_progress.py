"""What a training tells of itself reaches the driver, and costs the training nothing where nobody listens."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import ray

from datagen import generate
from sleepmodel import Scale
from sleepmodel.config.training import Search
from sleepmodel.distributed import progress
from sleepmodel.distributed.job import TrainingJob, read_training
from sleepmodel.distributed.progress import ProgressMailbox, SendProgress
from sleepmodel.distributed.ray_train import fit
from sleepmodel.distributed.ray_tune import search
from sleepmodel.training.progress import Progress, ProgressEvent, ProgressTicker, print_progress
from tests.sleepmodel.tiny import CONFIG, TASK
from tests.sleepmodel.tiny import MODEL as TINY
from tests.waiting import in_thread, wait_for


def report(step: int) -> Progress:
    return Progress(step, 12, 100, 1.0, 10.0, 0.5, 1.0, 1.0, 0.25, 10**9)


def test_every_report_is_told_and_steps_between_once_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now, told = [0.0], list[ProgressEvent]()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    ticker = ProgressTicker(told.append, "a", "n1-seed3", 12)
    for step in range(9):
        ticker.step(step)
        now[0] += 0.3
    ticker.report(report(9))
    ticker.report(report(10))
    assert [event.step for event in told] == [0, 4, 8, 9, 10]
    assert [event.report is not None for event in told] == [False, False, False, True, True]
    assert told[0] == ProgressEvent("a", "n1-seed3", 0, 12)


def test_a_training_that_nobody_watches_prints_its_reports(capsys: pytest.CaptureFixture[str]) -> None:
    ticker = ProgressTicker(print_progress, "a", "n1-seed3", 12)
    ticker.step(3)
    ticker.report(report(4))
    assert capsys.readouterr().out == f"n1-seed3  {report(4).line()}\n"


@pytest.fixture(scope="module")
def job(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    root = tmp_path_factory.mktemp("job")
    for split in ("train", "validation"):
        dataset = generate(TASK, split, 64, 0, root)
    return TrainingJob("n1", TINY, CONFIG, str(dataset), str(root / "out"), watch=SendProgress("train-n1"))


class Heard(list[tuple[str, ProgressEvent]]):
    def __call__(self, source: str, event: ProgressEvent) -> None:
        self.append((source, event))

    def of(self, source: str) -> list[ProgressEvent]:
        return [event for heard, event in self if heard == source]


def test_the_driver_hears_trainings_and_trials(job: TrainingJob, tmp_path: Path) -> None:
    """Each report once, in order, as it is in the learning curve; and the end of each trial."""
    heard = Heard()
    two_workers = replace(job, output=str(tmp_path / "train"), scale=Scale(workers=2))
    searched = replace(job, name="tune", output=str(tmp_path / "tune"), watch=SendProgress("tune"))
    config = Search(trials=2, sleep_passes=(1, 2), grace=1)
    with ProgressMailbox(heard):
        in_thread(fit, two_workers).result()
        trials = in_thread(search, searched, config, 2).result()
    events = heard.of("train-n1")
    assert [event.report for event in events if event.report] == read_training(tmp_path / "train").history
    assert events[0].step == 0 and {(event.name, event.steps) for event in events} == {("n1", CONFIG.steps)}
    ends = [event for event in heard.of("tune") if event.ended]
    assert {event.name for event in ends} == {"tune-N1-eta1.00", "tune-N2-eta1.00"}
    assert len({event.id for event in ends}) == len(trials) == 2
    for end in ends:
        reports = [event.report for event in heard.of("tune") if event.id == end.id and event.report]
        assert [at.step for at in reports] == [4, 8, 12] and end.step == 12


def test_a_training_ends_as_ever_where_nobody_listens(ray_cluster: str, job: TrainingJob, tmp_path: Path) -> None:
    silent = replace(job, output=str(tmp_path))
    in_thread(fit, silent).result()
    assert read_training(tmp_path).history[-1].step == CONFIG.steps


def test_a_mailbox_that_answers_late_loses_nothing(
    ray_cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard, send, free = Heard(), SendProgress("train"), tmp_path / "free"
    with ProgressMailbox(heard) as mailbox:
        send(ProgressEvent("a", "a", 1, 12, report(1)))
        wait_for(lambda: len(heard) == 1, "the first event")
        monkeypatch.setattr(progress, "ANSWER_SECONDS", 0.01)

        def work(actor: object) -> None:
            while not free.exists():
                time.sleep(0.01)

        mailbox.actor.__ray_call__.remote(work)
        send(ProgressEvent("a", "a", 2, 12, report(2)))
        for _ in range(3):
            mailbox.flush()
        assert len(heard) == 1
        free.touch()
        wait_for(lambda: len(heard) == 2, "the event that the mailbox had while it was busy")


def test_a_mailbox_that_dies_is_no_ones_error_and_comes_back(ray_cluster: str) -> None:
    heard, send = Heard(), SendProgress("train")

    def event(step: int) -> ProgressEvent:
        return ProgressEvent("a", "a", step, 12, report(step))

    with ProgressMailbox(heard) as mailbox:
        send(event(1))
        wait_for(lambda: len(heard) == 1, "the first event")
        pid: int = ray.get(mailbox.actor.__ray_call__.remote(lambda actor: os.getpid()))
        os.kill(pid, signal.SIGKILL)
        send(event(2))  # waits for nobody: it would hang here
        mailbox.flush()

        def comes_back() -> bool:
            send(event(3))
            return any(found.step == 3 for found in heard.of("train"))

        wait_for(comes_back, "an event through a new mailbox")
    send(event(4))  # closed: nobody's any longer
