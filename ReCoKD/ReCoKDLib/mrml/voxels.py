"""The voxels of segments: read onto a volume's grid, and changed where they lie, few or many at a time.

Segments of a segmentation that do not overlap usually share one image (a layer), each with a value of its own. An
image covers only the part of its lattice where something is. Changes are made in these images themselves, so a click
costs the voxels that it changes and not those of the whole volume.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt

from ..image_io import label_array
from ..volume import Volume
from .host import ensure_slicer
from .volumes import Matrix, numpy_matrix, vtk_array, vtk_matrix, world_from_node

Mask = npt.NDArray[np.bool_]

_ALIGNED = 1e-3  # voxels: as far as two grids may be off and still be one
_ROOM = 16  # voxels that an image grows by beyond what is needed, so that it seldom has to grow


@dataclass(frozen=True)
class Change:
    """What one segment gains and loses; both of the shape (k, j, i) of a block of a volume's grid.

    Attributes:
        added: Voxels that belong to it from now on.
        removed: Voxels that no longer do.
    """

    added: Mask
    removed: Mask


def read_labels(
    segmentation_node: Any, values: Sequence[tuple[str, int]], reference: Volume
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Segments as a label map on a volume's grid (nearest neighbour); (k, j, i).

    Args:
        segmentation_node: ``vtkMRMLSegmentationNode``.
        values: Segment ids with their values in the label map. Where segments overlap, the later one wins.
        reference: A volume in world coordinates.

    Raises:
        InputError: The segmentation is under a transform that is not linear.
    """
    world = world_from_node(segmentation_node)
    result = np.zeros(reference.shape, np.uint16 if _highest(values) > 255 else np.uint8)
    for image, table in layers(segmentation_node, values):
        block, found = read_layer(image, table, world, reference)
        np.copyto(result[block], found, where=found > 0)
    return result


def _highest(values: Sequence[tuple[str, int]]) -> int:
    return max((value for _, value in values), default=0)


def layers(segmentation_node: Any, values: Sequence[tuple[str, int]]) -> Iterator[tuple[Any, npt.NDArray[Any]]]:
    """The images of segments, in the order of the segments, with a table from their numbers to the values asked for.

    Segments of one image cannot overlap, so neighbours of one image come at once; segments without voxels do not come.

    Args:
        segmentation_node: ``vtkMRMLSegmentationNode``.
        values: Segment ids with their values.
    """
    slicer = ensure_slicer()
    segmentation = segmentation_node.GetSegmentation()
    # Where surfaces are the source, as after loading an RT structure set, voxels are made from them here.
    segmentation.CreateRepresentation(slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName())
    found = [(labelmap_of(segmentation, segment_id), segment_id, value) for segment_id, value in values]
    for _, group in groupby(found, key=lambda entry: id(entry[0])):
        entries = list(group)
        image = entries[0][0]
        if image is None or image.IsEmpty():
            continue
        table = np.zeros(int(image_array(image).max(initial=0)) + 1, np.uint16 if _highest(values) > 255 else np.uint8)
        for _, segment_id, value in entries:
            own = segmentation.GetSegment(segment_id).GetLabelValue()
            if own < len(table):
                table[own] = value
        yield image, table


def read_layer(image: Any, table: npt.NDArray[Any], world: Matrix, reference: Volume) -> tuple[Any, npt.NDArray[Any]]:
    """An image of segments on a volume's grid (nearest neighbour).

    Args:
        image: ``vtkOrientedImageData``.
        table: From its numbers to those wanted.
        world: From the segmentation's coordinates to the world.
        reference: A volume in world coordinates.

    Returns:
        The block (k, j, i) of the volume's grid that it may have voxels in, and the numbers there.
    """
    there, here = _overlap(image, world, reference)
    if there is None:
        return ..., table[_resampled(ensure_slicer(), image, world, reference)]
    if here is None:
        return (slice(0, 0),) * 3, np.zeros((0, 0, 0), table.dtype)
    return here, table[image_array(image)[there]]


