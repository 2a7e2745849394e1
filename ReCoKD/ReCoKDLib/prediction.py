"""From a volume to labels in the volume's own grid: the path that every door, training and evaluation share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from .attempts import Attempt, buffer_bytes, first_attempt, next_attempt
from .engines.base import TORCH, Engine, TorchEngine
from .engines.choosing import make_engines
from .errors import InputError, MissingDependencyError, PackageError, ReCoKDError
from .kept import Kept, KeptTiles
from .labels import LabelSet, Segment
from .memory import band_bytes, counted, fitting_tile, needed_bytes, tiles_in_words
from .networks import build_network, load_weights
from .part import Block, Part, part_of, region_of
from .plan import WHOLE_IMAGE, Plan
from .preprocessing import PreprocessedCase, in_array_axes, normalises_by_the_image, preprocess
from .preview import Plane, Preview
from .previewing import Previewer
from .restoring import SlabRestorer
from .sliding_window import Region, sliding_window_logits, sliding_window_slabs, tiling
from .volume import Volume

if TYPE_CHECKING:
    from .package import ModelPackage


def choose_device(name: str = "auto") -> torch.device:
    """``auto`` takes a CUDA GPU, else the CPU.

    Apple's GPU (mps) is taken only when asked for: not every PyTorch has 3D transposed convolutions on it.

    Raises:
        MissingDependencyError: The named device is not there.
    """
    mps = bool(torch.backends.mps.is_available())
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.split(":")[0] not in ("cpu", "cuda", "mps"):
        raise InputError(f"There is no device called {name!r}. Use auto, cpu, cuda or mps.")
    if (name.startswith("cuda") and not torch.cuda.is_available()) or (name == "mps" and not mps):
        raise MissingDependencyError(
            f"This computer, or the PyTorch on it, has no {name!r} device. Use --device cpu or auto."
        )
    return torch.device(name)


@dataclass(frozen=True)
class Prediction:
    """A network's answer for one volume, both on the grid of the volume, or of the part of it that was asked for.

    Attributes:
        labels: One channel, label values.
        probabilities: One channel for each head, float32; None unless asked for.
    """

    labels: Volume
    probabilities: Volume | None


@dataclass(frozen=True)
class _Run:
    """What may differ from one run of a predictor to the next."""

    attempt: Attempt
    progress: Callable[[float], None] | None = None
    cancelled: Callable[[], bool] | None = None
    part: Part | None = None
    kept: Kept | None = None
    room: int | None = None
    previewer: Previewer | None = None


class Predictor:
    """A plan, its labels and the networks of one or more folds, ready to segment volumes.

    Args:
        plan: Preprocessing and patch size.
        label_set: What the heads mean.
        networks: One for each fold; their logits are averaged.
        device: Where PyTorch runs them.
        engines: What runs each of them; None for PyTorch.
        tile_step: Largest distance of neighbouring tiles as a fraction of the patch.
        mirror_axes: Axes of the plan over whose flips each tile is averaged; empty for none.
        orientation: Axis codes (such as ``"RAS"``) that all training volumes had. Volumes are brought there by
            exact flips and permutations first, and the result is brought back. None takes them as they are, as
            nnU-Net does.
    """

    def __init__(
        self,
        plan: Plan,
        label_set: LabelSet,
        networks: Sequence[nn.Module],
        *,
        device: torch.device | str = "cpu",
        engines: Sequence[Engine] | None = None,
        tile_step: float = 0.5,
        mirror_axes: Sequence[int] = (),
        orientation: str | None = None,
    ) -> None:
        self.plan = plan
        self.label_set = label_set
        self.device = torch.device(device)
        self.networks = [network.to(self.device).eval() for network in networks]
        self.engines: tuple[Engine, ...] = (
            tuple(TorchEngine(network, self.device) for network in self.networks) if engines is None else tuple(engines)
        )
        if not self.networks:
            raise ReCoKDError("The model has no networks. Restore its package.")
        self.tile_step = tile_step
        self.mirror_axes = tuple(mirror_axes)
        self.orientation = orientation

    @classmethod
    def from_package(
        cls,
        package: ModelPackage,
        device: torch.device | str = "auto",
        mirroring: bool = False,
        *,
        engine: str = TORCH,
        precision: str = "f32",
        warn: Callable[[str], None] | None = None,
    ) -> Predictor:
        """Load a model package's networks onto a device; arguments are those of :func:`.engines.choosing.make_engines`.

        Raises:
            InputError: There is no such engine or precision.
            MissingDependencyError: The device or the engine is not there.
            PackageError: It wants clicks as further channels, which are not given here.
            PlanError: Its weights do not fit its plan.
        """
        if package.card.guidance_channels:
            raise PackageError(
                f"The model {package.card.name} is guided by clicks, which this version cannot give it. "
                "Update ReCoKD, or choose another model."
            )
        networks = []
        for fold in range(package.card.folds):
            network = build_network(package.plan.architecture, package.plan.channels, package.label_set.number_of_heads)
            load_weights(network, package.weights(fold))
            networks.append(network)
        place = choose_device(device) if isinstance(device, str) else device
        made = make_engines(package, networks, place, engine, precision, warn)
        return cls(
            package.plan,
            package.label_set,
            networks,
            device=place,
            engines=made.folds,
            mirror_axes=package.card.mirror_axes if mirroring else (),
            orientation=package.card.orientation,
        )

    def _oriented(self, volume: Volume) -> Volume:
        return volume if self.orientation is None else volume.reoriented(self.orientation)

    def patch_logits(
        self,
        case: PreprocessedCase,
        progress: Callable[[float], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> torch.Tensor:
        """(heads, x, y, z) logits of a preprocessed case at the plan's spacing, averaged over folds."""
        attempt = Attempt(self.engines, self.plan.patch_size)
        return self._logits(case, _Run(attempt, progress, cancelled), None)

    def _logits(self, case: PreprocessedCase, run: _Run, region: Region | None) -> torch.Tensor:
        data, heads = torch.from_numpy(case.data), self.label_set.number_of_heads
        total: torch.Tensor | None = None
        for engine, options in self._windows(case, run, region):
            logits = sliding_window_logits(engine, data, run.attempt.tile, heads, **options)
            total = logits if total is None else total + logits
        assert total is not None
        return total if len(run.attempt.engines) == 1 else total / len(run.attempt.engines)

    def _windows(self, case: PreprocessedCase, run: _Run, region: Region | None) -> list[tuple[Engine, dict[str, Any]]]:
        """For each fold its engine and the sliding window's arguments."""
        done = [0.0] * len(run.attempt.engines)
        progress = run.progress

        def of_fold(fold: int) -> Callable[[float], None] | None:
            def tell(fraction: float) -> None:
                done[fold] = fraction
                if progress is not None:
                    progress(sum(done) / len(done))

            return None if progress is None else tell

        common = {
            "tile_step": self.tile_step,
            "mirror_axes": self.mirror_axes,
            "region": region,
            "batch": run.attempt.batch,
            "cancelled": run.cancelled,
        }
        tiles: Sequence[KeptTiles | None] = [None] * len(run.attempt.engines)
        if run.kept is not None:
            tiles = self._kept_tiles(run.kept, case, run, region)
        return [
            (engine, {**common, "tiles": tiles[fold], "progress": of_fold(fold)})
            for fold, engine in enumerate(run.attempt.engines)
        ]

    def _kept_tiles(self, kept: Kept, case: PreprocessedCase, run: _Run, region: Region | None) -> list[KeptTiles]:
        """What is known of the tiles, and for a preview those to be run first."""
        layout = tiling(case.data.shape[1:], run.attempt.tile, self.tile_step, region)
        key = (tuple(run.attempt.engines), tuple(run.attempt.tile), self.tile_step, self.mirror_axes)
        heads, count = self.label_set.number_of_heads, len(run.attempt.engines)
        whole, part = (
            band_bytes(heads, run.attempt.tile, plane) for plane in (layout.padded[1:], layout.plane(run.attempt.tile))
        )
        folds = kept.begin(key, [layout.places] * count, run.room, whole - part)
        previewer = run.previewer
        if previewer is None:
            return folds
        new = [[place for place in layout.places if tiles.kept(place) is None] for tiles in folds]
        previewer.begin(layout, run.attempt.tile, sum(map(len, new)))
        size = 4 * heads * int(np.prod(run.attempt.tile))
        most = kept.free() // (size * count)
        for fold, (tiles, still) in enumerate(zip(folds, new, strict=True)):
            tiles.ahead = previewer.ahead(still, most) if most else ()
            kept.reserve(fold, tiles.ahead, size)
            tiles.listener = previewer.found
            for place in layout.places:
                logits = tiles.kept(place)
                if logits is not None:
                    previewer.add(place, logits)
        return folds

    def _slabs(self, case: PreprocessedCase, run: _Run) -> Iterator[tuple[slice, torch.Tensor]]:
        """Planes of what is asked, in order, and what is interpolated there; the next slab overwrites it."""
        heads = self.label_set.number_of_heads
        assert run.part is not None
        restorer = SlabRestorer(case, self.plan, heads, run.part.asked)
        region = restorer.region
        if self._interpolates_softly:
            yield from restorer.push(0, self.label_set.probabilities(self._logits(case, run, region)))
            return
        data, tile = torch.from_numpy(case.data), run.attempt.tile
        folds = [
            sliding_window_slabs(engine, data, tile, heads, **options)
            for engine, options in self._windows(case, run, region)
        ]
        for slabs in zip(*folds, strict=True):
            first, logits = slabs[0]
            for _, other in slabs[1:]:
                logits += other
            yield from restorer.push(first, logits.div_(len(folds)) if len(folds) > 1 else logits)

    @property
    def _interpolates_softly(self) -> bool:
        """Logits are interpolated themselves as nnU-Net does it, or as probabilities as MONAI does."""
        return self.plan.preprocessor == WHOLE_IMAGE

    def predict(
        self,
        volume: Volume,
        *,
        segments: Sequence[Segment] | None = None,
        probabilities: bool = False,
        memory: float | None = None,
        region: Block | None = None,
        kept: Kept | None = None,
        preview: Callable[[Preview], None] | None = None,
        look_at: Sequence[Plane] = (),
        progress: Callable[[float], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> Prediction:
        """Segment a volume, or a region of it.

        What is said of a region is what is said of it in the whole volume, because its tiles lie where those of the
        whole lie. Only where intensities are normalised by their own mean or range is the region cut out first, and
        seen alone: the mean of a whole body is not what such a network was trained with.

        Where the device's memory does not suffice it is tried again with fewer tiles at a time, smaller tiles, and then
        on the CPU.

        Args:
            volume: As many channels as the plan has, on any grid.
            segments: The only ones to put into the label map; None for all.
            probabilities: Return those as well.
            memory: GB that the process may take, by smaller tiles where needed; None sets no bound.
            region: First and end index along k, j and i of the only voxels wanted; None for all.
            kept: What was computed before, and is to be kept of this run.
            preview: Told from time to time what is known of the slices ``look_at``, in indices of ``volume``.
            look_at: Slices to show first; see :mod:`.previewing`.
            progress: Called with the finished fraction.
            cancelled: Asked before each call of a network.
            warn: Told in plain words where smaller tiles or another device were taken.

        Raises:
            InputError: The number of channels is wrong, the bound too small, or the region is not in the volume.
            PlanError: The network's result holds NaN.
            Cancelled: ``cancelled`` said so.
        """
        if volume.channels != self.plan.channels:
            raise InputError(
                f"This model needs {self.plan.channels} input channel(s); {volume.channels} given. "
                "Give one volume for each channel, in the order of the model's card."
            )
        seen, block = volume, region
        if normalises_by_the_image(self.plan):
            seen, block = region_of(volume, region), None
        oriented = self._oriented(seen)
        case = self._case(oriented, kept)
        part = part_of(seen, oriented, case, self.plan, block)
        heads = self.label_set.number_of_heads
        told = warn or (lambda text: None)
        tile, room = self.plan.patch_size, None
        if preview is not None and part.asked is not None:
            kept = kept or Kept()
            previewer = Previewer(volume, part, case, self.plan, self.label_set, segments, look_at, preview)
        else:
            previewer = None
        if memory is not None:
            # Of the whole volume, so that a region gets its tiles.
            result_bytes = int(np.prod(case.shape_before_cropping)) * (2 + (8 * heads if probabilities else 0))
            result_bytes -= counted(0 if kept is None else kept.bytes)  # which make way
            result_bytes += 0 if previewer is None else previewer.bytes  # which nobody has touched yet
            tile = fitting_tile(self.plan, heads, case.data.shape[1:], result_bytes, memory)
            room = int(memory * 1e9) - needed_bytes(self.plan, heads, case.data.shape[1:], result_bytes, tile)
            if tile != self.plan.patch_size:
                told(tiles_in_words(tile, self.plan, f"{memory:g} GB of memory do not suffice"))
        attempt: Attempt | None = first_attempt(self.engines, tile, self.plan, heads, room)
        while attempt is not None:
            buffers = len(attempt.engines) * buffer_bytes(attempt.tile, self.plan, heads)
            left = room if room is None else room - (attempt.batch - 1) * buffers
            run = _Run(attempt, progress, cancelled, part, kept, left, previewer)
            try:
                return self._predicted(case, run, part, segments, probabilities)
            except torch.OutOfMemoryError as error:
                full = error.with_traceback(None)  # which would hold what the failed attempt has on the device
            attempt = next_attempt(attempt, self.plan, self.networks, self.device, tile, told)
        raise full

    def _case(self, oriented: Volume, kept: Kept | None) -> PreprocessedCase:
        if kept is None:
            return preprocess(oriented, self.plan)
        return kept.case(self, oriented, lambda: preprocess(oriented, self.plan))

    def _predicted(
        self,
        case: PreprocessedCase,
        run: _Run,
        part: Part,
        segments: Sequence[Segment] | None,
        probabilities: bool,
    ) -> Prediction:
        largest = max((segment.value for segment in self.label_set.segments), default=0)
        labels = np.zeros((1, *part.shape), np.uint8 if largest < 256 else np.uint16)
        soft: np.ndarray | None = None
        if probabilities:
            soft = np.zeros((self.label_set.number_of_heads, *part.shape), np.float32)
            if not self.label_set.has_regions:
                soft[0] = 1  # outside the bounding box: certainly background
        inside = (slice(None), *part.inside)
        for planes, values in self._slabs(case, run) if part.asked is not None else ():
            logits = self.label_set.logits(values) if self._interpolates_softly else values
            labels[inside][0, planes] = self.label_set.label_map(logits, segments).numpy()
            if soft is not None:
                soft[inside][:, planes] = self.label_set.probabilities(logits).numpy()
        return Prediction(
            self._on_grid_of(part.grid, in_array_axes(labels, self.plan)),
            None if soft is None else self._on_grid_of(part.grid, in_array_axes(soft, self.plan)),
        )

    def predict_mirrored(self, volume: Volume, axis: int | None, cancelled: Callable[[], bool] | None = None) -> Volume:
        """Probabilities of the volume mirrored along one axis of the plan (None: as it is), turned back onto its grid.

        Unlike ``mirror_axes``, which give the mean over all flips, this shows where a flip changes the answer.

        Raises:
            Cancelled: ``cancelled`` said so.
        """
        plain = Predictor(
            self.plan, self.label_set, self.networks, device=self.device, tile_step=self.tile_step, orientation=None
        )
        oriented = self._oriented(volume)
        flipped = () if axis is None else (1 + self.plan.transpose_forward[axis],)
        mirrored = oriented.with_array(np.ascontiguousarray(np.flip(oriented.array, flipped)))
        found = plain.predict(mirrored, probabilities=True, cancelled=cancelled).probabilities
        assert found is not None
        return self._on_grid_of(volume, np.flip(found.array, flipped))

    def _on_grid_of(self, volume: Volume, array: np.ndarray) -> Volume:
        """Undo :meth:`_oriented`: voxels come back in the volume's own order."""
        if self.orientation is None:
            return volume.with_array(array)
        return volume.with_reoriented_array(array, self.orientation)
