"""DeepSpeed's engine and Ray Train compute what the plain loop computes."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import torch

from datagen import Rows, generate
from sleepmodel import Scale, SleepModel, TrainConfig, load
from sleepmodel.distributed import deepspeed
from sleepmodel.distributed.deepspeed import DeepSpeedEngine
from sleepmodel.distributed.job import MODEL, TrainingJob, read_training
from sleepmodel.distributed.ray_controller import _KeepCleaner
from sleepmodel.distributed.ray_train import fit
from sleepmodel.tracking.runs import open_store, start_run
from sleepmodel.training.cuda_graphs import GraphedModel
from sleepmodel.training.engine import Engine, LocalEngine, Losses
from sleepmodel.training.loop import NonFiniteError, build_model, train
from sleepmodel.training.memory import training_memory
from sleepmodel.training.progress import Progress
from tests.sleepmodel.accelerator import DEVICE, counted_waits
from tests.sleepmodel.own_mixers import BUFFERED, SAVED
from tests.sleepmodel.tiny import CONFIG, ITERATED, TASK, TRACED, TRACED_CONFIG
from tests.sleepmodel.tiny import MODEL as TINY
from tests.sleepmodel.updates import GIVEN_BATCH, check_first_update, with_given_gradients
from tests.waiting import in_thread

pytestmark = pytest.mark.slow

CONVOLVED = replace(TINY, conv=4)
# Newton-Schulz runs in bfloat16 on both sides, but its products are not summed in one order
CURVE_TOLERANCE = 2e-3
# it lifts the smallest directions of a gradient, which rounding decides, to the size of the largest
WEIGHT_TOLERANCE = 0.1


@pytest.fixture(scope="module")
def process_group() -> Iterator[None]:
    """One process as a group of one, as Ray Train would set it up."""
    settings = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    os.environ.update(settings)
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()
    for name in settings:
        del os.environ[name]


@pytest.fixture(scope="module")
def rows() -> Rows:
    return TASK.sample("train", 0, 0, 64)


def curve(engine: LocalEngine | DeepSpeedEngine, rows: Rows, config: TrainConfig) -> list[Progress]:
    return train(engine, rows, config, lambda model, level: 0.0, lambda at, write: None)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("stage", [0, 1, 2])
def test_the_first_update_under_the_engine(process_group: None, stage: int, optimizer: str) -> None:
    """Stage 3, whose hooks this model's direct use of its parameters goes past, is held to these by its curve below."""
    model, gradients = with_given_gradients(CONVOLVED)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    config = replace(CONFIG, grad_clip=0.0, batch_size=1, optimizer=optimizer)
    engine = DeepSpeedEngine(model, config, Scale(zero_stage=stage))
    engine.backward(*GIVEN_BATCH)
    engine.step(rate=0.5)
    check_first_update(model, before, gradients, config, rate=0.5)


@pytest.mark.parametrize("scale", [Scale(), Scale(accumulation=2), Scale(recompute="both")])
def test_deepspeed_follows_the_plain_loop(process_group: None, rows: Rows, scale: Scale) -> None:
    model = build_model(CONVOLVED, CONFIG, scale.recompute)
    got = curve(DeepSpeedEngine(model, CONFIG, scale), rows, CONFIG)
    expected = curve(LocalEngine(build_model(CONVOLVED, CONFIG), CONFIG), rows, CONFIG)
    for a, b in zip(got, expected, strict=True):
        if scale.accumulation == 1:  # the same optimiser on the same gradients
            assert (a.loss, a.grad_norm) == (b.loss, b.grad_norm)
        assert a.loss == pytest.approx(b.loss, rel=CURVE_TOLERANCE)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=10 * CURVE_TOLERANCE)


