"""Resampling between grids as nnU-Net v2 does it: by default, and by the other functions that a plan may name.

``resample_data_or_seg_to_shape``, the default: cubic (or linear) in all axes; when the coarsest axis is more than
three times as coarse as the finest, in the plane only, and nearest neighbour across. scikit-image and SciPy do the
interpolation. ``resample_torch_fornnunet``: the same with PyTorch, linear. ``no_resampling_hack``: not at all.

``resample_from_first_voxel`` is MONAI's ``Spacing``: the grids share the centre of their first voxel. With all others
they share their outer borders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

ANISOTROPY_THRESHOLD = 3.0
FROM_FIRST_VOXEL = "resample_from_first_voxel"

Interpolation = Callable[[Array, Sequence[int], int], Array]


def resampled_shape(
    shape: Sequence[int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    options: Mapping[str, Any] | None = None,
) -> tuple[int, int, int]:
    """Voxels along each axis after resampling from ``spacing`` to ``new_spacing`` (mm, same axis order).

    One at least, which only images smaller than half a new voxel need, as those with their spacing in metres.
    ``options`` are those of :func:`resample`.
    """
    if (options or {}).get("function") == FROM_FIRST_VOXEL:
        x, y, z = (round((n - 1) * old / new + 1) for n, old, new in zip(shape, spacing, new_spacing, strict=True))
        return int(x), int(y), int(z)
    a, b, c = (max(1, round(old / new * n)) for n, old, new in zip(shape, spacing, new_spacing, strict=True))
    return int(a), int(b), int(c)


def coarse_axis(
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    force: bool | None = None,
    threshold: float = ANISOTROPY_THRESHOLD,
) -> int | None:
    """The one axis to be resampled apart, or None.

    It is the coarsest of ``spacing`` if that is anisotropic (its axes differ by more than ``threshold`` times), else
    of ``new_spacing``; None when two axes are equally coarse.
    """
    if force is False:
        return None
    for candidate in (spacing, new_spacing):
        if force or max(candidate) / min(candidate) > threshold:
            coarsest = [axis for axis in range(3) if max(candidate) / candidate[axis] == 1]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def resample(
    array: Array,
    new_shape: Sequence[int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    options: Mapping[str, Any],
) -> Array:
    """Resample (channel, x, y, z) to ``new_shape``; the dtype stays.

    Args:
        array: Images or logits, or label maps when ``options["is_seg"]``.
        new_shape: Voxels along the three axes.
        spacing: Present voxel size, mm.
        new_spacing: Voxel size of ``new_shape``, mm; decides only whether an axis is taken apart.
        options: Of a plan's ``resampling``.
    """
    shape = tuple(int(n) for n in new_shape)
    function = options.get("function")
    same_places = array.shape[1:] == shape
    step = [new / old for old, new in zip(spacing, new_spacing, strict=True)]
    if function == FROM_FIRST_VOXEL:
        same_places = same_places and np.allclose(step, 1, rtol=1e-6)
    if same_places or function == "no_resampling_hack":
        return array
    axis = coarse_axis(
        spacing,
        new_spacing,
        options.get("force_separate_z"),
        float(options.get("separate_z_anisotropy_threshold", ANISOTROPY_THRESHOLD)),
    )
    if function == "resample_torch_fornnunet":
        return _resampled_by_torch(array, shape, axis, options)
    order, order_z = int(options.get("order", 3)), int(options.get("order_z", 0))
    image: Interpolation = _resize_image
    if function == FROM_FIRST_VOXEL:
        image, axis = partial(_from_first_voxel, step), None
    interpolate: Interpolation = partial(_resize_labels, image) if options.get("is_seg") else image
    result = np.empty((array.shape[0], *shape), dtype=array.dtype)
    for channel in range(array.shape[0]):
        source = array[channel]
        if axis is None:
            result[channel] = interpolate(source, shape, order)
            continue
        in_plane = tuple(n for a, n in enumerate(shape) if a != axis)
        if order_z == 0 or source.shape[axis] == shape[axis]:
            # Slice by slice into the result, each once: as it stands, or as the nearest of several.
            nearest = _nearest(source.shape[axis], shape[axis])
            target = np.moveaxis(result[channel], axis, 0)
            for s in np.unique(nearest):
                target[nearest == s] = interpolate(np.take(source, s, axis), in_plane, order)
            continue
        slices = [interpolate(np.take(source, s, axis), in_plane, order) for s in range(source.shape[axis])]
        result[channel] = _across(np.stack(slices, axis), shape[axis], axis, order_z, bool(options.get("is_seg")))
    return result


@dataclass(frozen=True)
class Taps:
    """Linear interpolation along one axis: voxel n is ``low + weight * (high - low)`` of the two source voxels.

    Attributes:
        low: Index of the first neighbour for each voxel, never falling.
        high: Of the second one.
        weight: float64 in [0, 1).
    """

    low: npt.NDArray[np.int64]
    high: npt.NDArray[np.int64]
    weight: npt.NDArray[np.float64]
    length: int  # of the source

    @property
    def identity(self) -> bool:
        """Whether each voxel is the source's own."""
        return len(self.low) == self.length and not self.weight.any() and bool((np.diff(self.low) == 1).all())


