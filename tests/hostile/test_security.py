"""The promises of docs/security.md: what is read runs no code, nothing listens to other machines, no secret shows."""

from __future__ import annotations

import inspect
import json
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow.cli
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch

import datagen
import pipelines
import sleepmodel
from datagen import read_rows
from datagen.errors import DatasetError
from datagen.files import sha256
from datagen.schema import FORMAT_VERSION, Dataset, Shard, Split, shard_path
from datagen.shards import to_table
from pipelines.config.overrides import OverrideError, apply_overrides
from pipelines.config.presets import PRESETS
from sleepmodel import Memory, load, save
from sleepmodel.tracking.redact import redacted
from sleepmodel.tracking.runs import TrackingStore, open_store
from sleepmodel.training.engine import CHECKPOINT, CHECKPOINT_SUM, LocalEngine
from sleepmodel.training.loop import build_model
from tests.sleepmodel.tiny import CONFIG, MODEL, TASK

SECRET = "hunter2"


class Poison:
    """Touches a file as it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.marker,)


def poisoned_memory(place: Path, poison: bytes) -> None:
    (place / "memory").write_bytes(poison)
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        Memory.load(place / "memory")


def poisoned_model(place: Path, poison: bytes) -> None:
    """Also beside the files of a sound model, where other tools would look."""
    model = build_model(MODEL, CONFIG)
    save(model, place)
    for name in ("pytorch_model.bin", "python_model.pkl", "model.pkl", "vocabulary.pkl"):
        (place / name).write_bytes(poison)
    assert load(place).config == MODEL
    for name in ("config.json", "vocabulary.json", "model.safetensors"):
        save(model, place)
        (place / name).write_bytes(poison)
        with pytest.raises(ValueError, match=name):
            load(place)


def poisoned_checkpoint(place: Path, poison: bytes) -> None:
    """Its sum is right: weights_only refuses it, as a bare pickle and in torch's own file."""
    engine = LocalEngine(build_model(MODEL, CONFIG), CONFIG)
    for write in (
        lambda: (place / CHECKPOINT).write_bytes(poison),
        lambda: torch.save({"model": Poison(place / "ran")}, place / CHECKPOINT),
    ):
        write()
        (place / CHECKPOINT_SUM).write_text(sha256(place / CHECKPOINT))
        with pytest.raises(ValueError, match="holds more than tensors and plain values"):
            engine.load(place)


def poisoned_dataset(place: Path, poison: bytes) -> None:
    """A pickle as dataset.json, as a shard, and as the extension type that Arrow once unpickled by itself."""
    path = shard_path(place, "train", 0)
    path.parent.mkdir()
    table = to_table(TASK.sample("train", 0, 0, 8), 3)
    extension = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": poison}
    fields = [field.with_metadata(extension) for field in table.schema]
    shards: list[Callable[[], object]] = [
        lambda: path.write_bytes(poison),
        lambda: pq.write_table(table.cast(pa.schema(fields, metadata=extension)), path),
    ]
    for write in shards:
        write()
        split = Split(8, (Shard(8, sha256(path)),))
        listed = Dataset(FORMAT_VERSION, "rule110", asdict(TASK), TASK.vocabulary, 0, {"train": split})
        (place / "dataset.json").write_text(listed.to_json())
        try:
            assert np.array_equal(read_rows(place, "train").tokens, TASK.sample("train", 0, 0, 8).tokens)  # type: ignore[arg-type]
        except DatasetError as error:
            assert "part-00000" in str(error)
    (place / "dataset.json").write_bytes(poison)
    with pytest.raises(DatasetError, match=r"dataset\.json"):
        read_rows(place, "train")