def change_segments(
    segmentation_node: Any, changes: Mapping[str, Change], grid: Matrix, first: tuple[int, int, int]
) -> None:
    """Add voxels to segments and take voxels from them; every other voxel of the segmentation stays as it is.

    A segment whose grid is another one keeps it: each of its voxels does what the voxel of the volume nearest to its
    centre does.

    Args:
        segmentation_node: A ``vtkMRMLSegmentationNode`` whose source representation is the binary labelmap.
        changes: By segment id; all of one shape.
        grid: IJK-to-RAS of the volume's grid, in the world.
        first: Index (k, j, i) in that grid of the changes' first voxel.
    """
    slicer = ensure_slicer()
    segmentation = segmentation_node.GetSegmentation()
    place = np.linalg.inv(world_from_node(segmentation_node)) @ grid
    changed = [segment_id for segment_id, change in changes.items() if change.added.any() or change.removed.any()]
    if not changed:
        return
    surfaces = _other_representations(slicer, segmentation)
    for segment_id in changed:
        _remove(segmentation, segment_id, changes[segment_id].removed, place, first)
    for segment_id in changed:
        _add(slicer, segmentation, segment_id, changes[segment_id].added, place, first)
    _renew(slicer, segmentation_node, changed, surfaces)
    for segment_id in changed:
        for event in (segmentation.SourceRepresentationModified, segmentation.RepresentationModified):
            segmentation.InvokeEvent(event, segment_id)


def on_grid(segmentation_node: Any, reference: Volume) -> bool:
    """Whether the voxels of all segments are voxels of a volume's grid."""
    segmentation = segmentation_node.GetSegmentation()
    place = np.linalg.inv(world_from_node(segmentation_node)) @ reference.ijk_to_ras
    ids = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
    images = [image for i in ids if (image := labelmap_of(segmentation, i)) is not None and not image.IsEmpty()]
    return all(_offset(image, place, [n - 1 for n in reference.shape]) is not None for image in images)


def labelmap_of(segmentation: Any, segment_id: str) -> Any:
    """The image of a segment, shared with the others of its layer; None where it has none."""
    slicer = ensure_slicer()
    name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    return segmentation.GetSegment(segment_id).GetRepresentation(name)


def image_array(image: Any) -> npt.NDArray[Any]:
    """The voxels of a ``vtkOrientedImageData`` as (k, j, i), not copied."""
    from vtk.util.numpy_support import vtk_to_numpy

    scalars: npt.NDArray[Any] = vtk_to_numpy(image.GetPointData().GetScalars())
    return scalars.reshape(_shape(image))


def oriented_image(array: npt.NDArray[Any], place: Matrix, first: Sequence[int] = (0, 0, 0)) -> Any:
    """A (k, j, i) array as ``vtkOrientedImageData`` whose first voxel has the index ``first`` (k, j, i)."""
    image = ensure_slicer().vtkOrientedImageData()
    _set_array(image, label_array(array), first)
    image.SetGeometryFromImageToWorldMatrix(vtk_matrix(place))
    return image


def _set_array(image: Any, array: npt.NDArray[Any], first: Sequence[int]) -> None:
    from vtk.util.numpy_support import numpy_to_vtk

    extent: list[int] = []
    for start, count in zip(reversed(list(first)), reversed(array.shape), strict=True):
        extent += [int(start), int(start) + count - 1]
    image.SetExtent(*extent)
    image.GetPointData().SetScalars(numpy_to_vtk(vtk_array(array).ravel(), deep=True))


def _shape(image: Any) -> tuple[int, int, int]:
    i, j, k = image.GetDimensions()
    return int(k), int(j), int(i)


def _first(image: Any) -> tuple[int, int, int]:
    extent = image.GetExtent()
    return int(extent[4]), int(extent[2]), int(extent[0])


