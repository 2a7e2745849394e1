"""Do volumes of the scene fit a student? Looked at before the run, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ReCoKDError
from ..input_check import check_input
from ..package import ModelPackage
from ..preprocessing import normalises_by_the_image
from .volumes import volume_from_nodes


@dataclass(frozen=True)
class Fit:
    """Whether volumes fit.

    Attributes:
        problem: Why they cannot be segmented; empty if they can.
        warnings: What is unlike the cases that the student was made from, in plain words.
    """

    problem: str = ""
    warnings: tuple[str, ...] = ()


def check_nodes(nodes: Sequence[Any], package: ModelPackage, roi_node: Any = None) -> Fit:
    """Check volume nodes, one for each channel, and the region of interest if there is one."""
    try:
        volume = volume_from_nodes(nodes)
        if roi_node is not None:
            from .roi import bounding_voxels, box_from_node

            region = volume.cropped(bounding_voxels(box_from_node(roi_node), volume))  # refuses one without voxels
            if normalises_by_the_image(package.plan):
                volume = region
        return Fit(warnings=check_input(volume, package.card, package.plan))
    except ReCoKDError as error:
        return Fit(problem=str(error))