@pytest.mark.parametrize("scale", [Scale(accumulation=2), Scale(zero_stage=3)])
def test_traces_train_alike(process_group: None, scale: Scale) -> None:
    rows, config = TRACED.sample("train", 0, 0, 96), replace(TRACED_CONFIG, grad_clip=0.0)
    got = curve(DeepSpeedEngine(build_model(ITERATED, config), config, scale), rows, config)
    expected = curve(LocalEngine(build_model(ITERATED, config), config), rows, config)
    for a, b in zip(got, expected, strict=True):
        assert a.loss == pytest.approx(b.loss, rel=CURVE_TOLERANCE)
        assert a.trace_loss == pytest.approx(b.trace_loss, rel=CURVE_TOLERANCE) and a.trace_loss
        assert a.flops == b.flops


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_inserted_blocks_are_trained_alone(process_group: None, rows: Rows, stage: int, optimizer: str) -> None:
    model = replace(CONVOLVED, mixers=("attention", "gated_delta", "attention"), inserted=(1,))
    config = replace(CONFIG, trained="inserted", optimizer=optimizer, grad_clip=0.0, steps=4)
    engine = DeepSpeedEngine(build_model(model, config), config, Scale(zero_stage=stage))
    plain = LocalEngine(build_model(model, config), config)
    start = {name: p.detach().clone() for name, p in plain.model.named_parameters()}
    assert curve(engine, rows, config)[-1].loss == pytest.approx(
        curve(plain, rows, config)[-1].loss, rel=CURVE_TOLERANCE
    )
    moved = set[str]()
    engine.finish(lambda model: moved.update(n for n, p in model.named_parameters() if not torch.equal(p, start[n])))
    assert moved == {name for name in start if name.startswith("blocks.1.")}


@pytest.mark.parametrize("accumulation", [1, 2])
def test_deepspeed_passes_over_the_batches_that_the_plain_loop_passes_over(
    process_group: None, rows: Rows, accumulation: int
) -> None:
    config = replace(CONFIG, skips=2)

    def poisoned(engine: LocalEngine | DeepSpeedEngine) -> list[Progress]:
        backward, calls = engine.backward, iter(range(100))

        def spoil(*batch: Any) -> Losses:
            loss = backward(*batch)
            if next(calls) // accumulation in (1, 6):
                engine.model.norm.weight.grad.fill_(float("inf"))  # type: ignore[union-attr]
            return loss

        engine.backward = spoil  # type: ignore[method-assign]
        return curve(engine, rows, config)

    got = poisoned(DeepSpeedEngine(build_model(TINY, config), config, Scale(accumulation=accumulation)))
    expected = poisoned(LocalEngine(build_model(TINY, config), config, accumulation))
    for a, b in zip(got, expected, strict=True):
        assert (a.skipped, a.rate) == (b.skipped, b.rate)
        assert a.loss == pytest.approx(b.loss, rel=CURVE_TOLERANCE)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=10 * CURVE_TOLERANCE)


def test_every_zero_stage_gives_the_same_curve(process_group: None, rows: Rows) -> None:
    """Also where passes hand on tokens, and so read the embedding's weights beside its own forward."""
    config, model = replace(CONFIG, grad_clip=0.0), replace(TINY, carry="token", reads_first=True)
    engines = (DeepSpeedEngine(build_model(model, config), config, Scale(zero_stage=n)) for n in (0, 1, 2, 3))
    curves = [[at.loss for at in curve(engine, rows, config)] for engine in engines]
    for other in curves[1:]:
        assert other == pytest.approx(curves[0], rel=CURVE_TOLERANCE)


def test_bfloat16_stays_near_float32(process_group: None, rows: Rows) -> None:
    config = replace(CONFIG, precision="bfloat16")
    got = curve(DeepSpeedEngine(build_model(TINY, config), config, Scale()), rows, config)
    expected = curve(LocalEngine(build_model(TINY, CONFIG), CONFIG), rows, CONFIG)
    assert [at.loss for at in got] == pytest.approx([at.loss for at in expected], rel=0.03)
    assert [at.loss for at in got] != [at.loss for at in expected]


