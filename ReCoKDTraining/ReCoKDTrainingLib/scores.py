"""How well one segmentation agrees with another: Dice, Hausdorff distance and surface Dice of each segment.

Conventions, the same for every table of the project:

* Dice: twice the common voxels by the sum of both.
* HD95, mm: the larger of the two directed 95th percentiles of the distances from the border voxels of one to the
  nearest border voxel of the other ("Metrics Reloaded", Maier-Hein et al., Nature Methods 21, 195-212, 2024).
* Surface Dice: the share of both surfaces that lies within a tolerance of the other; surfaces are weighted by their
  area in mm2, so that thick slices do not distort it (Nikolov et al., J Med Internet Res 23, e26151, 2021).
* A segment in neither has no value (NaN), and is left out of means. A segment in only one of them has Dice 0,
  surface Dice 0 and an infinite HD95; means of HD95 are of the finite values, and the others are counted beside it.
* Voxels with the ignore label in the reference are background in both.

The distances and surfaces are MONAI's.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.metrics.hausdorff_distance import compute_hausdorff_distance
from monai.metrics.surface_dice import compute_surface_dice

from ReCoKDLib.errors import DatasetError, InputError
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.preprocessing import bounding_box
from ReCoKDLib.volume import Volume

Mask = npt.NDArray[np.bool_]

TOLERANCE_MM = 1.0
# Headers store voxel sizes with rounding (0.99999994 mm); a border that is off by exactly the tolerance is within.
_ROUNDING_MM = 1e-4


@dataclass(frozen=True)
class SegmentScore:
    """One segment of one case.

    Attributes:
        segment: Its name.
        dice: 0..1; NaN where neither has it.
        hd95: mm; NaN where neither has it, infinite where only one has.
        surface_dice: 0..1; NaN where neither has it.
        reference_ml: Volume in the reference, ml.
        prediction_ml: Volume in the prediction, ml.
    """

    segment: str
    dice: float
    hd95: float
    surface_dice: float
    reference_ml: float
    prediction_ml: float

    @property
    def present(self) -> str:
        """Which of the two has the segment: ``both``, ``reference``, ``prediction`` or ``neither``."""
        return {
            (True, True): "both",
            (True, False): "reference",
            (False, True): "prediction",
            (False, False): "neither",
        }[self.reference_ml > 0, self.prediction_ml > 0]


def evaluate(
    prediction: Volume,
    reference: Volume,
    label_set: LabelSet,
    *,
    tolerance: float = TOLERANCE_MM,
    distances: bool = True,
) -> tuple[SegmentScore, ...]:
    """Compare a label map with a reference on the same grid.

    Args:
        prediction: One channel of label values.
        reference: One channel of label values.
        label_set: The segments; overlapping regions are compared as regions.
        tolerance: Of surface Dice, mm.
        distances: Measure distances between surfaces, which takes far longer than Dice; else they are NaN.

    Returns:
        A score for each segment, in the label set's order.

    Raises:
        InputError: One of them has several channels, or the tolerance is negative.
        DatasetError: They lie on different grids.
    """
    for name, volume in (("prediction", prediction), ("reference", reference)):
        if volume.channels != 1:
            raise InputError(f"The {name} has {volume.channels} channels. A label map has one.")
    if not tolerance >= 0:
        raise InputError(f"The tolerance of surface Dice must be 0 mm or more; it is {tolerance}.")
    if not prediction.same_grid(reference):
        raise DatasetError(
            f"Prediction ({_grid(prediction)}) and reference ({_grid(reference)}) lie on different grids. "
            "Compare label maps of the same image."
        )
    predicted, referred = prediction.array[0], reference.array[0]
    if label_set.ignore_label is not None:
        known = referred != label_set.ignore_label
        predicted, referred = predicted * known, referred * known
    spacing = reference.spacing
    return tuple(
        _score(
            segment.name,
            np.isin(predicted, segment.region),
            np.isin(referred, segment.region),
            spacing,
            tolerance if distances else None,
        )
        for segment in label_set.segments
    )


def _grid(volume: Volume) -> str:
    size = " x ".join(f"{n:.3g}" for n in volume.spacing)
    return f"{volume.shape} voxels of {size} mm, {volume.axis_codes}"


def _score(
    name: str, predicted: Mask, referred: Mask, spacing: tuple[float, float, float], tolerance: float | None
) -> SegmentScore:
    both = int(np.count_nonzero(predicted & referred))
    sizes = int(np.count_nonzero(predicted)), int(np.count_nonzero(referred))
    ml = math.prod(spacing) / 1000
    if tolerance is None:
        hd95, surface_dice = math.nan, math.nan
    elif all(sizes):
        hd95, surface_dice = _surface_scores(predicted, referred, spacing, tolerance)
    else:
        hd95, surface_dice = (math.inf, 0.0) if any(sizes) else (math.nan, math.nan)
    return SegmentScore(
        segment=name,
        dice=2 * both / sum(sizes) if any(sizes) else math.nan,
        hd95=hd95,
        surface_dice=surface_dice,
        reference_ml=sizes[1] * ml,
        prediction_ml=sizes[0] * ml,
    )


def _surface_scores(
    predicted: Mask, referred: Mask, spacing: tuple[float, float, float], tolerance: float
) -> tuple[float, float]:
    """HD95 and surface Dice of two masks that are not empty."""
    box = bounding_box(predicted | referred)  # MONAI pads, so a border at the box's edge stays one
    y_pred, y = (torch.from_numpy(np.ascontiguousarray(mask[box]))[None, None] for mask in (predicted, referred))
    options: dict[str, Any] = {"include_background": True, "spacing": list(spacing)}
    with warnings.catch_warnings():
        # MONAI 1.5 and 1.6 warn of an argument that they themselves pass.
        warnings.simplefilter("ignore", FutureWarning)
        distance = compute_hausdorff_distance(y_pred, y, percentile=95, **options)
        share = compute_surface_dice(y_pred, y, [tolerance + _ROUNDING_MM], use_subvoxels=True, **options)
    return float(distance), float(share)
