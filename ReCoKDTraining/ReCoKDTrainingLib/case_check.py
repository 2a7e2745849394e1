"""Everything that can spoil a training, looked for in all cases before it starts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.table import segment_sizes
from ReCoKDLib.volume import Volume

from .case_comparison import compared
from .checked_case import LEFT_OUT, TRAINING, VALIDATION, Check, CheckedCase, Thumbnail
from .class_matching import find_class
from .dataset_check import findings_of_all
from .datasets import Case, Dataset, Split
from .datasets.loading import Finding, annotation_findings, image_findings, relabelled

_PERCENTILES = (0.5, 50.0, 99.5)
_SAMPLE = 1 << 18


def check_cases(
    dataset: Dataset,
    split: Split,
    *,
    has_teacher: bool = False,
    skip_bad: bool = False,
    split_again: Callable[[Dataset], Split] | None = None,
    thumbnails: bool = False,
    seen: Callable[[Case, Volume, Volume | None], None] | None = None,
    progress: Callable[[float], None] | None = None,
) -> Check:
    """Read every case once and compare it with the others.

    Args:
        dataset: The cases.
        split: Where each of them is to go.
        has_teacher: Whether a teacher can supervise classes that nobody annotated.
        skip_bad: Whether cases that would spoil the training will be left out of it; what then still would is told.
        split_again: Called with the dataset without the cases that are bad in themselves, where they will be left
            out, to split those that remain; None keeps the split.
        thumbnails: Whether to keep a slice of each for a picture.
        seen: Called with each case that is good in itself, its image, and its label map in the dataset's numbering
            (None where nobody annotated it), so that they need not be read again.
        progress: Called with the finished fraction.
    """
    inspected = []
    for done, case in enumerate(dataset.cases, 1):
        inspected.append(_inspected(case, dataset, thumbnails, seen))
        if progress is not None:
            progress(done / len(dataset.cases))
    bad = [case.identifier for case in inspected if case.bad]
    if bad and skip_bad and split_again is not None:
        split = split_again(dataset.without(bad))
    parts = {case.identifier: TRAINING for case in split.training}
    parts |= {case.identifier: VALIDATION for case in split.validation}
    cases = compared([replace(case, part=parts.get(case.identifier, LEFT_OUT)) for case in inspected])
    used = [case for case in cases if case.part != LEFT_OUT and not (skip_bad and case.bad)]
    findings = tuple(findings_of_all(used, dataset.label_set, has_teacher))
    return Check(tuple(cases), findings, dataset.label_set, split)


def _inspected(
    case: Case,
    dataset: Dataset,
    thumbnails: bool,
    seen: Callable[[Case, Volume, Volume | None], None] | None,
) -> CheckedCase:
    annotated = "not" if not case.labelled else "in part" if case.partly_labelled else "whole"
    blank = CheckedCase(case.identifier, LEFT_OUT, annotated, patient=case.patient, place=case.reader.place)
    try:
        volume = case.volume()
    except ReCoKDError as error:
        return replace(blank, findings=(Finding("unreadable", str(error)),))
    found = image_findings(case, volume, len(dataset.channel_names))
    constant = [str(number) for number, channel in enumerate(volume.array) if channel.min() == channel.max()]
    if constant:
        where = f"channel {', '.join(constant)}" if volume.channels > 1 else "the image"
        found.append(Finding("constant image", f"Every voxel of {where} has the same value."))
    annotation = None
    try:
        annotation = case.annotation(volume)
    except ReCoKDError as error:
        found.append(Finding("unreadable", str(error)))
    labels = None
    if annotation is not None:
        problems = annotation_findings(case, volume, annotation, dataset.label_set)
        found += problems
        if not any(finding.spoils for finding in problems):
            labels = volume.with_array(relabelled(case, annotation.labels).array)
    voxels = {}
    if labels is not None:
        lacking = _not_annotated(case, dataset.label_set)
        sizes = segment_sizes(labels, dataset.label_set.segments)
        voxels = {size.segment.name: size.voxels for size in sizes if size.segment.name not in lacking}
        found += _class_findings(voxels, lacking)
    if seen is not None and not any(finding.spoils for finding in found):
        seen(case, volume, labels)
    return replace(
        blank,
        shape=volume.shape,
        spacing=volume.spacing,
        intensities=tuple(_percentiles(channel) for channel in volume.array),
        voxels=voxels,
        checksum=_checksum(volume),
        findings=tuple(found),
        thumbnail=_thumbnail(volume, labels) if thumbnails else None,
    )


def _not_annotated(case: Case, label_set: LabelSet) -> list[str]:
    """Names of the classes that nobody annotated in a case."""
    found = [(wanted, find_class(wanted, case.label_set)) for wanted in label_set.segments]
    return [wanted.name for wanted, known in found if known is None or known.name in case.missing]


def _class_findings(voxels: Mapping[str, int], lacking: Sequence[str]) -> list[Finding]:
    found = []
    if lacking:
        message = f"Not annotated: {', '.join(lacking)}. Its background is not learned from, as it may be these."
        found.append(Finding("missing class", message, spoils=False))
    empty = [name for name, count in voxels.items() if not count]
    if empty:
        found.append(Finding("empty segment", f"No voxel of: {', '.join(empty)}.", spoils=False))
    return found


def _percentiles(channel: npt.NDArray[np.generic]) -> tuple[float, float, float]:
    flat = channel.ravel()
    sample = flat[:: max(1, flat.size // _SAMPLE)].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if not sample.size:
        return 0.0, 0.0, 0.0
    low, middle, high = np.percentile(sample, _PERCENTILES)
    return float(low), float(middle), float(high)


def _checksum(volume: Volume) -> str:
    """Over the voxels in RAS order, whatever their type and place: of the same scan it is the same."""
    shown = volume.reoriented("RAS").array.astype(np.float32)
    return hashlib.sha256(str(shown.shape).encode("ascii") + shown.tobytes()).hexdigest()


def _thumbnail(volume: Volume, labels: Volume | None) -> Thumbnail:
    shown = volume.with_array(np.nan_to_num(volume.array[:1].astype(np.float32))).reoriented("RAS")
    if labels is None:
        labels_shown, slices = shown.with_array(np.zeros(shown.array.shape, np.uint8)), None
    else:
        labels_shown = labels.reoriented("RAS")
        slices = (labels_shown.array[0] > 0).sum((1, 2))
    k = shown.shape[0] // 2 if slices is None or not slices.any() else int(slices.argmax())
    block = (slice(k, k + 1), slice(0, shown.shape[1]), slice(0, shown.shape[2]))
    return Thumbnail(
        *(replace(cut, array=cut.array.copy()) for cut in (shown.cropped(block), labels_shown.cropped(block)))
    )
