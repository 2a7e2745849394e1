"""The engines that run an ONNX graph on the CPU, with what they compiled kept for the next run."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from ..errors import OutputError
from ..files import atomic_file
from .base import ONNXRUNTIME, OPENVINO, Engine, require_engine


def _core() -> Any:
    """OpenVINO, its part for CPUs loaded by a thread that ends with that.

    On CPUs with AMX the thread that loads it gets a stack for signal handlers, whose memory goes with the core's last
    reference. Where another thread drops that (the garbage collector may run in any), the first one would keep a stack
    that is not there, and the next signal that Python handles (Ctrl-C, a child's end) would end the process.
    """
    core = require_engine(OPENVINO).Core()
    with ThreadPoolExecutor(1) as loading:
        loading.submit(core.get_property, "CPU", "FULL_DEVICE_NAME").exception()  # told when a graph is compiled
    return core


class OpenVinoEngine:
    """A graph compiled for each shape of tiles that comes; the compiled form is read from, or kept in, a folder.

    Args:
        graph: The network as an ONNX file's bytes.
        folder: For compiled forms; None keeps none.
        stem: How their names begin: one graph, one stem.
        precision: ``f32`` or ``bf16``. Always set: OpenVINO's own default is bfloat16 where the CPU has it.
        threads: Of the CPU.
    """

    name = OPENVINO

    def __init__(self, graph: bytes, folder: Path | None, stem: str, precision: str, threads: int) -> None:
        self._core = _core()
        self._graph, self._folder, self._stem = graph, folder, stem
        self.precision = precision
        self._options = {
            "INFERENCE_PRECISION_HINT": precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
        }
        self._requests: dict[tuple[int, ...], Any] = {}

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """See :class:`~.base.Engine`."""
        shape = tuple(int(n) for n in tiles.shape)
        if shape not in self._requests:
            self._requests[shape] = self._compiled(shape).create_infer_request()
        (logits,) = self._requests[shape].infer([tiles.numpy()], share_inputs=True, share_outputs=True).values()
        return torch.from_numpy(logits)

    def _compiled(self, shape: tuple[int, ...]) -> Any:
        blob = None if self._folder is None else self._folder / f"{self._stem}-{'x'.join(map(str, shape))}.blob"
        if blob is not None and blob.is_file():
            try:
                return self._core.import_model(io.BytesIO(blob.read_bytes()), "CPU", self._options)
            except (RuntimeError, OSError):
                blob.unlink(missing_ok=True)  # damaged: compiled anew
        model = self._core.read_model(self._graph)
        model.reshape(list(shape))
        compiled = self._core.compile_model(model, "CPU", self._options)
        if blob is not None:
            stream: Any = compiled.export_model()
            keep(blob, stream if isinstance(stream, bytes) else stream.getvalue())
        return compiled


class OnnxRuntimeEngine:
    """A graph for tiles of any shape; its optimisation takes milliseconds, so that no form of it is kept."""

    name = ONNXRUNTIME
    precision = "f32"

    def __init__(self, graph: bytes, threads: int) -> None:
        runtime = require_engine(ONNXRUNTIME)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        # Its threads would wait busily, for a while after a call too, and take the CPU from whoever computes next.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, tiles: torch.Tensor) -> torch.Tensor:
        """See :class:`~.base.Engine`."""
        (logits,) = self._session.run(None, {self._input: tiles.numpy()})
        return torch.from_numpy(logits)


def compiled_engine(name: str, graph: bytes, folder: Path | None, stem: str, precision: str, threads: int) -> Engine:
    """The engine of a name.

    Raises:
        MissingDependencyError: It is not installed.
    """
    if name == OPENVINO:
        return OpenVinoEngine(graph, folder, f"{stem}-{precision}", precision, threads)
    return OnnxRuntimeEngine(graph, threads)


def keep(path: Path, data: bytes) -> bool:
    """Write a file of the cache if that can be done; whether it was."""
    try:
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_bytes(data)
    except (OutputError, OSError):
        return False
    return True