def linear_taps(
    shape: Sequence[int],
    new_shape: Sequence[int],
    spacing: Sequence[float],
    new_spacing: Sequence[float],
    options: Mapping[str, Any],
) -> tuple[Taps, Taps, Taps] | None:
    """What :func:`resample` does with images, as taps along each axis; None where it is not linear or nearest.

    Arguments are those of :func:`resample`, ``shape`` that of its array.
    """
    function = options.get("function")
    order, order_z = int(options.get("order", 3)), int(options.get("order_z", 0))
    step = [new / old for old, new in zip(spacing, new_spacing, strict=True)]
    same = tuple(shape) == tuple(new_shape)
    if function == FROM_FIRST_VOXEL:
        same = same and np.allclose(step, 1, rtol=1e-6)
    if same or function == "no_resampling_hack":
        a, b, c = (_taps(np.arange(n, dtype=np.float64), n, 1) for n in shape)
        return a, b, c
    if function == "resample_torch_fornnunet" or order > 1:
        return None
    apart = coarse_axis(
        spacing,
        new_spacing,
        options.get("force_separate_z"),
        float(options.get("separate_z_anisotropy_threshold", ANISOTROPY_THRESHOLD)),
    )
    if function == FROM_FIRST_VOXEL:
        apart = None
    if apart is not None and order_z > 1:
        return None
    found = []
    for axis, (n, m) in enumerate(zip(shape, new_shape, strict=True)):
        voxels: npt.NDArray[np.float64] = np.arange(m, dtype=np.float64)
        places = voxels * step[axis] if function == FROM_FIRST_VOXEL else n / m * (voxels + 0.5) - 0.5
        found.append(_taps(places, n, order_z if axis == apart else order))
    return found[0], found[1], found[2]


def _taps(places: npt.NDArray[np.float64], length: int, order: int) -> Taps:
    """At these places of a source of some length, whose border voxels go on beyond it."""
    inside = np.clip(places, 0, length - 1)
    if order == 0:
        nearest = np.floor(inside + 0.5).astype(np.int64)
        return Taps(nearest, nearest, np.zeros(len(places)), length)
    low = np.minimum(np.floor(inside).astype(np.int64), max(length - 2, 0))
    weight = inside - low
    high = np.minimum(low + 1, length - 1)
    low = np.where(weight == 1, high, low)  # the last voxel itself
    weight = np.where(weight == 1, 0, weight)
    return Taps(low, np.where(weight == 0, low, high), weight, length)


def _resize_image(source: Array, shape: Sequence[int], order: int) -> Array:
    from skimage.transform import resize

    resized: Array = resize(source.astype(np.float64), shape, order=order, mode="edge", anti_aliasing=False)
    return resized


def _from_first_voxel(step: Sequence[float], source: Array, shape: Sequence[int], order: int) -> Array:
    """Voxel n of the result lies at voxel n * step of the source; beyond its last voxel the value is that one's."""
    from scipy.ndimage import affine_transform

    resized: Array = affine_transform(
        source.astype(np.float64), step, output_shape=tuple(shape), order=order, mode="nearest"
    )
    return resized


