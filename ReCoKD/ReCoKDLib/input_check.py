"""Is a volume one that a model can take (else an error), and one that it was made for (else a warning)?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .card import Card, ChannelInfo, Intensity
from .errors import InputError
from .plan import Plan
from .volume import Array, Volume

# How far a voxel size may leave the training cases' range, and their median where only that is known.
_SPACING_FACTOR = 1.5
_SPACING_FACTOR_OF_MEDIAN = 2.0
# Scanners scale MR images as they like, and z-scores undo it: only another order of magnitude is strange.
_SCALE_FACTOR = 10.0
# Where intensities have a unit (CT), a percentile may leave that of the training cases by this part of their
# whole range.
_UNIT_TOLERANCE = 0.25
# An image that should not be negative may dip below zero by this part of its range, as interpolation does.
_BELOW_ZERO = 0.25
_SAMPLE = 1 << 21  # voxels that percentiles are taken of

_ADVICE = "The result may be wrong: check that this is the right volume and the right student for it."


def check_input(volume: Volume, card: Card, plan: Plan) -> tuple[str, ...]:
    """Check a volume before it is segmented.

    Args:
        volume: As the user gave it.
        card: Of the model.
        plan: Of the model; stands in where the card knows no spacing or intensities.

    Returns:
        Warnings, each of which names what was found and what was expected; empty when all is as expected.

    Raises:
        InputError: The number of channels is wrong, or a channel is constant or holds NaN or infinity.
    """
    if volume.channels != len(card.channels):
        names = ", ".join(channel.name for channel in card.channels)
        raise InputError(
            f"{card.name} needs {len(card.channels)} input channel(s) ({names}); {volume.channels} given. "
            "Give one volume for each channel, in this order."
        )
    warnings = [*_spacing_warnings(volume, card, plan)]
    for index, (image, channel) in enumerate(zip(volume.array, card.channels, strict=True)):
        what = f"channel {index} ({channel.name})"
        _require_content(image, what)
        warnings += _intensity_warnings(image, what, channel, plan, index)
    return tuple(warnings)


def _require_content(image: Array, what: str) -> None:
    if image.dtype.kind in "fc" and not np.isfinite(image).all():
        count = int(image.size - np.isfinite(image).sum())
        raise InputError(
            f"The image in {what} has {count} voxel(s) that are not numbers (NaN or infinity). "
            "Replace them first, for instance by the value of the background."
        )
    if image.min() == image.max():
        raise InputError(
            f"The image in {what} is constant (every voxel is {image.flat[0]:g}): there is nothing to "
            "segment. Choose another volume."
        )


def _spacing_warnings(volume: Volume, card: Card, plan: Plan) -> list[str]:
    found = _oriented_spacing(volume, card.orientation)
    if card.spacing is not None:
        smallest, largest, factor = card.spacing.smallest, card.spacing.largest, _SPACING_FACTOR
    else:
        k, j, i = (plan.original_median_spacing[axis] for axis in plan.transpose_backward)
        smallest, largest, factor = (k, j, i), (k, j, i), _SPACING_FACTOR_OF_MEDIAN
    expected = _millimetres(smallest)
    if largest != smallest:
        expected += f" to {_millimetres(largest)}"
    outside = [
        not least / factor <= size <= greatest * factor
        for size, least, greatest in zip(found, smallest, largest, strict=True)
    ]
    if not any(outside):
        return []
    return [
        f"The voxel size {_millimetres(found)} (k, j, i) is far from that of {card.name}'s training cases, "
        f"{expected}. {_ADVICE}"
    ]


def _oriented_spacing(volume: Volume, orientation: str | None) -> Sequence[float]:
    """(k, j, i) spacing after the volume is brought to the orientation."""
    if orientation is None:
        return volume.spacing
    one_voxel = Volume(np.zeros((1, 1, 1, 1)), volume.ijk_to_ras)
    return one_voxel.reoriented(orientation).spacing


def _millimetres(sizes: Sequence[float]) -> str:
    return " x ".join(f"{size:.3g}" for size in sizes) + " mm"


def _intensity_warnings(image: Array, what: str, channel: ChannelInfo, plan: Plan, index: int) -> list[str]:
    flat = image.ravel()
    low, middle, high = np.percentile(flat[:: max(1, flat.size // _SAMPLE)].astype(np.float64), (0.5, 50, 99.5))
    found = f"from {low:.4g} to {high:.4g}, median {middle:.4g}"
    if channel.intensity is not None:
        known = channel.intensity
        usual = _usual_in_unit if channel.unit else _usual_in_any_unit
        if usual(float(low), float(high), known):
            return []
        expected = (
            f"from {known.percentile_00_5[0]:.4g} to {known.percentile_99_5[1]:.4g}, "
            f"median {known.median[0]:.4g} to {known.median[1]:.4g}"
        )
    else:
        properties = plan.intensity_properties[index]
        if not {"percentile_00_5", "percentile_99_5"} <= properties.keys():
            return []
        least, greatest = properties["percentile_00_5"], properties["percentile_99_5"]
        # These are of the structures only. Those of a CT are there if the unit is right; in MRI nothing but
        # clearly negative values, which only CT has, is telling.
        if channel.unit:
            strange = not ((flat >= least) & (flat <= greatest)).any()
        else:
            strange = properties.get("min", least) >= 0 and low < -_BELOW_ZERO * (high - low)
        if not strange:
            return []
        expected = f"{least:.4g} to {greatest:.4g} in the structures"
    unit = f" {channel.unit}" if channel.unit else ""
    return [
        f"The intensities of {what} are {found} (0.5th to 99.5th percentile), far from those of the training "
        f"cases{unit and ' in'}{unit}: {expected}. {_ADVICE}"
    ]


def _usual_in_unit(low: float, high: float, known: Intensity) -> bool:
    """Air, and what is brightest, lie where they lay in training; the median depends on the field of view."""
    tolerance = _UNIT_TOLERANCE * (known.percentile_99_5[1] - known.percentile_00_5[0])
    ends = ((low, known.percentile_00_5), (high, known.percentile_99_5))
    return all(least - tolerance <= value <= greatest + tolerance for value, (least, greatest) in ends)


def _usual_in_any_unit(low: float, high: float, known: Intensity) -> bool:
    """Not an order of magnitude off, and not reaching far below zero where the training cases did not."""
    if low < min(known.percentile_00_5[0], 0) - _BELOW_ZERO * (high - low):
        return False
    least, greatest = known.percentile_99_5
    return not (least > 0 and not least / _SCALE_FACTOR <= high <= greatest * _SCALE_FACTOR)
