"""The student's probabilities for corrections: those of the last run, or made again after a scene was reopened."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import PackageError
from ..labels import LabelSet
from ..part import Slices, block_of, region_of
from ..table import segment_mask
from ..volume import Volume
from .record import Record

if TYPE_CHECKING:
    from ..package import ModelPackage

# Of half-precision numbers. With many classes in a large volume the student's answer would fill the memory; corrections
# then go by the labels and the image alone. It depends on nothing but the volume and the student, so that a reopened
# scene decides as the first one did.
MOST_BYTES = 2 << 30

_SURE = 0.95  # of labels where the student did not look


def can_be_kept(shape: tuple[int, int, int], heads: int) -> bool:
    """Whether the probabilities of a volume are few enough to keep."""
    return 2 * heads * int(np.prod(shape)) <= MOST_BYTES


@dataclass(frozen=True)
class Question:
    """What a student is to be asked again: a run of :func:`ReCoKDLib.segment.segment`.

    Attributes:
        volume: All channels, in world coordinates.
        package: The student.
        options: Of the function; what JSON can write.
    """

    volume: Volume
    package: ModelPackage
    options: Mapping[str, Any]


def question_of(record: Record, seen: Callable[[], tuple[Volume, Slices]]) -> Question | None:
    """What to ask the student that a record names; None, with a warning in the log, where it cannot be asked.

    Args:
        record: Of the segmentation.
        seen: Gives ``Question.volume`` and the block of it that was asked for; called only if it is needed.
    """
    from ..students import find_student

    names = [known.name for known in record.segments[: record.from_student]]
    if not record.student:
        return None
    volume, part = seen()
    block = block_of(part)
    if not can_be_kept(region_of(volume, block).shape, len(names) + (0 if record.has_regions else 1)):
        return None
    try:
        package = find_student(record.student)
    except PackageError as error:
        logging.warning("ReCoKD: corrections go on from the labels alone. %s", error)
        return None
    if package.checksum != record.checksum:
        logging.warning(
            "ReCoKD: corrections go on from the labels alone, because the student %s is not the one that made this "
            "segmentation.",
            record.student,
        )
        return None
    options = {"labels": names, "mirroring": record.mirroring, "probabilities": True}
    return Question(volume, package, {**options, "region": None if record.part is None else block})


def probabilities_again(record: Record, seen: Callable[[], tuple[Volume, Slices]]) -> Volume | None:
    """What the student says of a volume, asked here and now; None where it cannot be asked. See :func:`question_of`."""
    from ..segment import segment

    question = question_of(record, seen)
    if question is None:
        return None
    logging.info("ReCoKD: the student %s looks at the volume again, once.", record.student)
    return segment(question.volume, question.package, **question.options).probabilities


def on_whole_grid(
    probabilities: Volume | None, part: Slices, volume: Volume, label_set: LabelSet, record: Record, labels: Any
) -> Volume | None:
    """Probabilities of a part of a volume on the grid of all of it; elsewhere what the labels say.

    Args:
        probabilities: Of the part.
        part: Which that is.
        volume: The whole.
        label_set: Of all segments; the student's come first.
        record: Of the segmentation.
        labels: (k, j, i) the first result.
    """
    if probabilities is None:
        return None
    if record.part is None:
        return volume.with_array(probabilities.array)
    student = label_set.segments[: record.from_student]
    heads: list[npt.NDArray[np.bool_]] = [] if record.has_regions else [labels == 0]
    heads += [segment_mask(labels, segment) for segment in student]
    array = np.empty((len(heads), *volume.shape), np.float16)
    for head, mask in enumerate(heads):
        array[head] = np.where(mask, np.float16(_SURE), np.float16(1 - _SURE))
    array[(slice(None), *part)] = probabilities.array
    return volume.with_array(array)
