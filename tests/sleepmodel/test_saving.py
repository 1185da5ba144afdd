"""A saved model is the model; a file that is not one, or that may not be read or written, is refused as such."""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import permutations, product
from pathlib import Path
from typing import Any

import pytest
import torch

from datagen.files import put, replacing
from datagen.tokenizer import Tokenizer
from sleepmodel import Memory, Session, SleepModel, load, save
from sleepmodel.accounting import fingerprint, n_params
from sleepmodel.serialization import tensors
from sleepmodel.serialization.available_memory import available_memory
from tests.sleepmodel.conftest import MakeModel, rows
from tests.sleepmodel.own_mixers import BUFFERED
from tests.sleepmodel.speaking import speaking_model


def save_memory(model: SleepModel, file: str) -> None:
    session = Session(model)
    session.read(torch.ones(1, 7, dtype=torch.int64))
    session.memory.save(file)


@contextmanager
def as_nobody() -> Iterator[None]:
    """Without the rights of root, whom no permissions stop."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that others may read; those of tmp_path they may not."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_a_loaded_model_computes_the_same_bits(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(dtype=torch.float32, sleep_passes=2, fast_weight_lr=1.5)
    save(model, tmp_path / "model")
    assert load(tmp_path / "model").vocabulary is None
    model.vocabulary = ("a", "b", "c", "d", "e")
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert again.vocabulary == model.vocabulary
    tokens = torch.randint(0, 5, (2, 14))
    mask = torch.zeros_like(tokens, dtype=torch.bool)
    mask[:, 13] = True
    assert again.config == model.config
    assert torch.equal(again(tokens, mask).logits, model(tokens, mask).logits)


def kinds(directory: Path) -> list[SleepModel]:
    """Models with every combination of tokenizer, chat template and vocabulary; the widths differ."""
    made = []
    for width, (template, words) in enumerate([("{{ 1 }}", ()), (None, ("a",)), (None, ()), ("{{ 2 }}", ("b",))]):
        folder = directory / str(width)
        folder.mkdir(parents=True)
        model = speaking_model(folder, template, d_model=16 + 4 * width)
        model.vocabulary = words or None
        if template is None:
            model.tokenizer = None if words else Tokenizer.read(folder)
        made.append(model)
    return made


def same(loaded: SleepModel, saved: SleepModel) -> bool:
    here, there = (model.tokenizer and replace(model.tokenizer, source="") for model in (loaded, saved))
    weights = all(torch.equal(a, b) for a, b in zip(loaded.parameters(), saved.parameters(), strict=True))
    return here == there and weights and loaded.vocabulary == saved.vocabulary


@pytest.mark.parametrize("template_file", [True, False])
def test_nothing_of_another_model_is_loaded_as_the_models(tmp_path: Path, template_file: bool) -> None:
    """Saved over another model, whatever that one had and this one has not."""
    models = kinds(tmp_path / "tokenizers")
    for earlier, later in product(models, repeat=2):
        place = Path(tempfile.mkdtemp(dir=tmp_path))
        save(earlier, place)
        if template_file:  # as of a directory of Hugging Face's layout
            (place / "chat_template.jinja").write_text("{{ 3 }}")
        (place / "notes.txt").touch()
        save(later, place)
        assert same(load(place), later) and (place / "notes.txt").exists()


def test_a_save_that_is_killed_leaves_a_model_or_what_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = kinds(tmp_path / "tokenizers")
    left: list[int] = []

    def dies(file: Path, path: Path) -> None:
        if not left.pop():
            raise KeyboardInterrupt
        put(file, path)

    for (earlier, later), files in product(permutations(models[:3], 2), range(5)):
        place = Path(tempfile.mkdtemp(dir=tmp_path))
        save(earlier, place)
        left[:] = [0, *[1] * files]
        monkeypatch.setattr("datagen.files.put", dies)
        with suppress(KeyboardInterrupt, IndexError):
            save(later, place)
        monkeypatch.undo()
        with suppress(ValueError):
            loaded = load(place)
            config = loaded.config
            assert config == earlier.config or config == later.config
            whole = earlier if config == earlier.config else later
            assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), whole.parameters(), strict=True))
        save(later, place)
        assert same(load(place), later)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_loaded_model_has_the_dtype_of_the_saved_one(
    make_model: MakeModel, tmp_path: Path, dtype: torch.dtype
) -> None:
    """And so its fingerprint: a memory of one is a memory of the other."""
    model = make_model().to(dtype)
    save(model, tmp_path)
    session = Session(model)
    session.read(torch.tensor([[1, 2, 3]]))
    resumed = Session(load(tmp_path), memory=session.memory)
    assert resumed.model.embed.weight.dtype == dtype
    assert torch.equal(resumed.generate(4), session.generate(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mixer_of_ones_own_keeps_its_buffers(make_model: MakeModel, tmp_path: Path, dtype: torch.dtype) -> None:
    """Whatever their dtypes and values, and those that are made anew."""
    model = make_model(mixers=("attention", BUFFERED), sleep_passes=2).to(dtype)
    model.stack[1].mixer.scale.mul_(2.0)
    tokens, mask = rows(0)
    model(tokens, mask)
    save(model, tmp_path)
    again = load(tmp_path)
    assert again.stack[1].mixer.calls == model.stack[1].mixer.calls > 0
    assert fingerprint(again) == fingerprint(model)
    assert torch.equal(again(tokens, mask).logits, model(tokens, mask).logits)


def test_buffers_of_another_kind_are_refused(make_model: MakeModel, tmp_path: Path) -> None:
    model = make_model(mixers=("attention", BUFFERED), dtype=torch.float32)
    model.stack[1].mixer.calls = torch.tensor(0.5)
    save(model, tmp_path)
    with pytest.raises(ValueError, match=r"calls must be torch.int64, is torch.float32; take both from one model"):
        load(tmp_path)


@pytest.mark.parametrize("source", [None, 3])
def test_what_is_no_path_is_refused(make_model: MakeModel, source: Any) -> None:
    message = f"path = {source}: must be a str or a Path: give a directory, or s3://bucket/prefix"
    with pytest.raises(ValueError, match=message):
        load(source)
    with pytest.raises(ValueError, match=message):
        save(make_model(), source)


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"{tmp_path}: no model here"):
        load(tmp_path)


def test_weights_of_another_config_are_refused(make_model: MakeModel, tmp_path: Path) -> None:
    save(make_model(dtype=torch.float32), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "d_model": 32}))
    with pytest.raises(ValueError, match=r"model.safetensors does not match config.json"):
        load(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_that_do_not_fit_the_memory_are_not_read(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """What a loaded model takes, in its own dtype, with buffers of several sizes."""
    model = make_model(mixers=("attention", BUFFERED)).to(dtype)
    save(model, tmp_path)
    needed = sum(tensor.nbytes for tensor in load(tmp_path).state_dict().values())
    assert needed == dtype.itemsize * n_params(model) + 8 + dtype.itemsize * (2 + 8)
    for free in (None, needed):
        monkeypatch.setattr(tensors, "available_memory", lambda free=free: free)
        load(tmp_path)
    monkeypatch.setattr(tensors, "available_memory", lambda: needed - 1)
    with pytest.raises(ValueError, match=r"the weights take 0\.00 GiB, but 0\.00 GiB are free here; free some"):
        load(tmp_path)


def test_free_memory_counts_swap_caches_and_the_limit_of_a_container(tmp_path: Path) -> None:
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
    assert available_memory(meminfo, cgroup) is None
    meminfo.write_text("MemTotal: 900 kB\nMemAvailable: 500 kB\nSwapFree: 10 kB\n")
    assert available_memory(meminfo, cgroup) == 510 * 1024
    cgroup.mkdir()
    (cgroup / "memory.max").write_text("max\n")
    (cgroup / "memory.current").write_text("100000\n")
    assert available_memory(meminfo, cgroup) == 510 * 1024
    (cgroup / "memory.max").write_text("300000\n")
    (cgroup / "memory.stat").write_text("anon 60000\nfile 40000\n")
    assert available_memory(meminfo, cgroup) == 240_000 + 10 * 1024


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_umask_decides_who_may_read(make_model: MakeModel, tmp_path: Path, umask: int, mode: int) -> None:
    model = make_model(dtype=torch.float32)
    before = os.umask(umask)
    try:
        save(model, tmp_path / "model")
        save_memory(model, f"{tmp_path}/memory")
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == dict.fromkeys(
        ("config.json", "model.safetensors", "memory"), mode
    )


def test_a_place_is_a_path_or_a_string_and_may_begin_at_home(
    make_model: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    model = make_model(dtype=torch.float32)
    save(model, "~/new/model")
    save_memory(model, "~/memory")
    assert (tmp_path / "new" / "model" / "config.json").exists()
    session = Session(load("~/new/model"), memory=Memory.load("~/memory"))
    assert session.sleeps.tolist() == [1]


def test_a_memory_is_not_saved_into_a_directory_that_is_missing(make_model: MakeModel, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"there is no directory {tmp_path}/typo; create it"):
        save_memory(make_model(), f"{tmp_path}/typo/memory")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "memory"])
def test_a_file_that_may_not_be_read_is_not_called_damaged(make_model: MakeModel, shared: Path, name: str) -> None:
    model = make_model(dtype=torch.float32)
    save(model, shared)
    save_memory(model, str(shared / "memory"))
    (shared / name).chmod(0)
    with as_nobody(), pytest.raises(PermissionError, match=f"Permission denied.*{name}"):
        Memory.load(shared / name) if name == "memory" else load(shared)


@pytest.mark.parametrize("write", [save, save_memory])
def test_a_directory_that_may_not_be_written_is_not_called_full(
    make_model: MakeModel, shared: Path, write: Callable[[SleepModel, str], None]
) -> None:
    with (
        as_nobody(),
        pytest.raises(PermissionError, match=r"cannot be written .*: choose another directory, or change its"),
    ):
        write(make_model(dtype=torch.float32), str(shared / "new"))
    assert list(shared.iterdir()) == []


def test_a_disk_that_is_only_read_is_not_called_full(tmp_path: Path) -> None:
    with pytest.raises(PermissionError, match=r"choose another directory"), replacing(tmp_path / "file"):
        raise OSError(errno.EROFS, "Read-only file system")


def test_of_several_that_save_to_one_place_the_last_wins(make_model: MakeModel, tmp_path: Path) -> None:
    models = [make_model(seed, dtype=torch.float32) for seed in range(4)]
    with ThreadPoolExecutor(len(models)) as threads:
        for _ in range(10):
            list(
                threads.map(
                    lambda model: (save(model, tmp_path / "model"), save_memory(model, f"{tmp_path}/m")), models
                )
            )
            saved = load(tmp_path / "model").lm_head.weight
            assert any(torch.equal(saved, model.lm_head.weight) for model in models)
            Memory.load(tmp_path / "m")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.json", "m", "model", "model.safetensors"]