@pytest.mark.parametrize("poisoned", [poisoned_memory, poisoned_model, poisoned_checkpoint, poisoned_dataset])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_poisoned_file_runs_nothing(poisoned: Callable[[Path, bytes], None], protocol: int, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    poison = pickle.dumps(Poison(marker), protocol)
    pickle.loads(poison)
    assert marker.exists()  # it would
    marker.unlink()
    poisoned(tmp_path, poison)
    assert not marker.exists()


def test_yaml_makes_values_and_nothing_else(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for tag in ("!!python/object/apply:pathlib.Path.touch", "!!python/name:os.system", "!!python/object/new:os.system"):
        with pytest.raises(OverrideError):
            apply_overrides(PRESETS["smoke"], [f"seeds={tag} [{marker}]"])
    assert not marker.exists()
    billion = "[&a [1, 1, 1, 1, 1, 1, 1, 1], " + ", ".join(
        f"&{after} [{', '.join(['*' + before] * 8)}]" for before, after in zip("abcdefghi", "bcdefghij", strict=True)
    )
    with pytest.raises(OverrideError):
        apply_overrides(PRESETS["smoke"], [f"seeds={billion}]"])


def test_the_source_reads_no_pickle() -> None:
    """torch.load restricted to tensors, YAML by the loader without tags, and no reader of pickles at all."""
    for package in (datagen, pipelines, sleepmodel):
        for file in Path(package.__path__[0]).rglob("*.py"):
            source = file.read_text()
            loads = re.findall(r"torch\.load\(.*", source)
            assert all("weights_only=True" in call for call in loads), file
            assert not re.search(
                r"pickle\.loads?\(|Unpickler\(|joblib|np\.load\(|\beval\(\s*['\"a-z]|\bexec\(", source
            ), file
            assert all("Loader=_Loader" in call for call in re.findall(r"yaml\.\w*load\w*\(.*", source)), file


def test_nothing_listens_to_other_machines() -> None:
    """Ray's dashboard and MLflow's server bind to loopback unless they are told otherwise, and nobody tells them."""
    assert inspect.signature(ray.init).parameters["dashboard_host"].default == "127.0.0.1"
    server = mlflow.cli.cli.commands["server"]
    (host,) = (option for option in server.params if option.name == "host")
    assert host.default == "127.0.0.1"
    root = Path(__file__).parents[2]
    told = [file for package in ("datagen", "sleepmodel", "pipelines") for file in (root / package).rglob("*.py")]
    for file in (*told, root / "README.md", root / "Makefile"):
        assert not re.search(r"0\.0\.0\.0|dashboard_host|--host", file.read_text()), file


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (f"http://me:{SECRET}@example.org/x", "http://***@example.org/x"),
        (f"postgresql+psycopg2://me:{SECRET}@db:5432/mlflow", "postgresql+psycopg2://***@db:5432/mlflow"),
        (f"s3://{SECRET}@bucket/a?region=x", "s3://***@bucket/a?region=x"),
        (f"mysql://db/m?user=me&password={SECRET}&ssl=1", "mysql://db/m?user=me&password=***&ssl=1"),
        (f"https://x/y?X-Amz-Signature={SECRET}", "https://x/y?X-Amz-Signature=***"),
        (f"http://me:{SECRET}@a@example.org", "http://***@example.org"),
        *((f"postgresql://me:pa{mark}{SECRET}@db/mlflow", "postgresql://***@db/mlflow") for mark in "/?#'\"@"),
        ("sqlite:////data/runs/mlflow.db", "sqlite:////data/runs/mlflow.db"),
        ("sqlite:////data/me@lab/mlflow.db", "sqlite:////data/me@lab/mlflow.db"),
        ("models:/sleep-rule110@champion", "models:/sleep-rule110@champion"),
    ],
)
def test_secrets_of_an_address_are_masked(address: str, shown: str) -> None:
    assert redacted(f"store {address} cannot be used") == f"store {shown} cannot be used"


def test_a_server_that_is_not_there_is_named_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{SECRET}@127.0.0.1:9/")
    with pytest.raises(ConnectionError, match=r"http://\*\*\*@127\.0\.0\.1:9/") as raised:
        open_store(tmp_path)
    assert SECRET not in str(raised.value) and raised.value.__suppress_context__


def test_a_store_does_not_show_its_password() -> None:
    assert SECRET not in repr(TrackingStore(f"http://me:{SECRET}@example.org", "0"))


def test_a_model_stored_as_another_format_is_not_opened(tmp_path: Path) -> None:
    """MLmodel may name any loader; `load` looks at config and weights alone."""
    with pytest.raises(FileNotFoundError, match="no model here"):
        load(tmp_path)
    save(build_model(MODEL, CONFIG), tmp_path)
    (tmp_path / "MLmodel").write_text(json.dumps({"flavors": {"python_function": {"loader_module": "os"}}}))
    assert load(tmp_path).config == MODEL
    shutil.rmtree(tmp_path)
