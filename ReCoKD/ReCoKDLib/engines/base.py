"""The seam, and the engine that is always there."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ..errors import MissingDependencyError
from ..sliding_window import Pending, mirrored

TORCH, OPENVINO, ONNXRUNTIME = "torch", "openvino", "onnxruntime"
ENGINES = ("auto", TORCH, OPENVINO, ONNXRUNTIME)
PRECISIONS = ("auto", "f32", "bf16")


class Engine(Protocol):
    """A network, ready to run.

    Attributes:
        name: One of ``ENGINES`` but auto.
        precision: ``f32`` or ``bf16``: in what convolutions are computed; what goes in and comes out is float32.
    """

    name: str
    precision: str

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """(batch, channel, x, y, z) float32 tiles to (batch, head, x, y, z) float32 logits, both on the CPU.

        The next call may overwrite the logits.
        """


class TorchEngine:
    """A network on any device of PyTorch's; on a CUDA GPU in mixed precision, as nnU-Net runs it, channels last."""

    name = TORCH

    def __init__(self, network: nn.Module, device: torch.device, precision: str = "f32") -> None:
        self.network, self.device, self.precision = network.to(device).eval(), device, precision
        self._lanes: _Lanes | None = None
        if device.type == "cuda":
            # Convolutions follow the order of their weights, so the tiles need not be brought into it.
            self.network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
            self._lanes = _Lanes(device)

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """See :class:`Engine`."""
        with torch.inference_mode():
            return self._on_device(tiles.to(self.device)).cpu()

    def start(self, tiles: torch.Tensor, mirror_axes: Sequence[int] = ()) -> Pending:
        """See :class:`..sliding_window.Starting`: on a GPU at once, elsewhere when the logits are asked for."""
        lanes = self._lanes
        if lanes is None:
            return lambda: mirrored(self, tiles, mirror_axes)
        with torch.inference_mode():
            return lanes.out(mirrored(self._on_device, lanes.into(tiles), mirror_axes))

    def free_bytes(self) -> int | None:
        """Of a GPU's memory; None elsewhere."""
        if self.device.type != "cuda":
            return None
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return int(torch.cuda.mem_get_info(self.device)[0]) + unused

    def _on_device(self, tiles: torch.Tensor) -> torch.Tensor:
        """Float32 logits of tiles, both on the device."""
        half = torch.bfloat16 if self.precision == "bf16" else None  # else the device's own: float16 of CUDA
        mixed = self.device.type == "cuda" or half is not None
        with torch.autocast(self.device.type, half, enabled=mixed):
            logits: torch.Tensor = self.network(tiles)
        return logits.float()


class _Lanes:
    """Copies to a GPU and back beside its computing: each direction in a stream of its own, from page-locked memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._in = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._out = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def into(self, tiles: torch.Tensor) -> torch.Tensor:
        """A copy on the GPU; what computes waits for it, the program does not."""
        compute = torch.cuda.current_stream(self._device)
        with suppress(RuntimeError):  # computers bound how much memory may be locked; without, the copy waits
            tiles = tiles.pin_memory()
        with torch.cuda.stream(self._in):
            there = tiles.to(self._device, non_blocking=True)
        compute.wait_stream(self._in)
        there.record_stream(compute)  # its memory is not given to others before that is done with it
        return there

    def out(self, logits: torch.Tensor) -> Pending:
        """Copy what is computed last; returns what waits for the copy, which is the caller's own."""
        logits = logits.contiguous()  # here, where it is computed: another order would be brought along on the way
        self._out.wait_stream(torch.cuda.current_stream(self._device))
        here = torch.empty(logits.shape, dtype=logits.dtype)
        with suppress(RuntimeError):
            here = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
        with torch.cuda.stream(self._out):
            here.copy_(logits, non_blocking=True)
            copied = self._out.record_event()
        logits.record_stream(self._out)

        def wait() -> torch.Tensor:
            copied.synchronize()
            return here

        return wait


def require_engine(name: str) -> Any:
    """The module of an engine.

    Raises:
        MissingDependencyError: It, or onnx, by which networks reach it, is not installed.
    """
    try:
        importlib.import_module("onnx")
        return import_openvino() if name == OPENVINO else importlib.import_module(name)
    except ImportError as error:
        extra = "openvino" if name == OPENVINO else "onnx"
        raise MissingDependencyError(
            f'The engine {name} is not installed ({error}). Install it: pip install "recokd[{extra}]", or pip install '
            f"onnx {name} (in Slicer: slicer.util.pip_install). Or use --engine torch or auto."
        ) from error


def import_openvino() -> Any:
    """The module ``openvino`` without openvino-telemetry, which pip installs beside it and which would phone home.

    OpenVINO has a stub of its own that it takes where that package is missing; here it is always missing.
    """
    loaded = sys.modules.get("openvino")
    if loaded is not None:
        return loaded
    missing = object()
    before: Any = sys.modules.get("openvino_telemetry", missing)
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment] # what makes an import fail
    try:
        return importlib.import_module("openvino")
    finally:
        if before is missing:
            del sys.modules["openvino_telemetry"]
        else:
            sys.modules["openvino_telemetry"] = before


def cache_folder() -> Path:
    """Where compiled networks and choices are kept: the user's cache folder of the platform; it need not exist."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "Cache"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "ReCoKD" / "engines"
