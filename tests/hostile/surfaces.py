"""Every place where something from outside is read, as a function of bytes: for hypothesis and for a fuzzer."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.pyfunc.model import PythonModelContext

from datagen import Depo, Facts, Gsm, Recall, Rule110, read_rows
from datagen.errors import DatasetError
from datagen.schema import FORMAT_VERSION, Dataset, Split, shard_path
from datagen.shards import ensure_shard, to_table, write_shard
from pipelines.config.experiment import Experiment
from pipelines.config.overrides import OverrideError, apply_overrides
from pipelines.config.presets import PRESETS
from pipelines.engine.canonical import canonical
from sleepmodel import Memory, ModelConfig, SleepModel, load, save
from sleepmodel.inference.session import Session
from sleepmodel.serialization.model_dir import CONFIG, WEIGHTS
from sleepmodel.serialization.tensors import read_tensors, write_tensors
from sleepmodel.tracking.pyfunc import Answers
from sleepmodel.training.engine import CHECKPOINT, LocalEngine
from sleepmodel.training.loop import build_model
from tests.hostile.imports import IMPORTS
from tests.hostile.places import PLACES
from tests.hostile.pretrained import PRETRAINED
from tests.hostile.served import SERVED
from tests.hostile.surface import WRONG_JSON, Surface
from tests.sleepmodel.tiny import CONFIG as TRAIN
from tests.sleepmodel.tiny import MODEL, TASK


@cache
def _model() -> SleepModel:
    model = build_model(MODEL, TRAIN).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.vocabulary = ("0", "1", "?")
    return model


def _saved(place: Path) -> Path:
    if not (place / CONFIG).exists():
        save(_model(), place)
    return place


def _model_file(name: str) -> Surface:
    """One file of a model, whose others are sound."""

    def read(content: bytes, place: Path) -> None:
        sound = (_saved(place) / name).read_bytes()
        try:
            (place / name).write_bytes(content)
            model = load(place)
        finally:
            (place / name).write_bytes(sound)
        if name == CONFIG:
            given = ModelConfig.from_dict(json.loads(content))
            assert model.config == given
        else:
            assert model.config == MODEL
            weights = zip(model.parameters(), _model().parameters(), strict=True)
            assert name != WEIGHTS or all(torch.equal(a, b) for a, b in weights)

    return Surface(
        lambda place: ((_saved(place) / name).read_bytes(),), read, (ValueError,), f"{name}.*take |take both"
    )


# --- a memory


def _memory_bytes(place: Path) -> tuple[bytes, ...]:
    session = Session(_model(), 2)
    session.read(torch.tensor([[0, 1, 1, 0], [1, 1, -1, -1]]))
    session.memory.save(place / "memory")
    return ((place / "memory").read_bytes(),)


def _read_memory(content: bytes, place: Path) -> None:
    (place / "memory").write_bytes(content)
    memory = Memory.load(place / "memory")
    (sound,) = _memory_bytes(place)
    (place / "memory").write_bytes(sound)
    right = Memory.load(place / "memory")
    assert memory.fingerprint == right.fingerprint and set(memory.tensors) == set(right.tensors)
    assert all(torch.equal(memory.tensors[name], tensor) for name, tensor in right.tensors.items())


def _read_forged_memory(content: bytes, place: Path) -> None:
    """Tensors of other shapes and values under a sum that is right: what a session makes of them must be finite, or
    refused."""
    facts, tensors = _memory_tensors(place)
    described = json.loads(content)
    if not isinstance(described, dict):
        raise ValueError("memory: take another description")
    forged = {name: _fitted(tensors[name], what) for name, what in described.items() if name in tensors}
    write_tensors(place / "forged", forged, facts)
    session = Session(_model(), memory=Memory.load(place / "forged"))
    logits = session.read(torch.zeros(session.batch_size, 4, dtype=torch.int64))
    session.sleep()
    assert logits.isfinite().all()


def _use_memory(content: bytes, place: Path) -> None:
    """For a fuzzer, which learns the sum that is wanted and writes it itself: whatever it holds, nothing breaks."""
    (place / "memory").write_bytes(content)
    session = Session(_model(), memory=Memory.load(place / "memory"))
    session.read(torch.zeros(session.batch_size, 4, dtype=torch.int64))


@cache
def _memory_tensors(place: Path) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    _memory_bytes(place)
    return read_tensors(place / "memory")


def _fitted(tensor: torch.Tensor, described: Any) -> torch.Tensor:
    """The tensor cut or filled to described["shape"], and moved by described["add"]."""
    if not isinstance(described, dict):
        raise ValueError("memory: take another description")
    shape, add = described.get("shape"), described.get("add")
    sides = isinstance(shape, list) and all(type(side) is int and 0 <= side < 33 for side in shape)
    if not sides or not isinstance(add, (int, float)) or abs(add) > 1e6:
        raise ValueError("memory: take another description")
    values = tensor.reshape(-1).repeat(math.prod(shape) // max(1, tensor.numel()) + 1)  # type: ignore[arg-type]
    values = torch.cat((values, values.new_zeros(math.prod(shape))))  # type: ignore[arg-type]
    return (values[: math.prod(shape)].reshape(shape) + add).to(tensor.dtype)  # type: ignore[arg-type]


def _memory_descriptions(place: Path) -> tuple[bytes, ...]:
    shapes = {name: {"shape": list(tensor.shape), "add": 0} for name, tensor in _memory_tensors(place)[1].items()}
    return (json.dumps(shapes).encode(),)


# --- a training checkpoint


def _engine() -> LocalEngine:
    return LocalEngine(build_model(MODEL, TRAIN), TRAIN)


def _checkpoint_bytes(place: Path) -> tuple[bytes, ...]:
    _engine().save(place, {"history": [], "done": {}})
    return ((place / CHECKPOINT).read_bytes(),)


@cache
def _standing_engine() -> LocalEngine:
    return _engine()


def _read_checkpoint(content: bytes, place: Path) -> None:
    (place / CHECKPOINT).write_bytes(content)
    state = _standing_engine().load(place)
    assert set(state) == {"history", "done"}


# --- a dataset


@cache
def _dataset_files(place: Path) -> dict[str, bytes]:
    path = shard_path(place, "train", 0)
    shard = ensure_shard(path, TASK, "train", 0, 0, 40, listed=None)
    dataset = Dataset(FORMAT_VERSION, TASK.name, asdict(TASK), TASK.vocabulary, 0, {"train": Split(40, (shard,))})
    (place / "dataset.json").write_text(dataset.to_json())
    return {"shard": path.read_bytes(), "dataset.json": (place / "dataset.json").read_bytes()}


def _rows_hold(place: Path) -> None:
    rows = read_rows(place, "train")
    tokens, mask = rows.batch()
    assert (len(tokens) == len(rows) > 0 and mask.any(1).all()) or not mask.size
    assert tokens.max(initial=0) < 2**16 and (rows.answers()[1] >= 0).all()


def _read_dataset_json(content: bytes, place: Path) -> None:
    sound = _dataset_files(place)
    shard_path(place, "train", 0).write_bytes(sound["shard"])
    (place / "dataset.json").write_bytes(content)
    _rows_hold(place)
    right = TASK.sample("train", 0, 0, 40)
    assert np.array_equal(read_rows(place, "train").tokens, right.tokens)  # type: ignore[arg-type]


def _read_shard(content: bytes, place: Path) -> None:
    """Beside the sound dataset.json nothing but the sound bytes may be read."""
    (place / "dataset.json").write_bytes(_dataset_files(place)["dataset.json"])
    shard_path(place, "train", 0).write_bytes(content)
    _rows_hold(place)
    assert content == _dataset_files(place)["shard"]


def _read_listed_shard(content: bytes, place: Path) -> None:
    """Listed with the sum that it has, as a forger would, it must hold rows or be refused."""
    listed = json.loads(_dataset_files(place)["dataset.json"])
    listed["splits"]["train"]["shards"][0]["sha256"] = hashlib.sha256(content).hexdigest()
    (place / "dataset.json").write_text(json.dumps(listed))
    shard_path(place, "train", 0).write_bytes(content)
    _rows_hold(place)


def _shards(place: Path) -> tuple[bytes, ...]:
    """Rows of one length, and rows of several with their solutions."""
    ragged = Gsm(operations=(1, 1), tokens=(120, 200)).sample("train", 0, 0, 8)
    write_shard(to_table(ragged, 2**16), place / "ragged")
    return (_dataset_files(place)["shard"], (place / "ragged").read_bytes())


# --- what is typed and asked


def _apply(content: bytes, place: Path) -> None:
    assignments = content.decode(errors="surrogateescape").split("\n")
    changed = apply_overrides(PRESETS["smoke"], assignments)
    assert isinstance(changed, Experiment)
    canonical(changed, "pipeline")
    assert changed.train_rows() >= 1 and all(changed.variant_steps(arm) >= 1 for arm in changed.variants)


def _assignments(place: Path) -> tuple[bytes, ...]:
    smoke = PRESETS["smoke"]
    lines = ["search=null"]
    for group in ("task", "model", "train", "search", "data", "scale"):
        part = getattr(smoke, group)
        lines += [f"{group}.{field.name}={json.dumps(getattr(part, field.name))}" for field in fields(part)
                  if isinstance(getattr(part, field.name), (int, float, str, tuple, type(None)))]  # fmt: skip
    return (*tuple(line.encode() for line in lines), b"train.steps=30\nseeds=[1, 2]", b"name=[&a [1, 1], *a, *a]")


TASKS: dict[str, Any] = {"rule110": Rule110, "depo": Depo, "facts": Facts, "gsm": Gsm, "recall": Recall}


def _build_task(content: bytes, place: Path) -> None:
    given = json.loads(content)
    if not isinstance(given, dict) or given.get("task") not in list(TASKS) or not isinstance(given.get("with"), dict):
        raise ValueError("task: must be another")
    cls = TASKS[given["task"]]
    names = {field.name for field in fields(cls)}
    task = cls(**{name: value for name, value in given["with"].items() if name in names})
    if task.row_length > 500:
        return  # right, and too slow for so many of them
    rows = task.sample(given.get("split"), given.get("seed"), given.get("shard"), 2)
    assert len(rows) == 2 and rows.tokens[:].__len__() == 2
    assert to_table(rows, len(task.vocabulary)).num_rows == 2


def _tasks(place: Path) -> tuple[bytes, ...]:
    tasks = (
        Rule110(cells=8, states=2, steps=3),
        Depo(nodes=5, hops=2, queries=1),
        Facts(facts=(2, 4), questions=1, context_length=80, span=40),
        Gsm((1, 1), (120, 200)),
        Recall(passage=20, cue=4, span=32, distances=(1, 2)),
    )
    return tuple(
        json.dumps({"task": task.name, "with": asdict(task), "split": "test", "seed": 1, "shard": 0}).encode()
        for task in tasks
    )


def _tensor(value: Any) -> torch.Tensor:
    """What torch makes of a nested list; ValueError where that is nothing."""
    try:
        return torch.as_tensor(value)
    except (ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise ValueError("tokens: must be a tensor") from error


def _read_tokens(content: bytes, place: Path) -> None:
    """Training's forward and a session, which must agree on what they refuse of plain tokens."""
    given = json.loads(content)
    if not isinstance(given, dict):
        raise ValueError("tokens: must be a dict")
    tokens, mask = _tensor(given.get("tokens")), _tensor(given.get("mask"))
    with torch.no_grad():
        out = _model()(tokens, mask)
    assert out.loss.isfinite() and len(out.logits) == mask.sum()
    assert Session(_model(), len(tokens)).read(tokens).isfinite().all()