def image_place(image: Any) -> Matrix:
    """From indices (i, j, k) of :func:`image_array` to the segmentation's coordinates."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    place = numpy_matrix(matrix)
    place[:3, 3] += place[:3, :3] @ _first(image)[::-1]
    return place


def _image_from_grid(image: Any, place: Matrix) -> Matrix:
    """From indices (i, j, k) of a grid to those of an image's lattice; ``place`` is the grid in the image's world."""
    import vtk

    matrix = vtk.vtkMatrix4x4()
    image.GetWorldToImageMatrix(matrix)
    return numpy_matrix(matrix) @ place


def _offset(image: Any, place: Matrix, far: Sequence[int]) -> tuple[int, int, int] | None:
    """What to add to a grid's index (k, j, i) for that of the image's lattice; None where the lattices differ.

    ``far`` is the greatest index of the grid that matters: small differences of directions add up to it.
    """
    way = _image_from_grid(image, place)
    offset = np.rint(way[:3, 3])
    corners = np.array([(a, b, c, 1) for c in (0, far[0]) for b in (0, far[1]) for a in (0, far[2])], dtype=float)
    whole = corners @ way[:3].T
    if np.abs(whole - corners[:, :3] - offset).max() > _ALIGNED:
        return None
    return int(offset[2]), int(offset[1]), int(offset[0])


def _overlap(image: Any, world: Matrix, reference: Volume) -> tuple[Any, Any]:
    """The common block of image and volume in both arrays: None and None where the lattices differ.

    Where they agree and have no voxel in common, the second is None.
    """
    offset = _offset(image, np.linalg.inv(world) @ reference.ijk_to_ras, [n - 1 for n in reference.shape])
    if offset is None:
        return None, None
    there, here = [], []
    for shift, start, count, length in zip(offset, _first(image), _shape(image), reference.shape, strict=True):
        low, high = max(0, start - shift), min(length, start + count - shift)
        if high <= low:
            return (), None
        here.append(slice(low, high))
        there.append(slice(low + shift - start, high + shift - start))
    return tuple(there), tuple(here)


def _resampled(slicer: Any, image: Any, world: Matrix, reference: Volume) -> npt.NDArray[Any]:
    grid = oriented_image(np.zeros(reference.shape, np.uint8), np.linalg.inv(world) @ reference.ijk_to_ras)
    on_grid = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(image, grid, on_grid)
    return image_array(on_grid)


def on_lattice(image: Any, mask: Mask, place: Matrix, first: tuple[int, int, int]) -> tuple[Mask, tuple[int, int, int]]:
    """A mask of a grid as one of the image's lattice, cut to what is set, and the index of its first voxel there."""
    offset = _offset(image, place, [start + count - 1 for start, count in zip(first, mask.shape, strict=True)])
    if offset is None:
        mask, first = _nearest(_image_from_grid(image, place), mask, first)
        offset = (0, 0, 0)
    found = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
    if not all(len(where) for where in found):
        return np.zeros((0, 0, 0), bool), (0, 0, 0)
    cut = mask[tuple(slice(int(where[0]), int(where[-1]) + 1) for where in found)]
    k, j, i = (int(where[0]) + a + b for where, a, b in zip(found, first, offset, strict=True))
    return cut, (k, j, i)


def _nearest(way: Matrix, mask: Mask, first: tuple[int, int, int]) -> tuple[Mask, tuple[int, int, int]]:
    """The voxels of a lattice whose centres are nearest to a voxel of the mask; ``way`` leads from grid to lattice."""
    low, high = np.array(first) - 0.5, np.array(first) + mask.shape - 0.5
    corners = np.array([(i, j, k, 1) for k in (low[0], high[0]) for j in (low[1], high[1]) for i in (low[2], high[2])])
    there = (corners @ way[:3].T)[:, ::-1]
    start, stop = np.ceil(there.min(0)).astype(int), np.floor(there.max(0)).astype(int) + 1
    back = np.linalg.inv(way)
    k, j, i = np.ogrid[tuple(slice(int(a), int(b)) for a, b in zip(start, stop, strict=True))]
    result = np.ones((stop - start).clip(0), bool)
    index = []
    for axis in range(3):  # k, j, i
        row = back[2 - axis]
        position = np.floor(row[2] * k + row[1] * j + row[0] * i + row[3] + 0.5).astype(np.intp) - first[axis]
        result &= (position >= 0) & (position < mask.shape[axis])
        index.append(np.clip(position, 0, mask.shape[axis] - 1))
    result &= mask[tuple(index)]
    return result, (int(start[0]), int(start[1]), int(start[2]))


def _remove(segmentation: Any, segment_id: str, mask: Mask, place: Matrix, first: tuple[int, int, int]) -> None:
    image = labelmap_of(segmentation, segment_id)
    if image is None or image.IsEmpty():
        return
    cut, start = on_lattice(image, mask, place, first)
    block, inner = _common(image, cut.shape, start)
    if block is None:
        return
    part = image_array(image)[block]
    part[cut[inner] & (part == segmentation.GetSegment(segment_id).GetLabelValue())] = 0
    _modified(image)


