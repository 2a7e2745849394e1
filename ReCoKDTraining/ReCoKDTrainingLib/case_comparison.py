"""What is wrong with cases that only the others show: leakage, duplicates, wild spacing and intensity."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from .checked_case import LEFT_OUT, TRAINING, VALIDATION, CheckedCase
from .datasets.loading import Finding

# Of cases that are compared with the others: so many at least, so many times the median, so many robust deviations.
_ENOUGH = 4
_SPACING_FACTOR = 2.0
_INTENSITY_FACTOR = 5.0
_DEVIATIONS = 6.0
# Where more of the cases are so (MR images as every scanner scales them), that is how the data is.
_RARE = 10
_MAD = 1.4826  # makes the median absolute deviation a standard deviation where values are normal


def compared(cases: Sequence[CheckedCase]) -> list[CheckedCase]:
    """With what only the others show: leakage, duplicates, wild spacing and intensity."""
    more: dict[str, list[Finding]] = defaultdict(list)
    for name, finding in (*_same(cases), *_wild(cases)):
        more[name].append(finding)
    return [replace(case, findings=(*case.findings, *more[case.identifier])) for case in cases]


def _same(cases: Sequence[CheckedCase]) -> Iterable[tuple[str, Finding]]:
    """Cases with the same image, and patients on both sides of the split."""
    for key in ("checksum", "patient"):
        groups: dict[str, list[CheckedCase]] = defaultdict(list)
        for case in cases:
            if getattr(case, key) and case.part != LEFT_OUT:
                groups[getattr(case, key)].append(case)
        for members in groups.values():
            held_out = [case.identifier for case in members if case.part == VALIDATION]
            trained_on = [case.identifier for case in members if case.part == TRAINING]
            what = "Its image is also that of" if key == "checksum" else "Its patient is also that of"
            if held_out and trained_on:
                for name in trained_on:
                    yield (
                        name,
                        Finding(
                            "leakage",
                            f"{what} the held-out case {held_out[0]}: the figures would be too good. Keep both on one "
                            "side of the split.",
                        ),
                    )
            elif key == "checksum":
                for case in members[1:]:
                    message = f"{what} {members[0].identifier}. It counts twice."
                    yield case.identifier, Finding("duplicate", message, spoils=False)


def _wild(cases: Sequence[CheckedCase]) -> Iterable[tuple[str, Finding]]:
    readable = [case for case in cases if case.shape is not None and not case.bad]
    if len(readable) < _ENOUGH:
        return
    # In the order of size: which axis is which differs between orientations.
    spacings = np.log([sorted(case.spacing or (1, 1, 1)) for case in readable])
    for case, wild in zip(readable, _rare(_outliers(spacings, _SPACING_FACTOR)), strict=True):
        if wild:
            shown = " x ".join(f"{mm:.3g}" for mm in case.spacing or ())
            usual = " x ".join(f"{mm:.3g}" for mm in np.exp(np.median(spacings, 0)))
            message = f"Voxels of {shown} mm (k, j, i); half of the cases are about {usual} mm (smallest first)."
            yield case.identifier, Finding("spacing", message, spoils=False)
    channels = {len(case.intensities) for case in readable}
    if len(channels) != 1:
        return
    for channel in range(channels.pop()):
        values = np.array([case.intensities[channel] for case in readable])
        spread = np.log(np.maximum(values[:, 2] - values[:, 0], 1e-12))[:, None]
        usual_spread = float(np.exp(np.median(spread)))
        shifted = np.abs(values[:, :1] - np.median(values[:, 0])) > usual_spread / 2
        shifted &= _deviations(values[:, :1], usual_spread / 50) > _DEVIATIONS
        outlying = _rare(np.logical_or(_outliers(spread, _INTENSITY_FACTOR), shifted))
        low, middle, high = np.median(values, 0)
        for case, is_wild in zip(readable, outlying, strict=True):
            if is_wild:
                ours = case.intensities[channel]
                message = (
                    f"Channel {channel} from {ours[0]:.4g} to {ours[2]:.4g}, median {ours[1]:.4g}; of the cases in the "
                    f"middle from {low:.4g} to {high:.4g}, median {middle:.4g}."
                )
                yield case.identifier, Finding("intensity", message, spoils=False)


def _rare(outliers: npt.NDArray[np.bool_]) -> list[bool]:
    """Which cases of (case, n) are outliers in any respect; none where they are many."""
    wild = [bool(row.any()) for row in outliers]
    return wild if sum(wild) <= max(1, len(wild) // _RARE) else [False] * len(wild)


def _deviations(values: npt.NDArray[np.float64], least: float) -> npt.NDArray[np.float64]:
    """How many robust standard deviations each value (case, n) is off the median; ``least`` is their least size."""
    off = np.abs(values - np.median(values, 0))
    result: npt.NDArray[np.float64] = off / np.maximum(_MAD * np.median(off, 0), least)
    return result


def _outliers(logarithms: npt.NDArray[np.float64], factor: float) -> npt.NDArray[np.bool_]:
    """Which (case, n) are ``factor`` times more or less than the median, and far from it by the spread of the cases."""
    off = np.abs(logarithms - np.median(logarithms, 0))
    result: npt.NDArray[np.bool_] = (off > np.log(factor)) & (_deviations(logarithms, 1e-3) > _DEVIATIONS)
    return result