def _prompts(place: Path) -> tuple[bytes, ...]:
    mask = [[False] * 7 + [True]] * 2
    return (json.dumps({"tokens": [[0, 1, 1, 0, 1, 0, 2, 1], [1, 1, 0, 1, 1, 0, 2, 0]], "mask": mask}).encode(),)


@cache
def _served(place: Path) -> Answers:
    served = Answers()
    served.load_context(PythonModelContext({"model": str(_saved(place))}, None))  # type: ignore[no-untyped-call]
    return served


def _predict(content: bytes, place: Path) -> None:
    given = json.loads(content)
    if not isinstance(given, dict):
        raise ValueError("input: must be a dict")
    params = {"n": given.pop("n")} if "n" in given else None
    answer = _served(place).predict(None, given, params)["answer"]  # type: ignore[arg-type]
    assert answer.shape == (len(given["tokens"]), params["n"] if params else 1)
    assert ((answer >= 0) & (answer < 3)).all()


def _requests(place: Path) -> tuple[bytes, ...]:
    rows = [[0, 1, 1, 0, 1, 0, 2], [1, 1, 0, 1, 1, 0, 2]]
    return (json.dumps({"tokens": rows}).encode(), json.dumps({"tokens": rows, "n": 1}).encode())


SURFACES = {
    "config.json": _model_file(CONFIG),
    "model.safetensors": _model_file(WEIGHTS),
    "vocabulary.json": _model_file("vocabulary.json"),
    "memory": Surface(_memory_bytes, _read_memory, (ValueError,), "memory"),
    "forged memory": Surface(
        _memory_descriptions, _read_forged_memory, (ValueError, RecursionError), WRONG_JSON + "|take"
    ),
    "used memory": Surface(_memory_bytes, _use_memory, (ValueError,), "memory|row length"),
    "checkpoint": Surface(_checkpoint_bytes, _read_checkpoint, (ValueError,), "checkpoint.*resume from"),
    "dataset.json": Surface(
        lambda place: (_dataset_files(place)["dataset.json"],), _read_dataset_json, (DatasetError,), "generate"
    ),
    "shard": Surface(
        lambda place: (_dataset_files(place)["shard"],), _read_shard, (DatasetError,), "part-00000.*generate"
    ),
    "listed shard": Surface(_shards, _read_listed_shard, (DatasetError,), "part-00000.*generate"),
    "overrides": Surface(_assignments, _apply, (OverrideError,), "must|no field|set|has|is "),
    "tasks": Surface(_tasks, _build_task, (ValueError, RecursionError), WRONG_JSON),
    "tokens": Surface(_prompts, _read_tokens, (ValueError, RecursionError), WRONG_JSON + "|may|is the first token"),
    "predictions": Surface(_requests, _predict, (ValueError, RecursionError), WRONG_JSON),
    **IMPORTS,
    **PLACES,
    **PRETRAINED,
    **SERVED,
}
