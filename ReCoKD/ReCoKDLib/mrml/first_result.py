"""The label map that a segmentation's clicks began with, kept in the scene so that they can be taken back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..image_io import label_array
from ..interaction.refine import bounds
from ..volume import Volume
from .host import ensure_slicer
from .record import FIRST_ROLE, Record
from .volumes import ijk_to_node, volume_from_node, volume_to_node

Labels = npt.NDArray[Any]


def read_first(
    segmentation_node: Any, record: Record, local: Volume, current: Labels, present: Sequence[str]
) -> Labels | None:
    """As it was kept in the scene; None where it was not, or does not fit.

    Args:
        segmentation_node: Whose clicks they are.
        record: Its record.
        local: Its volume in the volume's own coordinates.
        current: (k, j, i) the segmentation as it is now.
        present: Ids of the segments that are there.
    """
    node = segmentation_node.GetNodeReference(FIRST_ROLE)
    if node is None:
        # Nothing was done yet, or all that was done can be taken back to nowhere.
        return None if record.done else current
    kept = volume_from_node(node)
    start = np.linalg.inv(local.ijk_to_ras) @ ijk_to_node(node)
    offset = np.rint(start[:3, 3]).astype(int)[::-1]
    end = offset + kept.shape
    if not np.allclose(start[:3, :3], np.eye(3), atol=1e-4) or (offset < 0).any() or (end > current.shape).any():
        return None
    first = np.zeros_like(current)
    first[tuple(slice(int(a), int(b)) for a, b in zip(offset, end, strict=True))] = kept.array[0]
    gone = [s.value for s in record.segments if s.id not in set(present)]
    first[np.isin(first, gone)] = 0
    return first


def keep_first(segmentation_node: Any, volume_node: Any, local: Volume, first: Labels) -> None:
    """Keep it in the scene, unless one is kept already.

    Args:
        segmentation_node: Whose clicks they are.
        volume_node: Its volume, with which it moves.
        local: The volume in its own coordinates.
        first: (k, j, i) the label map.
    """
    if segmentation_node.GetNodeReference(FIRST_ROLE) is not None:
        return
    # A voxel of margin: an image of one slice would not be read as a volume.
    found = bounds(first > 0) or (slice(0, 1), slice(0, 1), slice(0, 1))
    ends = zip(found, first.shape, strict=True)
    k, j, i = (slice(max(0, part.start - 1), min(n, part.stop + 1)) for part, n in ends)
    volume = local.with_array(label_array(first)[None]).cropped((k, j, i))
    node = volume_to_node(volume, name=f"{segmentation_node.GetName()} before clicks", label_map=True)
    node.SetHideFromEditors(True)
    node.GetDisplayNode().SetVisibility(False)
    node.SetAndObserveTransformNodeID(volume_node.GetTransformNodeID())
    segmentation_node.SetNodeReferenceID(FIRST_ROLE, node.GetID())


def forget_first(segmentation_node: Any) -> None:
    """Remove it from the scene."""
    slicer = ensure_slicer()
    node = segmentation_node.GetNodeReference(FIRST_ROLE)
    segmentation_node.SetNodeReferenceID(FIRST_ROLE, None)
    if node is not None:
        slicer.mrmlScene.RemoveNode(node)
