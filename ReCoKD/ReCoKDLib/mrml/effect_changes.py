"""What a student's run, a click or a stroke would change in one segment, as images for Slicer's Segment Editor.

The editor itself then changes the segment, so that its masking, its overwrite mode and its undo hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..interaction.corrections import LockedError, Stroke
from ..interaction.corrector import BorderLayer
from ..labels import LabelSet, Segment
from ..segment import SegmentationResult
from ..table import segment_mask
from ..volume import Volume
from .correcting import correction
from .host import ensure_slicer
from .record import locked_ids
from .volumes import volume_from_node, world_from_node
from .voxels import oriented_image, read_labels

Mask = npt.NDArray[np.bool_]
Point = tuple[float, float, float]

_NAME = "segment"


@dataclass(frozen=True)
class EditorChange:
    """What is to be added to the segment and removed from it: ``vtkOrientedImageData`` on the editor's grid.

    Attributes:
        added: None if nothing is.
        removed: None if nothing is.
        voxels: How many of the volume's voxels change.
    """

    added: Any
    removed: Any
    voxels: int


def run_change(result: SegmentationResult, name: str, segmentation_node: Any, segment_id: str, blank: Any) -> Any:
    """The structure ``name`` of a result as the new content of a segment; voxels of locked segments are left out.

    Args:
        result: Of a run on the editor's source volume.
        name: Of a structure of the student.
        segmentation_node: What is edited.
        segment_id: The segment that gets the structure.
        blank: ``vtkOrientedImageData`` with the editor's grid (its modifier labelmap).

    Raises:
        LockedError: The segment is locked.
        InputError: The student has no such structure.
    """
    mask = segment_mask(result.labels.array[0], result.label_set.named(name))
    mask = mask & ~_locked(segmentation_node, segment_id, result.labels)
    return _on_grid_of(blank, mask, result.labels, segmentation_node)


def correction_change(
    volume_node: Any,
    segmentation_node: Any,
    segment_id: str,
    points: Sequence[Point],
    inside: bool,
    radius_mm: float,
    blank: Any,
    found: tuple[SegmentationResult, str] | None = None,
) -> EditorChange:
    """What a click or a stroke would change, near it.

    Args:
        volume_node: The editor's source volume.
        segmentation_node: What is edited.
        segment_id: The selected segment.
        points: RAS of the world, mm; one is a click, several are a stroke.
        inside: Whether they belong to the segment.
        radius_mm: Of a stroke.
        blank: As in :func:`run_change`.
        found: A run's result with probabilities, and the name of the structure that the segment stands for.

    Raises:
        OutsideVolumeError: A point lies outside the volume.
        LockedError: The segment is locked.
        CorrectionError: The stroke has too many points.
    """
    from ..interaction.session import RefineSession

    whole = volume_from_node(volume_node)
    said = correction(_NAME, points, inside, radius_mm)
    block = _around(whole, points, radius_mm if isinstance(said, Stroke) else 0.0)
    volume = whole.cropped(block)
    free = ~_locked(segmentation_node, segment_id, volume)
    before = read_labels(segmentation_node, [(segment_id, 1)], volume) > 0
    label_set = LabelSet((Segment(_NAME, 1, (1,), (0.5, 0.5, 0.5)),))
    session = RefineSession(
        volume,
        volume.with_array(before.astype(np.uint8)[None]),
        label_set,
        probabilities=None if found is None else _probabilities(*found, whole, block),
    )
    session.change([said])
    after = session.labels.array[0] == 1
    added, removed = after & ~before & free, before & ~after
    return EditorChange(
        _on_grid_of(blank, added, volume, segmentation_node) if added.any() else None,
        _on_grid_of(blank, removed, volume, segmentation_node) if removed.any() else None,
        int(added.sum() + removed.sum()),
    )


def _around(volume: Volume, points: Sequence[Point], radius_mm: float) -> tuple[slice, slice, slice]:
    """The part of a volume that a correction may look at."""
    to_ijk = np.linalg.inv(volume.ijk_to_ras)
    places = (np.array(points) @ to_ijk[:3, :3].T + to_ijk[:3, 3])[:, ::-1]
    reach = 2 + (BorderLayer().reach_mm + radius_mm) * np.linalg.norm(to_ijk[:3, :3], axis=1)[::-1]
    low = np.clip(np.floor(places.min(axis=0) - reach), 0, np.array(volume.shape) - 1).astype(int)
    high = np.clip(np.ceil(places.max(axis=0) + reach) + 1, low + 1, volume.shape).astype(int)
    k, j, i = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return k, j, i


def _locked(segmentation_node: Any, segment_id: str, reference: Volume) -> Mask:
    """Voxels of locked segments on a volume's grid."""
    locked = locked_ids(segmentation_node)
    if segment_id in locked:
        name = segmentation_node.GetSegmentation().GetSegment(segment_id).GetName()
        raise LockedError(f"The segment {name} is locked: its status is Completed. Change its status to edit it.")
    mask: Mask = read_labels(segmentation_node, [(i, 1) for i in locked], reference) > 0
    return mask


def _probabilities(
    result: SegmentationResult, name: str, whole: Volume, block: tuple[slice, slice, slice]
) -> Volume | None:
    """Background and one structure, (2, k, j, i); None where the result does not have them for this volume."""
    found = result.probabilities
    if found is None or not found.same_grid(whole):
        return None
    label_set = result.label_set
    head = label_set.segments.index(label_set.named(name)) + (0 if label_set.has_regions else 1)
    inside = found.cropped(block).array[head].astype(np.float32)
    return whole.cropped(block).with_array(np.stack((1 - inside, inside)))


def _on_grid_of(blank: Any, mask: Mask, reference: Volume, segmentation_node: Any) -> Any:
    """A mask on a volume's grid as an image on the editor's grid."""
    slicer = ensure_slicer()
    if blank is None:
        raise InputError("There is nothing to edit. Choose a segment and a source volume in the Segment Editor.")
    place = np.linalg.inv(world_from_node(segmentation_node)) @ reference.ijk_to_ras
    image = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        oriented_image(mask.astype(np.uint8), place), blank, image
    )
    return image
