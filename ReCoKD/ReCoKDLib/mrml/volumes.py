"""Volumes from and to Slicer's volume nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..volume import Volume, stack_channels
from .host import ensure_slicer

Matrix = npt.NDArray[np.float64]


def volume_from_node(node: Any) -> Volume:
    """Copy a scalar volume node: its voxels, and their place in the world with all parent transforms applied.

    It is a copy, so the node may change or go away while the volume is worked on in another thread.

    Args:
        node: ``vtkMRMLScalarVolumeNode`` (or a label map volume).

    Raises:
        InputError: There is none, it is empty, a single slice, has several values a voxel (colour, vector,
            diffusion or 4D), or a transform above it is not linear.
    """
    slicer = ensure_slicer()
    if node is None:
        raise InputError("No volume was chosen. Choose one.")
    if not node.IsA("vtkMRMLVolumeNode"):
        raise InputError(f"{node.GetName()!r} is not a volume. Choose a scalar volume.")
    name = node.GetName() or ""
    image = node.GetImageData()
    if image is None or 0 in image.GetDimensions():
        raise InputError(f"The volume {name!r} is empty. Load its image, or choose another volume.")
    components = image.GetNumberOfScalarComponents() if image.GetPointData().GetScalars() is not None else 0
    if not node.IsA("vtkMRMLScalarVolumeNode") or components != 1:
        raise InputError(
            f"The volume {name!r} has several values in each voxel (colour, vector, diffusion or 4D). Choose a "
            "scalar volume; single components are extracted with Slicer's module Vector to Scalar Volume."
        )
    if 1 in image.GetDimensions():
        size = " x ".join(str(n) for n in image.GetDimensions())
        raise InputError(f"The volume {name!r} is a single slice ({size}); a 3D image is needed. Load all slices.")
    array = np.array(slicer.util.arrayFromVolume(node))  # the node's own voxels are only borrowed
    return Volume(array[None], world_from_node(node) @ ijk_to_node(node), name)


def volume_from_nodes(nodes: Sequence[Any]) -> Volume:
    """Several volume nodes as the channels of one volume, in the order given.

    Raises:
        InputError: As for :func:`volume_from_node`, or their grids differ in the world.
    """
    return stack_channels([volume_from_node(node) for node in nodes])


def volume_to_node(volume: Volume, *, name: str | None = None, label_map: bool = False) -> Any:
    """Add the first channel of a volume to the scene as a new volume node.

    Types that VTK does not have are converted: bool to uint8, float16 to float32, 64-bit integers to int32 or,
    where they do not fit, to float64.

    Args:
        volume: What to add; further channels need nodes of their own.
        name: The node's name; the volume's own when None.
        label_map: Make a ``vtkMRMLLabelMapVolumeNode``.
    """
    slicer = ensure_slicer()
    kind = "vtkMRMLLabelMapVolumeNode" if label_map else "vtkMRMLScalarVolumeNode"
    node = slicer.mrmlScene.AddNewNodeByClass(kind, volume.name if name is None else name)
    node.SetIJKToRASMatrix(vtk_matrix(volume.ijk_to_ras))
    slicer.util.updateVolumeFromArray(node, vtk_array(volume.array[0]))
    node.CreateDefaultDisplayNodes()
    return node


def vtk_array(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same numbers, contiguous, in the machine's byte order and in a type that VTK has."""
    kind: Any = array.dtype.newbyteorder("=")
    if array.dtype == np.bool_:
        kind = np.uint8
    elif array.dtype == np.float16:
        kind = np.float32
    elif array.dtype.kind in "iu" and array.dtype.itemsize == 8:
        limits = np.iinfo(np.int32)
        fits = array.size == 0 or (limits.min <= array.min() and array.max() <= limits.max)
        kind = np.int32 if fits else np.float64
    return np.ascontiguousarray(array, dtype=kind)


def ijk_to_node(node: Any) -> Matrix:
    """A volume node's own IJK-to-RAS matrix, without the transforms above it."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    return numpy_matrix(matrix)


def world_from_node(node: Any) -> Matrix:
    """The matrix of all transforms above a node, from its own coordinates to the world (RAS mm).

    Raises:
        InputError: One of them is not linear.
    """
    import vtk

    transform = node.GetParentTransformNode()
    if transform is None:
        return np.eye(4)
    if not transform.IsTransformToWorldLinear():
        raise InputError(
            f"{node.GetName()!r} is under the transform {transform.GetName()!r}, which is not linear (it warps). "
            "Harden the transform first (in Slicer's module Data, by a right-click on it)."
        )
    matrix = vtk.vtkMatrix4x4()
    transform.GetMatrixTransformToWorld(matrix)
    return numpy_matrix(matrix)


def moved(points: npt.NDArray[np.float64], matrix: Matrix) -> npt.NDArray[np.float64]:
    """(n, 3) points after a (4, 4) affine transform."""
    places: npt.NDArray[np.float64] = points @ matrix[:3, :3].T + matrix[:3, 3]
    return places


def numpy_matrix(matrix: Any) -> Matrix:
    """A ``vtkMatrix4x4`` as a (4, 4) array."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def vtk_matrix(matrix: Matrix) -> Any:
    """A (4, 4) array as a ``vtkMatrix4x4``."""
    import vtk

    result = vtk.vtkMatrix4x4()
    result.DeepCopy([float(value) for value in np.asarray(matrix).ravel()])
    return result