def _resize_labels(image: Interpolation, source: Array, shape: Sequence[int], order: int) -> Array:
    """For each voxel the label whose own mask, interpolated, is greatest, so that no label is invented.

    Where several are equally great (halfway between voxels), the nearest voxel's label if it is one of them, else
    the smallest: nnU-Net's rule with batchgenerators 0.25.5 (older ones thresholded each mask at one half).
    """
    nearest: Array = image(source, shape, 0).astype(source.dtype)
    if order == 0:
        return nearest
    result = np.zeros(tuple(shape), dtype=source.dtype)
    greatest = np.full(tuple(shape), -np.inf)
    for value in np.unique(source):
        share = image(source == value, shape, order)
        result[(share > greatest) | ((share == greatest) & (nearest == value))] = value
        np.maximum(greatest, share, out=greatest)
    return result


def _nearest(length: int, new_length: int) -> npt.NDArray[np.intp]:
    """For each of ``new_length`` slices the nearest of ``length``, at voxel centres."""
    from scipy.ndimage import map_coordinates

    centres = length / new_length * (np.arange(new_length) + 0.5) - 0.5
    nearest = map_coordinates(np.arange(length, dtype=np.float64), [centres], order=0, mode="nearest")
    indices: npt.NDArray[np.intp] = nearest.astype(np.intp)
    return indices


def _across(source: Array, length: int, axis: int, order: int, labels: bool) -> Array:
    """Resample one axis by interpolation of the given order, at voxel centres."""
    from scipy.ndimage import map_coordinates

    centres = source.shape[axis] / length * (np.arange(length) + 0.5) - 0.5
    shape = [length if a == axis else n for a, n in enumerate(source.shape)]
    grid = np.meshgrid(*(centres if a == axis else np.arange(n) for a, n in enumerate(shape)), indexing="ij")
    if not labels:
        interpolated: Array = map_coordinates(source.astype(np.float64), grid, order=order, mode="nearest")
        return interpolated
    result = np.zeros(shape, dtype=source.dtype)
    for value in np.unique(source):
        result[map_coordinates((source == value).astype(np.float64), grid, order=order, mode="nearest") > 0.5] = value
    return result


def _resampled_by_torch(array: Array, shape: tuple[int, ...], axis: int | None, options: Mapping[str, Any]) -> Array:
    """In the plane and then across where ``axis`` is given, else in all axes at once (then always linearly)."""
    if axis is None:
        return _interpolated(array, shape, "linear", options)
    planes = np.moveaxis(array, 1 + axis, 1)
    in_plane = tuple(n for a, n in enumerate(shape) if a != axis)
    resized = _interpolated(planes.reshape(-1, *planes.shape[2:]), in_plane, options.get("mode", "linear"), options)
    stacked = np.moveaxis(resized.reshape(*planes.shape[:2], *in_plane), 1, 1 + axis)
    return _interpolated(stacked, shape, options.get("aniso_axis_mode", "nearest-exact"), options)


def _interpolated(array: Array, shape: tuple[int, ...], mode: str, options: Mapping[str, Any]) -> Array:
    """Two or three axes after the first, by ``torch.nn.functional.interpolate``.

    A label map's labels are interpolated one by one. The greatest share wins, in half precision, the smallest label
    where several are as great; with ``memefficient_seg_resampling`` the last label whose share is above one half.
    """
    import torch
    from torch.nn.functional import interpolate

    if array.shape[1:] == shape:
        return array
    if mode == "linear":
        mode = "trilinear" if len(shape) == 3 else "bilinear"
    source = torch.from_numpy(np.ascontiguousarray(array))[None]
    if not options.get("is_seg"):
        image: Array = interpolate(source.float(), shape, mode=mode)[0].numpy().astype(array.dtype)
        return image
    values = torch.unique(source)
    if options.get("memefficient_seg_resampling"):
        result = torch.zeros((array.shape[0], *shape), dtype=source.dtype)
        for value in values:
            result[interpolate((source == value).float(), shape, mode=mode)[0] > 0.5] = value
    else:
        shares = [interpolate((source == value).float() * 1000, shape, mode=mode)[0].half() for value in values]
        result = values[torch.stack(shares).argmax(0)]
    labels: Array = result.numpy()
    return labels
