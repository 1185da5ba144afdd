"""Ray Tune over the sleep passes N and the fast-weight learning rate eta, stopped early by ASHA at equal tokens.

A trial runs the training loop in one process with the cores of one worker, so that trials share a small machine. A
trial saves no checkpoints: one that dies starts again.
"""

from __future__ import annotations

import logging
import os
from dataclasses import asdict, dataclass, replace
from typing import Any

import optuna
import pandas as pd
import torch
from ray import tune
from ray.tune import Callback, FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.optuna import OptunaSearch

from datagen.storage import as_path, for_ray
from sleepmodel.config import Search
from sleepmodel.distributed.job import TrainingJob
from sleepmodel.tracking.runs import ProgressLog, end_run, start_run
from sleepmodel.training.engine import LocalEngine
from sleepmodel.training.loop import NonFiniteError, train
from sleepmodel.training.progress import Progress, ProgressEvent, ProgressTicker

EXPERIMENT = "search"
RESTARTS = 3  # of a trial whose node or process died
N, ETA = "sleep_passes", "fast_weight_lr"


@dataclass(frozen=True)
class TrialResult:
    """A trial at its last report. complete: whether it ran to its end."""

    sleep_passes: int
    fast_weight_lr: float
    accuracy: float
    loss: float
    tokens: int
    seconds: float
    complete: bool


def best(trials: list[TrialResult]) -> TrialResult:
    """The complete trial with the highest validation accuracy; on a tie the one with fewer passes, which is cheaper.

    Raises ValueError if no trial is complete.
    """
    complete = [trial for trial in trials if trial.complete]
    if not complete:
        raise ValueError(f"none of {len(trials)} trials ran to its end, so there is no best one")
    return max(complete, key=lambda trial: (trial.accuracy, -trial.sleep_passes, -trial.loss))


def search(job: TrainingJob, config: Search, max_concurrent: int) -> list[TrialResult]:
    """Run or resume the search under `job.output`; returns the last report of every trial.

    The first trials have eta = 1, the paper's (or the nearest in the range), one for each N. Optuna's seeded sampler
    chooses the others: at random up to its tenth trial, then by TPE. N and eta of a trial replace those of `job.model`.
    `job.run` is the MLflow run under which the trials are nested. max_concurrent: trials that run at the same time; if
    there were more than fit the cluster, some would wait, and ASHA would compare them late.
    """
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # verbose=0 silences only the old output
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("ray.tune.tune").setLevel(logging.WARNING)  # it logs where its files are
    resources: dict[str, float] = {"cpu": job.scale.cores, "gpu": int(job.scale.gpu or False)}
    trainable = tune.with_resources(tune.with_parameters(_trial, job=job), resources)
    storage, filesystem = for_ray(as_path(job.output))
    path = f"{storage}/{EXPERIMENT}"
    if Tuner.can_restore(path, storage_filesystem=filesystem):
        tuner = Tuner.restore(path, trainable=trainable, resume_errored=True, storage_filesystem=filesystem)
    else:
        tuner = Tuner(
            trainable,
            param_space={
                N: tune.choice(list(config.sleep_passes)),
                ETA: tune.loguniform(config.eta_low, config.eta_high),
            },
            tune_config=_tune_config(job, config, max_concurrent),
            run_config=RunConfig(
                name=EXPERIMENT,
                storage_path=storage,
                storage_filesystem=filesystem,
                failure_config=FailureConfig(max_failures=RESTARTS),
                callbacks=[_EndTrials(job)],
                verbose=0,
            ),
        )
    results = tuner.fit()
    if results.errors:  # the next call runs these trials again; a trial that diverged is not among them
        raise results.errors[0]
    return [_result(row, job) for _, row in results.get_dataframe().iterrows()]


def _tune_config(job: TrainingJob, config: Search, max_concurrent: int) -> TuneConfig:
    budget = job.train.steps
    paper = min(max(1.0, config.eta_low), config.eta_high)
    return TuneConfig(
        metric="accuracy",
        mode="max",
        num_samples=config.trials,
        max_concurrent_trials=max_concurrent,
        search_alg=OptunaSearch(seed=config.seed, points_to_evaluate=[{N: n, ETA: paper} for n in config.sleep_passes]),
        # a step has the same tokens at every N, so stopping by steps compares at equal tokens
        scheduler=ASHAScheduler(
            time_attr="step", max_t=budget, grace_period=max(1, budget // config.grace), reduction_factor=2
        ),
        trial_name_creator=lambda trial: f"trial-{trial.trial_id}",
        trial_dirname_creator=lambda trial: f"trial-{trial.trial_id}",
    )


def _trial(params: dict[str, Any], job: TrainingJob) -> None:
    torch.set_num_threads(job.scale.cores)
    name, trial = _name(job, params), tune.get_context().get_trial_id()
    job = replace(job, model=replace(job.model, sleep_passes=params[N], fast_weight_lr=params[ETA]))
    curve = None
    if job.store:
        settings = {"model": asdict(job.model), "train": asdict(job.train)}
        run = start_run(job.store, name, _identity(job, trial), job.run, settings, {})
        curve = ProgressLog(job.store, run)

    ticker = ProgressTicker(job.watch, trial, name, job.train.steps)

    def report(at: Progress, save: object) -> None:
        ticker.report(at)
        if curve:
            curve.log(at)
        metrics = ("step", "tokens", "accuracy", "loss", "grad_norm", "tokens_per_second", "seconds")
        tune.report({metric: getattr(at, metric) for metric in metrics})

    def between(step: int, save: object) -> None:
        ticker.step(step)

    ticker.step(0)
    model = job.build()
    device = torch.device("cuda" if job.scale.gpu else "cpu")
    engine = LocalEngine(model.to(device), job.train, job.scale.accumulation)
    try:
        train(engine, job.rows(), job.train, job.validate(), report, None, between)
    except NonFiniteError as error:
        ticker.end(str(error))  # it stays incomplete, so it cannot win


def _name(job: TrainingJob, params: dict[str, Any]) -> str:
    return f"{job.name}-N{params[N]}-eta{params[ETA]:.2f}"


def _identity(job: TrainingJob, trial_id: str) -> str:
    return f"{job.run}/{trial_id}"


class _EndTrials(Callback):
    """Ends a trial's MLflow run and reports its end, in Tune's process: ASHA stops a trial by killing it, so it cannot
    do so itself."""

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
            run = start_run(self.job.store, trial.trial_id, _identity(self.job, trial.trial_id), self.job.run, {}, {})
            end_run(self.job.store, run, status)


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
