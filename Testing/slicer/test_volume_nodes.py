"""Volume nodes: voxels, places, transforms, and nodes that are no use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ReCoKDLib.errors import InputError
from ReCoKDLib.mrml.volumes import (
    volume_from_node,
    volume_from_nodes,
    volume_to_node,
    vtk_array,
    vtk_matrix,
)
from ReCoKDLib.volume import Volume

Matrix = npt.NDArray[np.float64]
TwoBlobs = Callable[..., tuple[Volume, Volume]]


def test_there_and_back(slicer: Any, two_blobs: TwoBlobs, any_geometry: Matrix) -> None:
    image, _ = two_blobs(any_geometry)
    node = volume_to_node(image)
    assert node.GetName() == image.name
    back = volume_from_node(node)
    assert back.name == image.name
    assert np.array_equal(back.array, image.array)
    assert np.allclose(back.ijk_to_ras, any_geometry, atol=1e-9)


def test_the_place_agrees_with_slicer(slicer: Any, two_blobs: TwoBlobs, oblique_left_handed_matrix: Matrix) -> None:
    """Bounds as Slicer computes them are those of the corners as we do."""
    image, _ = two_blobs(oblique_left_handed_matrix)
    bounds = [0.0] * 6
    volume_to_node(image).GetRASBounds(bounds)
    k, j, i = image.shape
    corners = np.array(
        [(a, b, c, 1) for a in (-0.5, i - 0.5) for b in (-0.5, j - 0.5) for c in (-0.5, k - 0.5)], dtype=float
    )
    places = (image.ijk_to_ras @ corners.T)[:3]
    assert np.allclose(bounds, np.stack((places.min(1), places.max(1)), axis=1).ravel(), atol=1e-6)


def test_it_is_a_copy(slicer: Any, two_blobs: TwoBlobs) -> None:
    image, _ = two_blobs()
    node = volume_to_node(image)
    copy = volume_from_node(node)
    slicer.util.arrayFromVolume(node)[:] = 0
    slicer.mrmlScene.RemoveNode(node)
    assert np.array_equal(copy.array, image.array)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.bool_, np.uint8),
        (np.float16, np.float32),
        (np.int64, np.int32),
        (np.uint64, np.int32),
        (np.int16, np.int16),
        (np.uint16, np.uint16),
        (">i2", np.int16),
        (np.float64, np.float64),
    ],
)
def test_types(slicer: Any, given: Any, kept: Any) -> None:
    array = (np.arange(3 * 4 * 5).reshape(1, 3, 4, 5) % 2).astype(given)
    back = volume_from_node(volume_to_node(Volume(array, np.eye(4))))
    assert back.array.dtype == kept
    assert np.array_equal(back.array, array.astype(kept))


def test_large_64_bit_integers_keep_their_value() -> None:
    array = np.array([2**40, -(2**40)])
    assert vtk_array(array).dtype == np.float64
    assert np.array_equal(vtk_array(array), array)


def test_not_contiguous(slicer: Any, two_blobs: TwoBlobs) -> None:
    image, _ = two_blobs()
    flipped = Volume(image.array[:, ::-1, :, ::2], image.ijk_to_ras)
    assert np.array_equal(volume_from_node(volume_to_node(flipped)).array, flipped.array)


def test_nodes_become_channels(slicer: Any, two_blobs: TwoBlobs, oblique_matrix: Matrix) -> None:
    first, second = two_blobs(oblique_matrix)[0], two_blobs(oblique_matrix, seed=1)[0]
    both = volume_from_nodes([volume_to_node(first), volume_to_node(second)])
    assert np.array_equal(both.array, np.concatenate((first.array, second.array)))


def test_nodes_on_different_grids_are_refused(slicer: Any, two_blobs: TwoBlobs, oblique_matrix: Matrix) -> None:
    nodes = [volume_to_node(two_blobs(oblique_matrix)[0]), volume_to_node(two_blobs()[0])]
    with pytest.raises(InputError, match="different grids"):
        volume_from_nodes(nodes)


def turned(slicer: Any, matrix: Matrix) -> Any:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "turned")
    node.SetMatrixTransformToParent(vtk_matrix(matrix))
    return node


def test_transforms_above_count(slicer: Any, two_blobs: TwoBlobs, oblique_matrix: Matrix) -> None:
    image, _ = two_blobs()
    node, inner, outer = volume_to_node(image), turned(slicer, oblique_matrix), turned(slicer, np.diag([1, -1, 1, 1.0]))
    node.SetAndObserveTransformNodeID(inner.GetID())
    inner.SetAndObserveTransformNodeID(outer.GetID())
    expected = np.diag([1, -1, 1, 1.0]) @ oblique_matrix @ image.ijk_to_ras
    assert np.allclose(volume_from_node(node).ijk_to_ras, expected)


def test_a_warp_is_refused(slicer: Any, two_blobs: TwoBlobs) -> None:
    node = volume_to_node(two_blobs()[0])
    warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp")
    node.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(InputError, match=r"'warp', which is not linear.*Harden"):
        volume_from_node(node)


def test_none_is_refused(slicer: Any) -> None:
    with pytest.raises(InputError, match="No volume was chosen"):
        volume_from_node(None)


def test_an_empty_node_is_refused(slicer: Any) -> None:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing in it")
    with pytest.raises(InputError, match="'nothing in it' is empty"):
        volume_from_node(node)


def test_what_is_no_volume_is_refused(slicer: Any) -> None:
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "a surface")
    with pytest.raises(InputError, match="'a surface' is not a volume"):
        volume_from_node(node)


@pytest.mark.parametrize("kind", ["vtkMRMLVectorVolumeNode", "vtkMRMLScalarVolumeNode"])
def test_colours_and_vectors_are_refused(slicer: Any, kind: str) -> None:
    import vtk

    image = vtk.vtkImageData()
    image.SetDimensions(6, 5, 4)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    node = slicer.mrmlScene.AddNewNodeByClass(kind, "colours")
    node.SetAndObserveImageData(image)
    with pytest.raises(InputError, match="several values in each voxel"):
        volume_from_node(node)


def test_a_single_slice_is_refused(slicer: Any) -> None:
    node = volume_to_node(Volume(np.zeros((1, 1, 5, 6), np.uint8), np.eye(4), "one"))
    with pytest.raises(InputError, match=r"single slice \(6 x 5 x 1\)"):
        volume_from_node(node)
