"""A device that is not there: tensors that say they lie on another one than the CPU, and are computed all the same.

Whatever a GPU would refuse is refused: an operation on tensors of both devices, but for single numbers. So is what
makes the program wait for it: a copy to the CPU, and the value of an element.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")  # one that torch can name without having it


class OnOtherDevice(Tensor):
    """A tensor of the other device; ``held`` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> OnOtherDevice:
        made: OnOtherDevice = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=DEVICE,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return _compute(func, args, kwargs or {})


class _Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees what makes tensors, too."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)]
    there = [leaf for leaf in tensors if isinstance(leaf, OnOtherDevice)]
    wanted = kwargs.get("device")
    on_device = bool(there) if wanted is None else torch.device(wanted) == DEVICE
    name = str(func)
    if there and not on_device:
        raise AssertionError(f"{name} copies to the CPU")
    if there and "_local_scalar_dense" in name:
        raise AssertionError(f"{name} waits for the device")
    copies = "_to_copy" in name or "copy_" in name
    if there and not copies and any(t.dim() and not isinstance(t, OnOtherDevice) for t in tensors):
        raise AssertionError(f"{name} is given tensors of the CPU and of the device")
    if wanted is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    held = tree_map(lambda leaf: leaf.held if isinstance(leaf, OnOtherDevice) else leaf, (args, kwargs))
    result = func(*held[0], **held[1])
    if not on_device:
        return result
    known = {id(leaf.held): leaf for leaf in there}  # what is changed in place stays the same tensor

    def placed(leaf: Any) -> Any:
        if not isinstance(leaf, Tensor):
            return leaf
        return known[id(leaf)] if id(leaf) in known else OnOtherDevice(leaf)

    return tree_map(placed, result)


@contextmanager
def other_device() -> Iterator[torch.device]:
    """The device is there until the block ends."""
    with _Mode():  # type: ignore[no-untyped-call]
        yield DEVICE


def to_other_device(tensor: Tensor) -> Tensor:
    """A copy there."""
    return OnOtherDevice(tensor.clone())


def values(tensor: Tensor) -> Tensor:
    """What a tensor of the other device holds.

    Raises:
        AssertionError: It is of the CPU.
    """
    assert isinstance(tensor, OnOtherDevice)
    return tensor.held
