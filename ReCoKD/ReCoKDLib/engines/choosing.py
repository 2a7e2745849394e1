"""Which engine runs a student on this machine: chosen by a short timing, checked against PyTorch, and remembered."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import InputError, MissingDependencyError, ReCoKDError
from ..files import read_json
from ..package import ModelPackage
from .base import (
    ENGINES,
    ONNXRUNTIME,
    OPENVINO,
    PRECISIONS,
    TORCH,
    Engine,
    TorchEngine,
    cache_folder,
    import_openvino,
    require_engine,
)
from .compiled import compiled_engine, keep

ENGINE_VARIABLE = "RECOKD_ENGINE"  # what ``auto`` means, for who wants no timing

BF16_METRIC = "bf16 against f32"  # of a card's metrics
# The Dice between the label maps of f32 and bf16, as the card has it, from which on `--precision auto` takes bf16.
BF16_KEEPS_LABELS = 0.999

# Difference from PyTorch's logits on noise, in standard deviations of these. In f32 the shipped student's differ by
# 4e-5 of them, those of a six-stage network of random weights by 7e-3 (1.5e-4 in the mean; 0.015 % of the labels).
# The mean finds what is wrong everywhere or along the borders, the largest what is wrong in few places. In bf16, whose
# rounding alone is 4e-3 and goes through a dozen layers, only the mean tells.
_F32_DIFFERENCE = 0.001
_F32_LARGEST = 20  # times as far may a single logit be off
_BF16_DIFFERENCE = 0.05
_TIMING_SECONDS = 1.0  # for all engines together
_SEED = 20260101
_CHOICE = "choice.json"
_FORMAT = 2  # of what is kept; another one where engines are compared in another way


@dataclass(frozen=True)
class Engines:
    """The networks of a student, ready to run.

    Attributes:
        folds: One engine for each.
        name: Of the engine.
        precision: In what it computes.
        words: How it came to be this one, for the log.
    """

    folds: tuple[Engine, ...]
    name: str
    precision: str
    words: str


def installed_engines() -> tuple[str, ...]:
    """The engines that could run here, PyTorch first; nothing is imported."""
    onnx = importlib.util.find_spec("onnx") is not None
    return TORCH, *(name for name in (OPENVINO, ONNXRUNTIME) if onnx and importlib.util.find_spec(name) is not None)


def make_engines(
    package: ModelPackage,
    networks: Sequence[nn.Module],
    device: torch.device,
    engine: str = "auto",
    precision: str = "f32",
    warn: Callable[[str], None] | None = None,
) -> Engines:
    """The engines of a student's networks.

    An engine whose logits differ from PyTorch's is refused and PyTorch taken, which ``warn`` is told.

    Args:
        package: The student.
        networks: One for each fold, with their weights.
        device: Where PyTorch would run them; all other engines run on the CPU.
        engine: One of ``ENGINES``; auto takes the fastest of what is installed, the environment variable
            ``RECOKD_ENGINE`` instead if it is set, and on a GPU always PyTorch.
        precision: One of ``PRECISIONS``; auto takes bf16 where the card shows that it keeps the labels.
        warn: Told in plain words what was not as asked.

    Raises:
        InputError: There is no such engine or precision, or they do not go together.
        MissingDependencyError: The engine is not installed.
    """
    if engine == "auto":
        engine = os.environ.get(ENGINE_VARIABLE, "auto")
    for value, known, what in ((engine, ENGINES, "engine"), (precision, PRECISIONS, "precision")):
        if value not in known:
            raise InputError(f"There is no {what} called {value!r}. Use {', '.join(known)}.")
    if engine in (OPENVINO, ONNXRUNTIME):
        require_engine(engine)
        if device.type != "cpu":
            raise InputError(
                f"The engine {engine} runs on the CPU, not on {device}. Use --device cpu, or --engine torch."
            )
        if precision == "bf16" and engine == ONNXRUNTIME:
            raise InputError("ONNX Runtime computes in f32 here. Use --precision f32, or --engine openvino.")
    if precision == "auto":
        precision = "bf16" if _keeps_labels(package.card.metrics) and has_bf16() else "f32"
    maker = _Maker(package, networks, device, precision, warn or (lambda text: None))
    if engine == TORCH or device.type != "cpu":
        return maker.plain("asked for" if engine == TORCH else f"on {device}")
    return maker.checked(engine) if engine != "auto" else maker.fastest()


def bf16_dice(metrics: Mapping[str, Any]) -> float | None:
    """The Dice between bf16 and f32 label maps that a card has."""
    found = metrics.get(BF16_METRIC)
    dice = found.get("Dice") if isinstance(found, Mapping) else None
    return float(dice) if isinstance(dice, (int, float)) else None


def _keeps_labels(metrics: Mapping[str, Any]) -> bool:
    return (bf16_dice(metrics) or 0) >= BF16_KEEPS_LABELS


def has_bf16() -> bool:
    """Whether this CPU computes in bfloat16, rather than imitating it."""
    if OPENVINO not in installed_engines():
        return False
    return "BF16" in import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class _Maker:
    """One student's engines on one machine, with the folder that belongs to the two."""

    def __init__(
        self,
        package: ModelPackage,
        networks: Sequence[nn.Module],
        device: torch.device,
        precision: str,
        warn: Callable[[str], None],
    ) -> None:
        self.package, self.networks, self.device, self.precision, self.warn = package, networks, device, precision, warn
        self.threads = torch.get_num_threads()
        self._graphs: list[bytes] = []
        self._torch = tuple(TorchEngine(network, device, precision) for network in networks)
        self._folder: Path | None = None
        self._no_folder = False

    @property
    def noise(self) -> torch.Tensor:
        """A fixed random patch, as the plan has it."""
        plan = self.package.plan
        return torch.randn((1, plan.channels, *plan.patch_size), generator=torch.Generator().manual_seed(_SEED))

    def plain(self, why: str) -> Engines:
        """PyTorch itself."""
        return Engines(self._torch, TORCH, self.precision, f"engine torch, {self.precision} ({why})")

    def checked(self, name: str) -> Engines:
        """One engine, compared with PyTorch where that was not done before; PyTorch if it computes something else."""
        choice = self._read()
        made = self._made(name)
        if made is None:
            return self.plain(f"{name} failed")
        difference = choice.get("differences", {}).get(name)
        if difference is None:
            difference = self._difference(made)
            self._write({**choice, "differences": {**choice.get("differences", {}), name: difference}})
        if not difference <= self._allowed:  # so that NaN is refused too
            self.warn(self._refused(name, difference))
            return self.plain(f"{name} was refused")
        return Engines(made, name, self.precision_of(name), f"engine {name}, {self.precision_of(name)}")

    def fastest(self) -> Engines:
        """The fastest of those that are installed and compute what PyTorch does."""
        names = [name for name in installed_engines() if self.precision != "bf16" or name != ONNXRUNTIME]
        if names == [TORCH]:
            return self.plain("no other is installed")
        choice = self._read()
        known = choice.get("engine")
        if known in names:
            return self.plain("chosen before") if known == TORCH else self.checked(known)
        differences: dict[str, float] = {}
        seconds: dict[str, float] = {}
        candidates: dict[str, Engines] = {}
        for name in names:
            found = self.plain("the fastest") if name == TORCH else None
            if found is None and (made := self._made(name)) is not None:
                differences[name] = self._difference(made)
                if differences[name] <= self._allowed:
                    found = Engines(made, name, self.precision_of(name), "")
                else:
                    self.warn(self._refused(name, differences[name]))
            if found is not None:
                candidates[name], seconds[name] = found, self._seconds(found.folds[0], _TIMING_SECONDS / len(names))
        best = min(seconds, key=lambda name: seconds[name])
        self._write({"engine": best, "seconds": seconds, "differences": differences})
        measured = ", ".join(f"{name} {value:.3f} s" for name, value in seconds.items())
        words = f"engine {best}, {candidates[best].precision}, the fastest here (one tile: {measured})"
        return Engines(candidates[best].folds, best, candidates[best].precision, words)

    def precision_of(self, name: str) -> str:
        """What an engine computes in where this maker's precision is asked of it."""
        return "f32" if name == ONNXRUNTIME else self.precision

    @property
    def _allowed(self) -> float:
        return _BF16_DIFFERENCE if self.precision == "bf16" else _F32_DIFFERENCE

    def _refused(self, name: str, difference: float) -> str:
        return (
            f"The engine {name} gave other logits than PyTorch for {self.package.card.name} (difference "
            f"{difference:.2g} of their spread, {self._allowed:g} is allowed), so PyTorch is used. Update {name}."
        )

    def _made(self, name: str) -> tuple[Engine, ...] | None:
        """The engine of each fold; None where it cannot take the network, which is told."""
        try:
            graphs = self._all_graphs()
            folder = self.folder()
            return tuple(
                compiled_engine(name, graph, folder, f"fold_{fold}", self.precision, self.threads)
                for fold, graph in enumerate(graphs)
            )
        except MissingDependencyError:
            raise
        except (ReCoKDError, RuntimeError, ValueError, TypeError) as error:
            first = (str(error).splitlines() or [type(error).__name__])[0]
            self.warn(f"The engine {name} cannot run {self.package.card.name} ({first}), so PyTorch is used.")
            return None

    def _difference(self, engines: Sequence[Engine]) -> float:
        """The largest over the folds, in standard deviations of PyTorch's logits; infinite where an engine fails."""
        worst = 0.0
        noise = self.noise
        for engine, plain in zip(engines, self.networks, strict=True):
            expected = TorchEngine(plain, self.device)(noise)
            try:
                found = engine(noise)
            except RuntimeError:
                return float("inf")
            if found.shape != expected.shape:
                return float("inf")
            away = (found - expected).abs()
            bound = away.mean() if self.precision == "bf16" else torch.maximum(away.mean(), away.max() / _F32_LARGEST)
            here = float(bound / expected.std().clamp_min(1e-6))
            worst = here if not here <= worst else worst  # keeps NaN
        return worst

    def _seconds(self, engine: Engine, budget: float) -> float:
        """The least time of a tile, of as many as the budget has room for."""
        noise = self.noise
        end = time.perf_counter() + budget
        least = float("inf")
        for _ in range(2):  # the first call may compile
            begun = time.perf_counter()
            engine(noise)
            least = min(least, time.perf_counter() - begun)
            if least > budget:
                return least
        while time.perf_counter() < end:
            begun = time.perf_counter()
            engine(noise)
            least = min(least, time.perf_counter() - begun)
        return least

    def _all_graphs(self) -> list[bytes]:
        """Each fold as an ONNX file's bytes, from the cache or traced now."""
        # Here, because exchange builds upon prediction, which builds upon this.
        from ..exchange.onnx_export import write_graph

        if not self._graphs:
            folder = self.folder()
            for fold, network in enumerate(self.networks):
                path = None if folder is None else folder / f"fold_{fold}.onnx"
                if path is not None and path.is_file():
                    self._graphs.append(path.read_bytes())
                    continue
                with tempfile.TemporaryDirectory() as temporary:
                    graph = Path(temporary) / "graph.onnx"
                    write_graph(network, self.noise, graph, self.package.card.name)
                    self._graphs.append(graph.read_bytes())
                if path is not None:
                    keep(path, self._graphs[-1])
        return self._graphs

    def folder(self) -> Path | None:
        """This student's on this machine; None, after a warning, where it cannot be written."""
        if self._folder is None and not self._no_folder:
            folder = cache_folder() / cache_key(self.package.checksum, self.precision, self.threads)
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    self._folder = folder
            except OSError as error:
                self._no_folder = True
                self.warn(
                    f"The cache folder {folder.parent} cannot be written ({error.strerror}), so every run compiles the "
                    "student anew. Have its permissions changed, or set RECOKD_ENGINE=torch."
                )
        return self._folder

    def _read(self) -> dict[str, Any]:
        folder = self.folder()
        try:
            found = {} if folder is None or not (folder / _CHOICE).is_file() else read_json(folder / _CHOICE)
        except InputError:
            found = {}  # damaged: measured anew
        return found if isinstance(found, dict) else {}

    def _write(self, choice: Mapping[str, Any]) -> None:
        folder = self.folder()
        if folder is not None:
            keep(folder / _CHOICE, json.dumps(dict(choice), indent=1).encode())


def cache_key(checksum: str, precision: str, threads: int) -> str:
    """One word for a student, the versions of all that compiles it, the CPU, its threads and the precision."""
    versions = {}
    for name in ("torch", "onnx", OPENVINO, ONNXRUNTIME):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = ""
    parts = [_FORMAT, checksum, versions, _cpu(), threads, precision, platform.python_version()]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


def _cpu() -> list[Any]:
    """The CPU's name and features, as far as the system tells them."""
    found = [platform.machine(), platform.processor(), os.cpu_count()]
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = info.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
        found += [line for line in lines if line.split(":")[0].strip() in ("model name", "flags", "model")]
    return found