LOW = [(0, "muon"), (0, "adamw"), (1, "adamw"), (2, "adamw"), (3, "adamw")]


@pytest.mark.parametrize(("stage", "optimizer"), LOW)
def test_weights_in_bfloat16_learn_what_float32_learns(
    process_group: None, rows: Rows, tmp_path: Path, stage: int, optimizer: str
) -> None:
    """The model that results has the float32 weights that the optimiser updated, and a resumed run is the same run."""
    config = replace(CONFIG, grad_clip=0.0, optimizer=optimizer, adam_lr=1e-2)
    expected = [at.loss for at in curve(LocalEngine(build_model(TINY, config), config), rows, config)]
    low, licenses = replace(config, precision="bfloat16_weights"), list[str | None]()

    def run(save: Path | None = None, resume: Path | None = None) -> tuple[list[float], dict[str, torch.Tensor]]:
        model = build_model(TINY, low)
        model.license = "of the base"
        engine = DeepSpeedEngine(model, low, Scale(zero_stage=stage))

        def report(at: Progress, write: Callable[[Path], None]) -> None:
            if save and at.step == 8:
                write(save)

        losses = [at.loss for at in train(engine, rows, low, lambda model, level: 0.0, report, resume)]
        assert {weight.dtype for weight in engine.model.parameters()} == {torch.bfloat16}
        weights = dict[str, torch.Tensor]()
        engine.finish(lambda model: weights.update(model.state_dict()))
        engine.finish(lambda model: licenses.append(model.license))
        return losses, weights

    losses, weights = run(save=tmp_path)
    assert losses == pytest.approx(expected, rel=0.02) and losses[-1] < 0.9 * losses[0]
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert any((weight != weight.bfloat16()).any() for weight in weights.values())
    again, resumed = run(resume=tmp_path)
    assert again == losses and licenses == ["of the base"] * 2
    for name, weight in weights.items():
        assert torch.equal(resumed[name], weight), name


@pytest.mark.parametrize(("stage", "optimizer"), LOW[:4])
def test_the_first_update_of_weights_in_bfloat16(process_group: None, stage: int, optimizer: str) -> None:
    model, gradients = with_given_gradients(CONVOLVED)
    before = {name: p.detach().bfloat16().float() for name, p in model.named_parameters()}
    config = replace(CONFIG, grad_clip=0.0, batch_size=1, optimizer=optimizer, precision="bfloat16_weights")
    engine = DeepSpeedEngine(model, config, Scale(zero_stage=stage))
    engine.backward(*GIVEN_BATCH)
    engine.step(rate=0.5)
    engine.finish(lambda model: check_first_update(model, before, gradients, config, rate=0.5))


def test_blocks_that_rest_are_bfloat16_alone(process_group: None, rows: Rows) -> None:
    model = replace(TINY, mixers=("attention", "gated_delta", "attention"), inserted=(1,))
    config = replace(CONFIG, trained="inserted", precision="bfloat16_weights", steps=4)
    built = build_model(model, config)
    start = {name: p.detach().bfloat16().float() for name, p in built.named_parameters()}
    engine = DeepSpeedEngine(built, config, Scale())
    curve(engine, rows, config)
    needed, optimizer = training_memory(engine.model, config, Scale(), TASK.row_length), engine.engine.optimizer
    assert sum(p.nbytes for p in engine.model.parameters()) == needed.weights
    assert sum(p.nbytes for group in optimizer.fp32_groups for p in group) == needed.masters
    moved = set[str]()
    engine.finish(lambda model: moved.update(n for n, p in model.named_parameters() if not torch.equal(p, start[n])))
    assert moved == {name for name in start if name.startswith("blocks.1.")}


