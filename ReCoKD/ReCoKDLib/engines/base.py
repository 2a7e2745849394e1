"""The seam, and the engine that is always there."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ..errors import MissingDependencyError

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
    """A network on any device of PyTorch's; on a CUDA GPU in mixed precision, as nnU-Net runs it."""

    name = TORCH

    def __init__(self, network: nn.Module, device: torch.device, precision: str = "f32") -> None:
        self.network, self.device, self.precision = network.to(device).eval(), device, precision

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """See :class:`Engine`."""
        half = torch.bfloat16 if self.precision == "bf16" else None  # else the device's own: float16 of CUDA
        mixed = self.device.type == "cuda" or half is not None
        with torch.inference_mode(), torch.autocast(self.device.type, half, enabled=mixed):
            logits: torch.Tensor = self.network(tiles.to(self.device))
        return logits.float().cpu()


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
