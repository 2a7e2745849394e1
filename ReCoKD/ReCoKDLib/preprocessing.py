"""From a volume to what the network sees, and back.

Order of operations of nnU-Net v2's DefaultPreprocessor: transpose, crop to the non-zero region, normalise, resample.
The WholeImagePreprocessor does what MONAI's bundles do: transpose, resample, normalise; nothing is cropped, and the
mask for normalisation is each channel's own non-zero voxels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .plan import WHOLE_IMAGE, Float3, Int3, Plan, in_plan_axes
from .resampling import resample, resampled_shape
from .volume import Volume

Array = npt.NDArray[Any]

OUTSIDE = -1  # label of what lies outside the non-zero region of the image


@dataclass(frozen=True)
class PreprocessedCase:
    """A case in the plan's axes and spacing, with what is needed to go back.

    Attributes:
        data: (channel, x, y, z) float32.
        labels: (1, x, y, z) int16, ``OUTSIDE`` where the image is zero around the patient; None without labels.
        shape_before_cropping: In the plan's axes, original spacing.
        bounding_box: The non-zero region in those voxels.
        spacing: Original spacing in the plan's axes, mm.
    """

    data: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int16] | None
    shape_before_cropping: Int3
    bounding_box: tuple[slice, slice, slice]
    spacing: Float3

    @property
    def shape_after_cropping(self) -> Int3:
        """Voxels of the bounding box."""
        a, b, c = (s.stop - s.start for s in self.bounding_box)
        return a, b, c


def non_zero(array: Array) -> npt.NDArray[np.bool_]:
    """(x, y, z): where any channel of (channel, x, y, z) is not zero."""
    mask: npt.NDArray[np.bool_] = array[0] != 0
    for channel in array[1:]:
        mask |= channel != 0
    return mask


def filled(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """With its holes, which are enclosed on all sides; the same whether filled before or after its box is cut out."""
    from scipy.ndimage import binary_fill_holes

    return mask if mask.all() else binary_fill_holes(mask)


def bounding_box(mask: npt.NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """The smallest box around what is True; everything where nothing is."""
    box = []
    for axis in range(3):
        inside = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, mask.shape[axis]))
    return box[0], box[1], box[2]


def preprocess(volume: Volume, plan: Plan, labels: Volume | None = None) -> PreprocessedCase:
    """Prepare a case.

    Args:
        volume: ``plan.channels`` channels on any grid.
        plan: Axis order, spacing and normalisation.
        labels: A one-channel label map on the same grid, for training.
    """
    order = (0, *(1 + axis for axis in plan.transpose_forward))
    data = volume.array.transpose(order)
    shape = tuple(int(n) for n in data.shape[1:])
    whole = plan.preprocessor == WHOLE_IMAGE
    mask = np.ones(shape, dtype=bool) if whole else non_zero(data)
    box = bounding_box(mask)
    # Filling takes as long as a tile of a CT does, and holes change neither the box nor a plan that knows no mask.
    mask = filled(mask[box]) if any(plan.use_mask_for_norm) or labels is not None else mask[box]
    cropped = np.array(data[(slice(None), *box)], np.float32, order="C")  # a copy: the user's voxels are not touched
    spacing = in_plan_axes(volume.spacing, plan)
    new_shape = resampled_shape(cropped.shape[1:], spacing, plan.spacing, plan.resampling["data"])
    if not whole:
        for channel in range(plan.channels):
            _normalise(cropped[channel], mask, plan, channel)
    resampled = resample(cropped, new_shape, spacing, plan.spacing, plan.resampling["data"])
    if whole:
        for channel in range(plan.channels):
            _normalise(resampled[channel], resampled[channel] != 0, plan, channel)
    target = None
    if labels is not None:
        target = labels.array.transpose(order)[(slice(None), *box)].astype(np.int16)
        target[(target == 0) & ~mask[None]] = OUTSIDE
        target = resample(target, new_shape, spacing, plan.spacing, plan.resampling["seg"])
    return PreprocessedCase(resampled, target, (shape[0], shape[1], shape[2]), box, spacing)


def normalises_by_the_image(plan: Plan) -> bool:
    """Whether what the network sees of a voxel hangs on the intensities of all others (mean, smallest, ...)."""
    return any(scheme in ("ZScoreNormalization", "RescaleTo01Normalization") for scheme in plan.normalization_schemes)


def _normalise(image: npt.NDArray[np.float32], mask: npt.NDArray[np.bool_], plan: Plan, channel: int) -> None:
    """One channel by its nnU-Net scheme, in place."""
    scheme = plan.normalization_schemes[channel]
    epsilon = 1e-8
    if scheme == "ZScoreNormalization":
        if plan.use_mask_for_norm[channel] and mask.any() and not mask.all():
            known = image[mask]
            image[mask] = (known - known.mean()) / max(known.std(), epsilon)
        else:
            mean, deviation = image.mean(), max(image.std(), epsilon)
            image -= mean
            image /= deviation
    elif scheme == "CTNormalization":
        properties = plan.intensity_properties[channel]
        np.clip(image, properties["percentile_00_5"], properties["percentile_99_5"], out=image)
        image -= np.float32(properties["mean"])
        image /= np.float32(max(properties["std"], epsilon))
    elif scheme == "RescaleTo01Normalization":
        image -= image.min()
        image /= max(image.max(), epsilon)
    elif scheme == "RGBTo01Normalization":
        image /= np.float32(255)


def restore_grid(logits: Array, case: PreprocessedCase, plan: Plan) -> Array:
    """(head, x, y, z) logits at the plan's spacing, resampled to the voxels of the case's bounding box."""
    return resample(logits, case.shape_after_cropping, plan.spacing, case.spacing, plan.resampling["probabilities"])


def uncrop(array: Array, case: PreprocessedCase, plan: Plan, outside: float = 0) -> Array:
    """(channel, x, y, z) of the bounding box put back into the whole image, in (channel, k, j, i) order."""
    whole = np.full((array.shape[0], *case.shape_before_cropping), outside, dtype=array.dtype)
    whole[(slice(None), *case.bounding_box)] = array
    return in_array_axes(whole, plan)


def in_array_axes(array: Array, plan: Plan) -> Array:
    """(channel, x, y, z) in the plan's axes to (channel, k, j, i); copied only where the two differ."""
    return np.ascontiguousarray(array.transpose(0, *(1 + axis for axis in plan.transpose_backward)))
