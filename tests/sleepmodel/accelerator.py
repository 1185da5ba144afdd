"""A stand-in for a GPU: tensors that say they are on another device, and count how often the host waits for them.

The device is called "meta", the only one besides the CPU that every build of torch knows. Its tensors hold CPU tensors,
on which the operations run, so that results can be checked. The host waits where it does on CUDA: for a copy to the
host, for a copy to the device that is not `non_blocking`, for a value that Python reads, and for an operation whose
result's size depends on values.
"""

import contextlib
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
WAITING = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select", "unique_dim", "_unique2"}
INDEXING = {"index", "index_put", "index_put_", "_index_put_impl_"}
COPIES = {"_to_copy", "copy_", *INDEXING}


class DeviceTensor(Tensor):
    """A tensor on the device. value: what it holds, on the CPU."""

    value: Tensor

    @staticmethod
    def __new__(cls, value: Tensor) -> "DeviceTensor":
        sizes = {"strides": value.stride(), "storage_offset": value.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, value.size(), dtype=value.dtype, device=DEVICE, **sizes)  # type: ignore[attr-defined]
        made.value = value
        return made  # type: ignore[no-any-return]

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {}, [])


class Waits(TorchDispatchMode):
    """Within it, operations know the device. lines: where the host waited, a line of code for each time."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {}, self.lines)


def _run(function: Any, args: Any, kwargs: dict[str, Any], lines: list[str]) -> Any:
    name, tensors = function.overloadpacket.__name__, [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [isinstance(tensor, DeviceTensor) for tensor in tensors]
    target = torch.device(kwargs["device"]) if kwargs.get("device") is not None else None
    if _waits(name, args, kwargs, any(there), all(there), target):
        lines.append(f"{name}: {_caller()}")
    if name not in COPIES and any(there):
        # as on CUDA, numbers may come from the host
        assert all(on or not tensor.dim() for on, tensor in zip(there, tensors, strict=True)), f"{name}: two devices"
    inner = {**kwargs, "device": torch.device("cpu")} if target is not None else kwargs
    inner = {key: value for key, value in inner.items() if key != "non_blocking"}
    out = function(*tree_map_only(DeviceTensor, _value, args), **tree_map_only(DeviceTensor, _value, inner))
    if function._schema.is_mutable and not isinstance(args[0], (list, tuple)):
        return args[0]
    if not (target == DEVICE or (any(there) and target is None)):
        return out
    return tree_map_only(Tensor, lambda x: x if isinstance(x, DeviceTensor) else DeviceTensor(x), out)


def _waits(name: str, args: Any, kwargs: dict[str, Any], some: bool, every: bool, target: torch.device | None) -> bool:
    """Whether the host waits. some, every: whether tensors on the device take part, and no others."""
    blocking = not kwargs.get("non_blocking", False) and not (name == "copy_" and len(args) > 2 and args[2])
    if name == "_to_copy":
        return target is not None and some != (target == DEVICE) and (some or blocking)
    if name == "copy_":
        return some and not every and (not isinstance(args[0], DeviceTensor) or blocking)
    if name in INDEXING and some:
        return not every or any(isinstance(x, Tensor) and x.dtype == torch.bool for x in args[1])
    if name == "repeat_interleave":
        return some and kwargs.get("output_size") is None
    return name in WAITING and some


def _value(tensor: DeviceTensor) -> Tensor:
    return tensor.value


def _caller() -> str:
    """The line of this repository that has called."""
    ours = [frame for frame in traceback.extract_stack() if "/sleepmodel/" in frame.filename]
    return next((f"{at.filename}:{at.lineno} {at.line}" for at in ours[::-1] if at.filename != __file__), "elsewhere")


def on_device(model: nn.Module) -> None:
    """Move the parameters of a model to the device, in place."""
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                moved = nn.Parameter(DeviceTensor(parameter.detach().clone()), parameter.requires_grad)
                module._parameters[name] = moved


def on_host(tensor: Tensor) -> Tensor:
    """What a tensor on the device holds."""
    assert isinstance(tensor, DeviceTensor)
    return tensor.value


@contextlib.contextmanager
def counted_waits(monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """Use the device within, and count the waits for it."""
    # this device has no autocast
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    with Waits() as waits:
        for name in ("tensor", "as_tensor"):
            monkeypatch.setattr(torch, name, _sent(getattr(torch, name), waits.lines))
        yield waits


def _sent(make: Callable[..., Tensor], lines: list[str]) -> Callable[..., Tensor]:
    """torch.tensor or torch.as_tensor, which copy what Python holds to the device without asking the device."""

    def made(data: Any, *, device: Any = None, **kwargs: Any) -> Tensor:
        if isinstance(data, DeviceTensor) or device is None or torch.device(device) != DEVICE:
            return make(data, device=device, **kwargs)
        lines.append(f"{make.__name__}: {_caller()}")
        return DeviceTensor(make(data, **kwargs))

    return made
