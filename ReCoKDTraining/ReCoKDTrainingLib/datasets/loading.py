"""A case's voxels, and what may be wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ReCoKDLib.annotation import Annotation
from ReCoKDLib.errors import DatasetError
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.volume import Volume

from .case import Case

# As much of a segment may lie outside of its image without a word: borders between grids are not sharp.
_OUTSIDE = 0.01


@dataclass(frozen=True)
class Finding:
    """Something that was found.

    Attributes:
        kind: One or two words, the same for all of a kind.
        message: What it is and what to do; no names of patients.
        spoils: Whether it would spoil the training; else it is a warning.
    """

    kind: str
    message: str
    spoils: bool = True


def image_findings(case: Case, volume: Volume, channels: int) -> list[Finding]:
    """What makes an image unfit."""
    found = []
    if volume.channels != channels:
        message = f"The case {case.identifier} has {volume.channels} channels, the dataset {channels}."
        found.append(Finding("channels", message))
    if not np.isfinite(volume.array).all():
        message = f"The image of the case {case.identifier} holds voxels that are not numbers (NaN or Inf)."
        found.append(Finding("not numbers", message))
    return found


def annotation_findings(case: Case, volume: Volume, annotation: Annotation, label_set: LabelSet) -> list[Finding]:
    """What is wrong with an annotation; ``label_set`` is the dataset's."""
    labels = annotation.labels
    found = []
    if not volume.same_grid(labels):
        message = (
            f"Image and label of the case {case.identifier} lie on different grids: {volume.shape} voxels of "
            f"{_millimetres(volume.spacing)} mm against {labels.shape} of {_millimetres(labels.spacing)} mm, or "
            "another origin or direction. Resample the label to the image."
        )
        found.append(Finding("different grids", message))
    # Not as integers: 0.5 is no background.
    source = label_set if case.relabelling is None else case.relabelling.source
    unknown = sorted(set(np.unique(labels.array).tolist()) - source.training_values)
    if unknown:
        shown = ", ".join(f"{value:g}" for value in unknown[:10]) + (", ..." if len(unknown) > 10 else "")
        message = (
            f"The label of the case {case.identifier} holds the values [{shown}], which dataset.json does not name. "
            "Name them in dataset.json or correct the label map."
        )
        found.append(Finding("unknown values", message))
    return found + _lost(case, annotation, source)


def _lost(case: Case, annotation: Annotation, source: LabelSet) -> list[Finding]:
    """What segments lost on the way to one label map."""
    names = {segment.value: segment.name for segment in source.segments}
    found = []
    for part in annotation.outside:
        share, name = part.lost / part.voxels, names[part.value]
        if share == 1:
            message = f"{name} of the case {case.identifier} lies outside of its image. Segment it on this image."
            found.append(Finding("outside the image", message))
        elif share > _OUTSIDE:
            message = f"{share:.0%} of {name} lie outside of the image and are left out ({part.lost} voxels)."
            found.append(Finding("outside the image", message, spoils=False))
    for (earlier, later), voxels in annotation.overlaps.items():
        message = f"{voxels} voxels are both {names[earlier]} and {names[later]}; they count as {names[later]}."
        found.append(Finding("overlap", message, spoils=False))
    return found


def load_case(case: Case, label_set: LabelSet, channels: int) -> tuple[Volume, Volume | None]:
    """Read a case and check that image and label belong together.

    Returns:
        Image and label map in the numbering of ``label_set``; None where nobody annotated the case.

    Raises:
        DatasetError: Different grids, values that the label set does not name, voxels that are not numbers, or a
            segment outside of the image.
        InputError: It cannot be read.
    """
    volume = case.volume()
    annotation = case.annotation(volume)
    found = image_findings(case, volume, channels)
    if annotation is not None:
        found += annotation_findings(case, volume, annotation, label_set)
    for finding in found:
        if finding.spoils:
            raise DatasetError(finding.message)
    return volume, None if annotation is None else relabelled(case, annotation.labels)


def relabelled(case: Case, labels: Volume) -> Volume:
    """A case's label map, which has no unknown values, in the numbers that are learned."""
    return labels if case.relabelling is None else labels.with_array(case.relabelling.apply(labels.array))


def _millimetres(spacing: Sequence[float]) -> str:
    return " x ".join(f"{n:.3g}" for n in spacing)
