"""Ray Tune over the sleep passes N and the fast-weight learning rate eta, stopped early by ASHA at equal tokens.

A trial with one worker runs the training loop in the actor that Tune starts for it, with the cores of that worker, so
that trials share a small machine. With several workers, or where DeepSpeed partitions, it is a training of its own
under Ray Train, and the process that starts it takes no core. Both save a checkpoint at each report, and go on from the
last one.

Tune keeps on disk what it knows of the trials. Nothing there is the MLflow store, and each call of `search` derives all
paths anew, so a search goes on after the store or the root has moved.
"""

from __future__ import annotations

import logging
import math
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import torch
from ray import tune
from ray.train import UserCallback
from ray.tune import CheckpointConfig, Experiment, ResultGrid, ResumeConfig
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search import ConcurrencyLimiter, SearchGenerator
from ray.tune.search.optuna import OptunaSearch
from ray.util.queue import Empty, Queue

from datagen.storage import as_path, for_ray, remove_tree
from sleepmodel.config.training import BFLOAT16_WEIGHTS, Search
from sleepmodel.distributed import checkpoints
from sleepmodel.distributed.job import TrainingJob, read_training
from sleepmodel.distributed.ray_train import RESTARTS, fit
from sleepmodel.distributed.ray_worker import CHECKPOINTS, Stopped
from sleepmodel.distributed.search_state import keep_state, restore_state
from sleepmodel.distributed.trials import TrialResult
from sleepmodel.tracking.runs import ProgressLog, end_run, mlflow_may_fail, start_run
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.loop import NonFiniteError, Save, train
from sleepmodel.training.progress import Progress, ProgressCallback, ProgressEvent, ProgressTicker

EXPERIMENT = "search"
N, ETA = "sleep_passes", "fast_weight_lr"
STOP = "STOP"  # the file that ends a trial under Ray Train
REPORT_SECONDS = 1.0  # between two looks whether such a trial has ended
# Tune's state of the search, which it saves after the checkpoint that it names, must not name one that is gone
TRIAL_CHECKPOINTS = 3  # that Tune keeps of a trial
STATE_SECONDS = "1"  # between two savings of the state
LOOK_SECONDS = 10  # between two calls of `look`


