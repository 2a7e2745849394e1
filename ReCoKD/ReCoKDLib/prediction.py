"""From a volume to labels in the volume's own grid: the path that every door, training and evaluation share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from .errors import InputError, MissingDependencyError, PackageError, ReCoKDError
from .labels import LabelSet, Segment
from .networks import build_network, load_weights
from .plan import WHOLE_IMAGE, Plan
from .preprocessing import PreprocessedCase, preprocess, restore_grid, uncrop
from .sliding_window import sliding_window_logits
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


def _part(progress: Callable[[float], None], part: int, parts: int) -> Callable[[float], None]:
    """Tell the progress of one of several equal parts as that of the whole."""
    return lambda done: progress((part + done) / parts)


@dataclass(frozen=True)
class Prediction:
    """A network's answer for one volume, both on the volume's own grid.

    Attributes:
        labels: One channel, label values.
        probabilities: One channel for each head, float32; None unless asked for.
    """

    labels: Volume
    probabilities: Volume | None


class Predictor:
    """A plan, its labels and the networks of one or more folds, ready to segment volumes.

    Args:
        plan: Preprocessing and patch size.
        label_set: What the heads mean.
        networks: One for each fold; their logits are averaged.
        device: Where they run.
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
        tile_step: float = 0.5,
        mirror_axes: Sequence[int] = (),
        orientation: str | None = None,
    ) -> None:
        self.plan = plan
        self.label_set = label_set
        self.device = torch.device(device)
        self.networks = [network.to(self.device).eval() for network in networks]
        self.tile_step = tile_step
        self.mirror_axes = tuple(mirror_axes)
        self.orientation = orientation

    @classmethod
    def from_package(
        cls, package: ModelPackage, device: torch.device | str = "auto", mirroring: bool = False
    ) -> Predictor:
        """Load a model package's networks onto a device.

        Raises:
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
        return cls(
            package.plan,
            package.label_set,
            networks,
            device=choose_device(device) if isinstance(device, str) else device,
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
        data = torch.from_numpy(case.data)
        total: torch.Tensor | None = None
        folds = len(self.networks)
        for fold, network in enumerate(self.networks):
            logits = sliding_window_logits(
                network,
                data,
                self.plan.patch_size,
                self.label_set.number_of_heads,
                tile_step=self.tile_step,
                mirror_axes=self.mirror_axes,
                device=self.device,
                progress=None if progress is None else _part(progress, fold, folds),
                cancelled=cancelled,
            )
            total = logits if total is None else total + logits
        if total is None:
            raise ReCoKDError("The model has no networks. Restore its package.")
        return total / folds

    def predict(
        self,
        volume: Volume,
        *,
        segments: Sequence[Segment] | None = None,
        probabilities: bool = False,
        progress: Callable[[float], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Prediction:
        """Segment a volume.

        Args:
            volume: As many channels as the plan has, on any grid.
            segments: The only ones to put into the label map; None for all.
            probabilities: Return those as well.
            progress: Called with the finished fraction.
            cancelled: Asked before each tile.

        Raises:
            InputError: The number of channels is wrong.
            Cancelled: ``cancelled`` said so.
        """
        if volume.channels != self.plan.channels:
            raise InputError(
                f"This model needs {self.plan.channels} input channel(s); {volume.channels} given. "
                "Give one volume for each channel, in the order of the model's card."
            )
        case = preprocess(self._oriented(volume), self.plan)
        logits = self._on_grid_of_case(self.patch_logits(case, progress, cancelled), case)
        labels = self.label_set.label_map(logits, segments).numpy()[None]
        whole = uncrop(labels.astype(np.uint8 if labels.max(initial=0) < 256 else np.uint16), case, self.plan)
        soft = None
        if probabilities:
            array = uncrop(self.label_set.probabilities(logits).numpy(), case, self.plan)
            if not self.label_set.has_regions:
                array[0] = 1 - array[1:].sum(0)  # outside the bounding box: certainly background
            soft = self._on_grid_of(volume, array)
        return Prediction(self._on_grid_of(volume, whole), soft)

    def _on_grid_of_case(self, logits: torch.Tensor, case: PreprocessedCase) -> torch.Tensor:
        """Logits at the case's own spacing: interpolated themselves as nnU-Net does, or as probabilities as MONAI."""
        soft = self.plan.preprocessor == WHOLE_IMAGE
        values = self.label_set.probabilities(logits) if soft else logits
        restored = torch.from_numpy(np.ascontiguousarray(restore_grid(values.numpy(), case, self.plan)))
        return self.label_set.logits(restored) if soft else restored

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
