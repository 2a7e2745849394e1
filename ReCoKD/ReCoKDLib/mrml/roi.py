"""Regions of interest as boxes in the world and on a volume's grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..interaction.corrections import Box
from ..part import Slices
from ..volume import Volume
from .host import ensure_slicer
from .volumes import Matrix, numpy_matrix, world_from_node


def box_from_node(roi_node: Any) -> Box:
    """A ROI node as a box in the world, turned as the node is, with all parent transforms applied.

    Args:
        roi_node: ``vtkMRMLMarkupsROINode``.

    Raises:
        InputError: It is no such node, was not placed or has no size, is turned inside out, or is under a transform
            that is not linear.
    """
    ensure_slicer()
    if roi_node is None or not roi_node.IsA("vtkMRMLMarkupsROINode"):
        raise InputError("The region of interest is not a ROI node. Make one in Slicer's module Markups.")
    name = roi_node.GetName() or ""
    # A ROI keeps its place as a matrix and a size of its own; without a control point it was never placed.
    size = np.array([roi_node.GetSize()[axis] for axis in range(3)])
    if roi_node.GetNumberOfControlPoints() == 0 or size.min() <= 0:
        raise InputError(f"The region of interest {name!r} is empty. Draw a box, or choose none.")
    if roi_node.GetInsideOut():
        raise InputError(f"The region of interest {name!r} is turned inside out. Switch that off, or choose none.")
    place = world_from_node(roi_node) @ numpy_matrix(roi_node.GetObjectToNodeMatrix())
    if abs(np.linalg.det(place[:3, :3])) < 1e-12:
        raise InputError(f"The region of interest {name!r} is flat. Correct the transform above it, or choose none.")
    place[:3, :3] *= size / 2
    return box_from_matrix(place)


def box_from_matrix(matrix: Matrix) -> Box:
    """A box from the (4, 4) matrix whose columns are its half axes and its centre."""
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    r, a, s = (matrix[:3, :3] / lengths).tolist()
    centre, half_sizes = matrix[:3, 3].tolist(), lengths.tolist()
    return Box(tuple(centre), (tuple(r), tuple(a), tuple(s)), tuple(half_sizes))


def box_matrix(box: Box) -> Matrix:
    """The way back of :func:`box_from_matrix`."""
    matrix = np.eye(4)
    axes = np.array(box.axes)
    matrix[:3, :3] = axes / np.linalg.norm(axes, axis=0) * np.array(box.half_sizes)
    matrix[:3, 3] = box.centre
    return matrix


def bounding_voxels(box: Box, volume: Volume) -> Slices:
    """The smallest block of voxels (k, j, i) that holds every voxel whose centre lies in the box.

    Raises:
        InputError: There is no such voxel.
    """
    corners = np.array([(a, b, c) for a in (-1, 1) for b in (-1, 1) for c in (-1, 1)]) * np.array(box.half_sizes)
    world = corners @ np.array(box.axes).T + np.array(box.centre)
    to_ijk = np.linalg.inv(volume.ijk_to_ras)
    kji = (world @ to_ijk[:3, :3].T + to_ijk[:3, 3])[:, ::-1]
    # As much tolerance as the box itself has at its faces.
    low = np.maximum(np.ceil(kji.min(0) - 1e-5), 0).astype(int)
    high = np.minimum(np.floor(kji.max(0) + 1e-5) + 1, volume.shape).astype(int)
    block = slice(low[0], high[0]), slice(low[1], high[1]), slice(low[2], high[2])
    if (high <= low).any() or not (inside := voxels_inside(box, volume, block)).any():
        raise InputError(
            f"The region of interest holds no voxel of the volume {volume.name!r}. Move it onto the volume, or make "
            "it larger."
        )
    found = [np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    k, j, i = (slice(int(low[a] + where[0]), int(low[a] + where[-1] + 1)) for a, where in enumerate(found))
    return k, j, i


def voxels_inside(box: Box, volume: Volume, block: Slices) -> npt.NDArray[np.bool_]:
    """Which voxels of a block have their centre in the box; (k, j, i) of the block's shape, bool."""
    k, j, i = (np.arange(part.start, part.stop) for part in block)
    inside: npt.NDArray[np.bool_] = box.contains(
        volume.ijk_to_ras, (k[:, None, None], j[None, :, None], i[None, None, :])
    )
    return inside
