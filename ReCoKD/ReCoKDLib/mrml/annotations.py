"""Segmentation nodes as what was annotated in an image, and written as such."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..annotation import Annotation, AnnotationBuilder
from ..labels import LabelSet
from ..volume import Volume
from .segmentations import write_segments
from .volumes import world_from_node
from .voxels import Mask, image_array, image_place, layers, on_lattice, oriented_image, read_layer

Values = Sequence[tuple[str, int]]


def read_annotation(segmentations: Sequence[tuple[Any, Values]], reference: Volume) -> Annotation:
    """Segments of segmentation nodes as a label map on a volume's grid (nearest neighbour).

    Args:
        segmentations: ``vtkMRMLSegmentationNode`` with the ids of its segments and their values. Where segments
            overlap, the later one wins.
        reference: A volume in world coordinates.

    Raises:
        InputError: A segmentation is under a transform that is not linear.
    """
    highest = max((value for _, values in segmentations for _, value in values), default=0)
    builder = AnnotationBuilder(reference, highest)
    for node, values in segmentations:
        world = world_from_node(node)
        for image, table in layers(node, values):
            block, found = read_layer(image, table, world, reference)
            builder.put(found, block)
            builder.compare(table[image_array(image)], world @ image_place(image))
    return builder.annotation()


def write_annotation(
    segmentations: Sequence[tuple[Any, Values]], label_set: LabelSet, reference: Volume, path: Path
) -> None:
    """Segments of segmentation nodes as a segmentation file on the lattice of a volume (nearest neighbour).

    Classes stay apart where they overlap, in the order of the segments, and reach out of the volume where they do. A
    class of several segments is one segment in the file, unless others come between.

    Args:
        segmentations: As for :func:`read_annotation`.
        label_set: What the values mean; classes without a segment are not written.
        reference: A volume in world coordinates.
        path: A file ending in ``.seg.nrrd``.

    Raises:
        InputError: A segmentation is under a transform that is not linear.
        OutputError: The file exists, or cannot be written.
    """
    lattice = oriented_image(np.zeros((1, 1, 1), np.uint8), reference.ijk_to_ras)
    order: list[tuple[int, list[tuple[Mask, tuple[int, int, int]]]]] = []
    for node, values in segmentations:
        world = world_from_node(node)
        for image, table in layers(node, values):
            found = table[image_array(image)]
            there = set(table.tolist())
            for value in dict.fromkeys(value for _, value in values if value in there):
                part = on_lattice(lattice, found == value, world @ image_place(image), (0, 0, 0))
                if not order or order[-1][0] != value:
                    order.append((value, []))  # anew, as the later one wins: what lies between may overlap both
                order[-1][1].append(part)
    empty = {value for _, values in segmentations for _, value in values} - {value for value, _ in order}
    order += [(value, []) for value in sorted(empty)]
    names = {segment.value: segment for segment in label_set.segments}
    write_segments([(names[value], _image(parts, reference)) for value, parts in order], reference, path)


def _image(parts: Sequence[tuple[Mask, tuple[int, int, int]]], reference: Volume) -> Any:
    """Masks with the index of their first voxel, as one image; None where none has a voxel."""
    some = [(mask, np.array(first)) for mask, first in parts if mask.size]
    if not some:
        return None
    begin = np.min([first for _, first in some], axis=0)
    end = np.max([first + mask.shape for mask, first in some], axis=0)
    whole = np.zeros(end - begin, np.uint8)
    for mask, first in some:
        whole[tuple(slice(a, b) for a, b in zip(first - begin, first - begin + mask.shape, strict=True))] |= mask
    return oriented_image(whole, reference.ijk_to_ras, begin.tolist())
