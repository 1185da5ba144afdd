"""A memory is a whole session in a file: it resumes on another machine, with the model that wrote it and no other."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from s3fs import S3FileSystem
from torch import Tensor

from sleepmodel import PAD, Memory, Session
from sleepmodel.accounting import state_bytes
from tests.sleepmodel.conftest import EVERY_MIXER, build_small, every_kind
from tests.sleepmodel.test_session import ROWS, read_in_pieces, tokens_of


def test_a_model_with_a_single_number_among_its_parameters_has_a_memory() -> None:
    """As a mixer of one's own may have."""
    model = build_small()
    model.scale = torch.nn.Parameter(torch.ones(()))
    memory = Session(model, ROWS).memory
    assert Session(model, memory=memory).batch_size == ROWS
    model.scale.data += 1
    with pytest.raises(ValueError, match="memory"):
        Session(model, memory=memory)


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
@every_kind
@settings(max_examples=3)
@given(data=st.data(), length=st.integers(0, 13))
def test_a_memory_resumes_elsewhere(
    tmp_path_factory: pytest.TempPathFactory,
    fields: dict[str, Any],
    eviction: str,
    data: st.DataObject,
    length: int,
) -> None:
    model = build_small(eviction=eviction, sleep_passes=2, **fields)
    tokens, session = tokens_of(length), Session(model, ROWS)
    if length:
        read_in_pieces(session, tokens[:, :length], data)
    path = tmp_path_factory.mktemp("memory") / "context.memory"
    session.memory.save(path)
    resumed = Session(build_small(eviction=eviction, sleep_passes=2, **fields), memory=Memory.load(path))
    assert resumed.filled.tolist() == session.filled.tolist() and resumed.sleeps.tolist() == session.sleeps.tolist()
    torch.testing.assert_close(resumed.read(tokens[:, length:]), session.read(tokens[:, length:]), rtol=0, atol=0)
    assert torch.equal(resumed.generate(4), session.generate(4))
    assert list(path.parent.iterdir()) == [path]


def test_a_memory_of_a_session_under_autocast_is_restored() -> None:
    """Its keys and values are bfloat16."""
    model = build_small(dtype=torch.float32)
    tokens = torch.randint(0, 5, (2, 9), generator=torch.Generator().manual_seed(3))
    session = Session(model, 2)
    with torch.autocast("cpu", torch.bfloat16):
        session.read(tokens)
    resumed = Session(model, memory=session.memory)
    torch.testing.assert_close(resumed.read(tokens), session.read(tokens), rtol=0.05, atol=0.05)


def test_a_memory_after_a_hard_sleep_is_fast_weights_and_little_else() -> None:
    model = build_small(mixers=("attention", "gated_delta") * 2, dtype=torch.float32)
    session = Session(model, ROWS)
    session.read(tokens_of(0, length=12))
    assert session.kv_tokens == 0
    assert 0 <= session.memory.nbytes - state_bytes(model, ROWS) <= ROWS * (4 * 8 + 5 * 4) + 16


@pytest.mark.parametrize("eviction", ["hard", "sliding"])
def test_a_memory_does_not_grow_with_what_was_read(eviction: str) -> None:
    """Rows that reach their borders at different times, for 30 windows: never more than the caches of two windows."""
    model = build_small(eviction=eviction, mixers=EVERY_MIXER, max_positions=None)
    session, make, sizes = Session(model, ROWS), torch.Generator().manual_seed(1), []
    for _ in range(90):
        piece = torch.randint(0, 5, (ROWS, 4), generator=make)
        piece[torch.rand(ROWS, 4, generator=make) < 0.5] = PAD
        session.read(piece)
        sizes.append(session.memory.nbytes)
    assert min(session.sleeps) >= 20
    assert max(sizes[45:]) <= max(sizes[:45]) + 8


def saved(path: Path) -> Path:
    session = Session(build_small(), ROWS)
    session.read(tokens_of(0, length=9))
    session.memory.save(path)
    return path