def search(
    job: TrainingJob, config: Search, max_concurrent: int, look: Callable[[], None] = lambda: None
) -> list[TrialResult]:
    """Run or resume the search under `job.output`; returns the last report of every trial. Of a trial that diverged
    before its first report, it is step 0 with accuracy 0.

    The first trials have eta = 1, the paper's (or the nearest in the range), one for each N. Optuna's seeded sampler
    chooses the others: at random up to its tenth trial, then by TPE. N and eta of a trial replace those of `job.model`.
    `job.run` is the MLflow run under which the trials are nested. max_concurrent: trials that run at the same time; if
    there were more than fit the cluster, some would wait, and ASHA would compare them late. look: called every
    LOOK_SECONDS in this thread; if it raises, the search and its running trials end. If `job.stop` exists, the search
    raises Stopped; the next call goes on from the last report of each trial.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # verbose=0 silences only the old output
    # it warns of each checkpoint less than 5 s after another
    os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    log = logging.getLogger("ray.tune.tune")
    log.setLevel(max(log.getEffectiveLevel(), logging.WARNING))  # it logs where its files are
    budget, paper = job.train.steps, min(max(1.0, config.eta_low), config.eta_high)
    space = {N: tune.choice(list(config.sleep_passes)), ETA: tune.loguniform(config.eta_low, config.eta_high)}
    output = as_path(job.output)
    storage, filesystem = for_ray(output)
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", STATE_SECONDS)
    experiment = Experiment(
        EXPERIMENT,
        tune.with_resources(tune.with_parameters(_trial, job=job), _resources(job)),
        config=space,
        num_samples=config.trials,
        storage_path=storage,
        storage_filesystem=filesystem,
        checkpoint_config=CheckpointConfig(num_to_keep=TRIAL_CHECKPOINTS),
        max_failures=RESTARTS,
        trial_name_creator=lambda trial: _directory(trial.trial_id),
        trial_dirname_creator=lambda trial: _directory(trial.trial_id),
    )
    optuna_search = OptunaSearch(seed=config.seed, points_to_evaluate=[{N: n, ETA: paper} for n in config.sleep_passes])
    # a step has the same tokens at every N, so stopping by steps compares at equal tokens
    scheduler = ASHAScheduler(
        time_attr="step", max_t=budget, grace_period=max(1, budget // config.grace), reduction_factor=2
    )
    keep_state(experiment, output)
    restore_state(output, output / EXPERIMENT)
    resumed = any((output / EXPERIMENT).glob("experiment_state-*.json"))
    # not a Tuner, which would take the callbacks, the scheduler and all other settings from a pickle
    analysis = tune.run(
        experiment,  # type: ignore[arg-type]
        config=space,
        metric="accuracy",
        mode="max",
        search_alg=_Suggestions(ConcurrencyLimiter(optuna_search, max_concurrent), experiment),
        scheduler=scheduler,
        callbacks=[_EndTrials(job), _SaveScheduler(scheduler), _Interrupt(job, look)],
        resume_config=ResumeConfig(errored=ResumeConfig.ResumeType.RESUME) if resumed else None,  # type: ignore[arg-type]
        raise_on_failed_trial=False,
        verbose=0,
    )
    results = ResultGrid(analysis)
    if results.errors:  # the next call runs these trials again; a trial that diverged is not among them
        raise results.errors[0]
    return [_result(row, job) for _, row in results.get_dataframe().iterrows()]


def remove_checkpoints(output: Path) -> None:
    """Remove the checkpoints of all trials of a finished search under `output`."""
    # checkpoint_* of Tune, and the directory CHECKPOINTS of a trial that Ray Train ran
    for directory in (output / EXPERIMENT).glob(f"{_directory('*')}/checkpoint*"):
        remove_tree(directory)


def _resources(job: TrainingJob) -> dict[str, float]:
    """What Tune reserves for a trial. Ray Train reserves its workers itself; Tune must reserve something, so a byte."""
    if _distributed(job):
        return {"memory": 1}
    return {"cpu": job.scale.cores, "gpu": int(job.scale.gpu or False)}


def _distributed(job: TrainingJob) -> bool:
    """Whether Ray Train and DeepSpeed run a trial: the others train in the actor that Tune starts for them."""
    return job.scale.workers > 1 or job.scale.zero_stage > 0 or job.train.precision == BFLOAT16_WEIGHTS


def _trial(params: dict[str, Any], job: TrainingJob) -> None:
    trial, name = tune.get_context().get_trial_id(), _name(job, params)
    run = None
    model = replace(job.model, sleep_passes=params[N], fast_weight_lr=params[ETA])
    if job.store:
        settings = {"model": asdict(model), "train": asdict(job.train)}
        with mlflow_may_fail():
            run = start_run(job.store, name, _identity(job, trial), job.run, settings, {})
    output = as_path(job.output) / EXPERIMENT / _directory(trial)
    watch = partial(_of_trial, job.watch, trial)
    job = replace(job, name=name, model=model, output=str(output), run=run, watch=watch)
    try:
        history = _fit(job) if _distributed(job) else _train(job)
        # a trial that ended just before the search was killed: Tune stops the others at their last report
        tune.report(asdict(history[-1]))
    except NonFiniteError as error:  # it stays incomplete, so it cannot win
        watch(ProgressEvent(name, name, 0, job.train.steps, ended=True, message=str(error)))
        saved = as_path(job.output) / CHECKPOINTS if _distributed(job) else as_path(job.output)
        if checkpoints.latest(saved) is None:  # Tune fails where a trial has no report
            tune.report({"step": 0, "accuracy": 0.0, "loss": math.nan, "tokens": 0, "seconds": 0.0})


def _train(job: TrainingJob) -> list[Progress]:
    """Train in this process."""
    logging.getLogger("ray.train").setLevel(logging.WARNING)  # it logs where each checkpoint is
    torch.set_num_threads(job.scale.cores)
    ticker = ProgressTicker(job.watch, job.name, job.name, job.train.steps)
    curve = ProgressLog(job.store, job.run) if job.store and job.run else None

    def report(at: Progress, save: Save) -> None:
        ticker.report(at)
        if curve:
            curve.log(at)
        with tempfile.TemporaryDirectory() as directory:
            save(Path(directory))
            checkpoints.write_manifest(Path(directory), engine.rank, at.step, job.scale)
            tune.report(asdict(at), checkpoint=tune.Checkpoint(directory))

    def between(step: int, save: Save) -> None:
        ticker.step(step)

    model = job.build()
    model = model.to("cuda" if job.scale.gpu else "cpu")
    engine = LocalEngine(model, job.train, job.scale.accumulation, job.scale.cuda_graphs)
    with ExitStack() as held:
        # not tune.get_checkpoint(), which may be older than the last report
        found = checkpoints.open_latest(as_path(job.output), held)
        ticker.step(found[0].step if found else 0)
        resume = found[1] if found else None
        return train(engine, job.rows(), job.train, job.validate(engine), report, resume, between)


def _fit(job: TrainingJob) -> list[Progress]:
    """Train under Ray Train, beside this thread, which Tune ends at a report."""
    stop = as_path(job.output) / STOP
    stop.unlink(missing_ok=True)
    reports = Queue(actor_options={"num_cpus": 0})
    training = ThreadPoolExecutor(1).submit(fit, replace(job, stop=str(stop)), (_SendReports(reports),))
    _running.append((stop, training))
    while not training.done() or not reports.empty():
        with suppress(Empty):
            tune.report(reports.get(timeout=REPORT_SECONDS))
    training.result()
    return read_training(as_path(job.output)).history


class _SendReports(UserCallback):
    """Sends each report to the process of the trial. Not TuneReportCallback: its queue would block Ray Train, and with
    it the end of the training, once Tune reads no more."""

    def __init__(self, reports: Queue) -> None:
        self.reports = reports

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        if "accuracy" in metrics[0]:  # not where it only saves to stop
            self.reports.put(metrics[0])


class _EndTraining:
    """A part of the trial's actor. Tune kills it to stop a trial: Ray would keep the cores of a training that has not
    ended by then."""

    def cleanup(self) -> None:
        for stop, training in _running:
            if not training.done():
                stop.touch()
            wait([training])
        super().cleanup()  # type: ignore[misc]  # Tune's


_trial.__mixins__ = (_EndTraining,)  # type: ignore[attr-defined]  # which Tune's actor inherits from
_running: list[tuple[Path, Future[None]]] = []  # the training of this process


def _of_trial(watch: ProgressCallback, trial: str, event: ProgressEvent) -> None:
    """Two trials may have one name."""
    watch(replace(event, id=trial))


def _name(job: TrainingJob, params: dict[str, Any]) -> str:
    return f"{job.name}-N{params[N]}-eta{params[ETA]:.2f}"


def _directory(trial_id: str) -> str:
    return f"trial-{trial_id}"


def _identity(job: TrainingJob, trial_id: str) -> str:
    return f"{job.run}/{trial_id}"


class _EndTrials(tune.Callback):
    """Ends a trial's MLflow run and reports its end, in the process that searches: ASHA stops a trial by killing it, so
    it cannot do so itself."""

    def __init__(self, job: TrainingJob) -> None:
        self.job = job

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end(trial, "FINISHED")

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self._end(trial, "FAILED")

    def _end(self, trial: Trial, status: str) -> None:
        name, step = _name(self.job, trial.config), trial.last_result.get("step", 0)
        self.job.watch(ProgressEvent(trial.trial_id, name, step, self.job.train.steps, ended=True))
        if self.job.store:
            identity = _identity(self.job, trial.trial_id)
            with mlflow_may_fail():
                end_run(self.job.store, start_run(self.job.store, name, identity, self.job.run, {}, {}), status)


class _Suggestions(SearchGenerator):
    """Resumes with what was suggested and observed, but with the storage and the limit of the running search, not with
    those that Tune would restore."""

    def __init__(self, searcher: ConcurrencyLimiter, experiment: Experiment) -> None:
        super().__init__(searcher)
        self.experiment, self.max_concurrent = experiment, searcher.max_concurrent

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "experiment": None}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state({**state, "experiment": self.experiment})
        self.searcher.set_max_concurrency(self.max_concurrent)


class _SaveScheduler(tune.Callback):
    """Keeps ASHA's rungs with Tune's state of the search, which lacks them."""

    def __init__(self, scheduler: ASHAScheduler) -> None:
        self.scheduler = scheduler

    def get_state(self) -> dict[str, Any]:
        return vars(self.scheduler)

    def set_state(self, state: dict[str, Any]) -> None:
        vars(self.scheduler).update(state)


class _Interrupt(tune.Callback):
    """Ends the search between two steps of Tune, by raising; Tune then ends the trials."""

    def __init__(self, job: TrainingJob, look: Callable[[], None]) -> None:
        self.job, self.look, self.last = job, look, time.monotonic()

    def on_step_begin(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        if self.job.asked_to_stop():
            raise Stopped(f"{self.job.name}: stopped on request; run the same command to resume")
        if time.monotonic() - self.last > LOOK_SECONDS:
            self.look()
            self.last = time.monotonic()


def _result(row: pd.Series, job: TrainingJob) -> TrialResult:
    return TrialResult(
        sleep_passes=int(row[f"config/{N}"]),
        fast_weight_lr=float(row[f"config/{ETA}"]),
        accuracy=float(row["accuracy"]),
        loss=float(row["loss"]),
        tokens=int(row["tokens"]),
        seconds=float(row["seconds"]),
        complete=int(row["step"]) == job.train.steps,
    )