def test_the_buffers_of_a_mixer_outlive_bfloat16_weights(process_group: None) -> None:
    config, found = replace(CONFIG, precision="bfloat16_weights", grad_clip=0.0), dict[str, torch.Tensor]()
    built = build_model(replace(TINY, mixers=("attention", BUFFERED)), config)
    built.stack[1].mixer.calls.fill_(3)
    expected = {name: value.clone() for name, value in built.state_dict().items()}
    DeepSpeedEngine(built, config, Scale()).finish(lambda model: found.update(model.state_dict()))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[f"blocks.1.mixer.{name}"], expected[f"blocks.1.mixer.{name}"]) for name in SAVED)


@pytest.mark.parametrize("precision", ["float32", "bfloat16_weights"])
def test_replayed_graphs_train_the_same_under_deepspeed(
    process_group: None, rows: Rows, precision: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU, a graph is the function that it would be made of. It is called past DeepSpeed's own forward."""
    config, calls, captures = replace(CONFIG, precision=precision, grad_clip=0.0), list[object](), list[object]()

    def curve_of(engine: DeepSpeedEngine) -> list[tuple[float, float]]:
        engine.engine.register_forward_pre_hook(lambda module, inputs: calls.append(module))
        return [(at.loss, at.grad_norm) for at in curve(engine, rows, config)]

    def capture(function: Any, *_: object, **__: object) -> Any:
        captures.append(function)
        return function

    expected = curve_of(DeepSpeedEngine(build_model(TINY, config), config, Scale()))
    assert len(calls) == config.steps
    monkeypatch.setattr(torch.cuda, "make_graphed_callables", capture)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(deepspeed, "graphed", lambda model, forward, *_: GraphedModel(model, forward, autocast=False))
    calls.clear()
    assert curve_of(DeepSpeedEngine(build_model(TINY, config), config, Scale())) == expected
    assert (len(calls), len(captures)) == (1, 1)


def test_workers_are_asked_without_waiting_for_their_gpus(process_group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """tests/sleepmodel/test_two_workers.py has what they answer."""
    engine = DeepSpeedEngine(build_model(TINY, CONFIG), CONFIG, Scale())
    engine.engine.device = DEVICE
    with counted_waits(monkeypatch) as waits:
        assert engine.any(True) and not engine.any(False)
    assert waits.lines == []


@pytest.mark.parametrize("stage", [0, 2])
def test_a_resumed_engine_is_the_same_run(process_group: None, rows: Rows, tmp_path: Path, stage: int) -> None:
    config = replace(CONFIG, grad_clip=0.0)

    def run(save: Path | None = None, resume: Path | None = None) -> list[float]:
        engine = DeepSpeedEngine(build_model(TINY, config), config, Scale(zero_stage=stage))

        def report(at: Progress, write: Callable[[Path], None]) -> None:
            if save and at.step == 8:
                write(save)

        return [at.loss for at in train(engine, rows, config, lambda model, level: 0.0, report, resume)]

    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    whole = run(save=checkpoint)
    assert run(resume=checkpoint) == whole


def test_an_empty_checkpoint_is_an_error(process_group: None, tmp_path: Path) -> None:
    config = replace(CONFIG, grad_clip=0.0)
    for stage in (0, 2):
        engine = DeepSpeedEngine(build_model(TINY, config), config, Scale(zero_stage=stage))
        with pytest.raises(FileNotFoundError, match="no checkpoint here"):
            engine.load(tmp_path)


def test_what_others_sum_and_verify_is_not_read_once_more(
    process_group: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker lists the files that it has saved with their checksums, and the one that chooses a checkpoint verifies
    all of them, which may have many gigabytes."""
    local = LocalEngine(build_model(TINY, CONFIG), CONFIG)
    (tmp_path / "local").mkdir()
    local.save(tmp_path / "local", {"step": 4})

    def again(path: Path) -> str:
        raise AssertionError(f"{path} is read once more")

    monkeypatch.setattr("sleepmodel.training.engine.sha256", again)
    engine = DeepSpeedEngine(build_model(TINY, CONFIG), CONFIG, Scale())
    engine.save(tmp_path, {"step": 4})
    assert engine.load(tmp_path) == {"step": 4}
    with pytest.raises(AssertionError, match=r"checkpoint\.pt is read"):  # of a plain loop, nobody has verified it
        local.load(tmp_path / "local")


@pytest.fixture(scope="module")
def job(ray_cluster: str, tmp_path_factory: pytest.TempPathFactory) -> TrainingJob:
    root = tmp_path_factory.mktemp("job")
    for split in ("train", "validation"):
        dataset = generate(TASK, split, 64, 0, root)
    return TrainingJob(name="test", model=TINY, train=CONFIG, dataset=str(dataset), output=str(root / "one"))


def test_two_workers_match_one_and_a_plain_loop(job: TrainingJob, rows: Rows, tmp_path: Path) -> None:
    """The same global batches, halved: only the order of sums differs."""
    jobs = [replace(job, output=str(tmp_path / str(n)), scale=Scale(workers=n)) for n in (1, 2)]
    for training in [in_thread(fit, each) for each in jobs]:
        training.result()
    one, two = (read_training(Path(each.output)).history for each in jobs)
    plain = curve(LocalEngine(build_model(TINY, CONFIG), CONFIG), job.rows(), CONFIG)
    for a, b, c in zip(one, two, plain, strict=True):
        assert (a.step, a.tokens) == (b.step, b.tokens) == (c.step, c.tokens)
        assert a.loss == pytest.approx(b.loss, rel=CURVE_TOLERANCE)
        assert a.loss == pytest.approx(c.loss, rel=CURVE_TOLERANCE)
        assert a.grad_norm == pytest.approx(b.grad_norm, rel=20 * CURVE_TOLERANCE)
    weights = [load(Path(each.output) / MODEL).state_dict() for each in jobs]
    for name, weight in weights[0].items():
        assert (weights[1][name] - weight).norm() <= WEIGHT_TOLERANCE * weight.norm(), name


def test_a_ray_without_a_dashboard_has_no_cleaner(ray_cluster: str) -> None:
    """It would ask whether a controller lives where another Ray's dashboard may answer. With a dashboard there is one:
    tests/faults/test_training.py needs it."""

    @ray.remote
    def starts_one() -> bool:
        callback = _KeepCleaner()
        callback.after_controller_start(SimpleNamespace(run_id="a"))
        return callback._cleaner is not None

    assert not ray.get(starts_one.remote())


def test_a_diverged_training_stops_at_once_and_keeps_its_checkpoint(job: TrainingJob, tmp_path: Path) -> None:
    class Poisoned(TrainingJob):
        def validate(self, engine: Engine) -> Callable[[SleepModel, int | None], float]:
            def poison(model: SleepModel, level: int | None) -> float:
                with torch.no_grad():
                    model.norm.weight[0] = float("nan")
                with (Path(self.output) / "starts").open("a") as starts:
                    starts.write("x")
                (Path(self.output) / "needless").write_text(" ".join({"mlflow", "optuna"} & sys.modules.keys()))
                return 0.0

            return poison

    fields = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}
    store = open_store(tmp_path)
    run = start_run(store, "test", "test", None, {}, {})
    poisoned = Poisoned(**{**fields, "output": str(tmp_path / "run"), "store": store, "run": run})
    (tmp_path / "run").mkdir()
    with pytest.raises(NonFiniteError, match=r"step 4: loss nan, gradient norm nan, muon_lr 5.00e-03"):
        in_thread(fit, poisoned).result()
    assert (tmp_path / "run" / "starts").read_text() == "x"
    assert (tmp_path / "run" / "needless").read_text() == ""  # the controller logs the curve
    assert len(list((tmp_path / "run" / "checkpoints").glob("checkpoint_2*"))) == 1
    assert not (tmp_path / "run" / MODEL).exists()