def _common(image: Any, shape: Sequence[int], start: Sequence[int]) -> tuple[Any, Any]:
    """The block that an image and a mask have in common, in both arrays; None and None for none."""
    outer, inner = [], []
    for begin, count, own, length in zip(start, shape, _first(image), _shape(image), strict=True):
        low, high = max(begin, own), min(begin + count, own + length)
        if high <= low:
            return None, None
        outer.append(slice(low - own, high - own))
        inner.append(slice(low - begin, high - begin))
    return tuple(outer), tuple(inner)


def _add(
    slicer: Any, segmentation: Any, segment_id: str, mask: Mask, place: Matrix, first: tuple[int, int, int]
) -> None:
    if not mask.any():
        return
    segment = segmentation.GetSegment(segment_id)
    image = labelmap_of(segmentation, segment_id)
    if image is None:
        image = slicer.vtkOrientedImageData()
        name = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
        segment.AddRepresentation(name, image)
        segment.SetLabelValue(1)
    if image.IsEmpty():
        # Slicer gives segments without voxels an image of any grid.
        image.SetGeometryFromImageToWorldMatrix(vtk_matrix(_lattice(slicer, segmentation, place)))
    cut, start = on_lattice(image, mask, place, first)
    if not cut.size:
        return  # finer than the segmentation's own voxels
    value = segment.GetLabelValue()
    _grow(image, start, cut.shape, value)
    block, inner = _common(image, cut.shape, start)
    part = image_array(image)[block]
    if (cut[inner] & (part != 0) & (part != value)).any():
        # Somebody else of the layer keeps these voxels, so this segment needs a layer of its own.
        segmentation.SeparateSegmentLabelmap(segment_id)
        image, value = labelmap_of(segmentation, segment_id), segment.GetLabelValue()
        _grow(image, start, cut.shape, value)
        block, inner = _common(image, cut.shape, start)
        part = image_array(image)[block]
    part[cut[inner]] = value
    _modified(image)


def _lattice(slicer: Any, segmentation: Any, place: Matrix) -> Matrix:
    """The grid for a segment that has no image yet: the segmentation's own, else the volume's."""
    import vtk

    text = segmentation.GetConversionParameter(slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName())
    image = slicer.vtkOrientedImageData()
    if not text or not slicer.vtkSegmentationConverter.DeserializeImageGeometry(text, image, False):
        return place
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    return numpy_matrix(matrix)


def _grow(image: Any, start: Sequence[int], shape: Sequence[int], value: int) -> None:
    """Make an image reach over a block, and its type hold a value; its voxels stay as they are."""
    empty = image.IsEmpty()
    old = np.zeros((0, 0, 0), np.uint8) if empty else image_array(image)
    low, high = np.array(start), np.array(start) + shape
    begin, end = (low, high) if empty else (np.array(_first(image)), np.array(_first(image)) + old.shape)
    kind = old.dtype if value <= np.iinfo(old.dtype).max else np.dtype(np.uint16)
    if not empty and kind == old.dtype and (begin <= low).all() and (high <= end).all():
        return
    # A margin only where it has to grow at all.
    new_begin = np.where(low < begin, low - _ROOM, begin)
    new_end = np.where(high > end, high + _ROOM, end)
    array = np.zeros(new_end - new_begin, kind)
    if not empty:
        array[tuple(slice(a, b) for a, b in zip(begin - new_begin, end - new_begin, strict=True))] = old
    _set_array(image, array, [int(n) for n in new_begin])


def _modified(image: Any) -> None:
    # Of the array only: the image's own event would throw all surfaces away, also of segments that are as they were.
    image.GetPointData().GetScalars().Modified()


def _other_representations(slicer: Any, segmentation: Any) -> list[str]:
    names: list[str] = []
    segmentation.GetContainedRepresentationNames(names)
    return [name for name in names if name != segmentation.GetSourceRepresentationName()]


def _renew(slicer: Any, segmentation_node: Any, changed: list[str], representations: list[str]) -> None:
    """Make the surfaces of the changed segments anew, where there were some."""
    if not representations:
        return
    segmentation = segmentation_node.GetSegmentation()
    # The surfaces of all others stay. Where an image has grown, Slicer has thrown all of them away.
    for segment_id in changed:
        for name in representations:
            segmentation.GetSegment(segment_id).RemoveRepresentation(name)
    for name in representations:
        segmentation.CreateRepresentation(name)