def test_a_memory_of_another_model_is_refused(tmp_path: Path) -> None:
    memory = Memory.load(saved(tmp_path / "m"))
    with pytest.raises(ValueError, match=r"this memory is of model .* not of this one"):
        Session(build_small(seed=1), memory=memory)
    with pytest.raises(ValueError, match="this memory is of model"):
        Session(build_small(window=8), memory=memory)
    with pytest.raises(ValueError, match=r"lacks or should not have \['state.filled'\]"):
        tensors = {name: tensor for name, tensor in memory.tensors.items() if name != "state.filled"}
        Session(build_small(), memory=replace(memory, tensors=tensors))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("state.states.1", lambda S: S * torch.nan),
        ("state.states.1", lambda S: S.float()),
        ("state.states.1", lambda S: S[..., :-1]),
        ("state.states.1", lambda S: S[0]),
        ("state.states.0.k", lambda k: k[:2]),
        ("state.h", lambda h: h[..., :-1]),
        ("state.logits", lambda logits: logits[:, :3]),
        ("state.filled", lambda filled: filled + 6),
        ("state.skipped", lambda skipped: skipped + 4),
        ("state.read", lambda read: read - 100),
        ("state.slept", lambda slept: slept[:1]),
    ],
)
def test_a_memory_that_no_session_wrote_is_refused(
    tmp_path: Path, name: str, change: Callable[[Tensor], Tensor]
) -> None:
    """Its sum is right, its values are not."""
    memory = Memory.load(saved(tmp_path / "m"))
    forged = replace(memory, tensors={**memory.tensors, name: change(memory.tensors[name])})
    forged.save(tmp_path / "forged")
    with pytest.raises(ValueError, match="take another copy of it"):
        Session(build_small(), memory=Memory.load(tmp_path / "forged"))


def test_a_session_has_the_rows_of_its_memory(tmp_path: Path) -> None:
    memory = Memory.load(saved(tmp_path / "m"))
    assert Session(build_small(), ROWS, memory).batch_size == Session(build_small(), memory=memory).batch_size == ROWS
    with pytest.raises(ValueError, match="batch_size = 2: must be 3"):
        Session(build_small(), 2, memory)


@settings(max_examples=60)
@given(data=st.data())
def test_a_damaged_memory_is_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """A file cut anywhere, or with any bit changed."""
    path = saved(tmp_path_factory.mktemp("memory") / "m")
    content = bytearray(path.read_bytes())
    if data.draw(st.booleans(), "cut"):
        content = content[: data.draw(st.integers(0, len(content) - 1), "length")]
    else:
        at = data.draw(st.integers(0, len(content) - 1), "byte")
        content[at] ^= 1 << data.draw(st.integers(0, 7), "bit")
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"take another copy|not a memory|of version|changed since"):
        Memory.load(path)


def test_a_missing_memory_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no memory here"):
        Memory.load(tmp_path / "none")


def test_a_memory_is_of_the_weights_at_the_time_when_it_is_taken(tmp_path: Path) -> None:
    """Training on after a first memory changes the model, and with it who can use the second."""
    model, before = build_small(), build_small()
    session = Session(model, ROWS)
    session.read(tokens_of(0, length=9))
    first = session.memory
    with torch.no_grad():
        model.lm_head.weight.mul_(1.5)
    second = session.memory
    Session(before, memory=first)
    Session(model, memory=second)
    for wrong, memory in ((before, second), (model, first)):
        with pytest.raises(ValueError, match="this memory is of model"):
            Session(wrong, memory=memory)


def test_a_memory_goes_through_a_store(store: Path) -> None:
    path = f"{store}/new/context.memory"
    session = Session(build_small(), ROWS)
    session.read(tokens_of(0, length=9))
    session.memory.save(path)
    assert torch.equal(Session(build_small(), memory=Memory.load(path)).generate(2), session.generate(2))
    with pytest.raises(FileNotFoundError, match="no memory here"):
        Memory.load(f"{store}/none")


@pytest.mark.parametrize("use", [Memory.load, lambda path: Session(build_small()).memory.save(path)])
def test_a_store_that_is_not_there_is_said_so_at_once(
    use: Callable[[str], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "any")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "any")
    S3FileSystem.clear_instance_cache()
    try:
        with pytest.raises(ConnectionError, match="the object store cannot be used"):
            use("s3://bucket/context.memory")
    finally:
        S3FileSystem.clear_instance_cache()
