"""Everything that can spoil a training, looked for in all cases before it starts."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.table import segment_sizes
from ReCoKDLib.volume import Volume

from .class_matching import find_class
from .datasets import Case, Dataset, Split
from .datasets.case import image_problems, label_problems, relabelled
from .datasets.file_pairs import files_of

TRAINING, VALIDATION, LEFT_OUT = "training", "validation", "left out"

# Of cases that are compared with the others: so many at least, so many times the median, so many robust deviations.
_ENOUGH = 4
_SPACING_FACTOR = 2.0
_INTENSITY_FACTOR = 5.0
_DEVIATIONS = 6.0
# Where more of the cases are so (MR images as every scanner scales them), that is how the data is.
_RARE = 10
_MAD = 1.4826  # makes the median absolute deviation a standard deviation where values are normal
_PERCENTILES = (0.5, 50.0, 99.5)
_SAMPLE = 1 << 18


@dataclass(frozen=True)
class Finding:
    """Something that was found.

    Attributes:
        kind: One or two words, the same for all of a kind.
        message: What it is and what to do.
        spoils: Whether it would spoil the training; else it is a warning.
    """

    kind: str
    message: str
    spoils: bool = True


@dataclass(frozen=True)
class Thumbnail:
    """An axial slice of a case.

    Attributes:
        image: One channel, one slice, in RAS order.
        labels: On the same grid.
    """

    image: Volume
    labels: Volume


@dataclass(frozen=True)
class CheckedCase:
    """One case and what was found in it.

    Attributes:
        identifier: Its name.
        part: ``training``, ``validation`` or ``left out``.
        annotated: ``whole``, ``in part`` or ``not``.
        shape: Voxels along (k, j, i); None where it could not be read.
        spacing: mm along (k, j, i).
        intensities: For each channel the 0.5th, 50th and 99.5th percentile.
        voxels: By class; empty where nobody annotated it.
        patient: A hash; empty where it is not known.
        checksum: Of its voxels as they lie in the patient, whatever the file format.
        findings: What is wrong.
        thumbnail: To be drawn.
        images: Its image files, where it has files of its own.
        segmentation: The file of its annotation.
    """

    identifier: str
    part: str
    annotated: str
    shape: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    intensities: tuple[tuple[float, float, float], ...] = ()
    voxels: Mapping[str, int] = field(default_factory=dict)
    patient: str = ""
    checksum: str = ""
    findings: tuple[Finding, ...] = ()
    thumbnail: Thumbnail | None = None
    images: tuple[Path, ...] = ()
    segmentation: Path | None = None

    @property
    def bad(self) -> bool:
        """Whether it would spoil the training."""
        return any(finding.spoils for finding in self.findings)


@dataclass(frozen=True)
class Check:
    """What was found.

    Attributes:
        cases: All of them.
        findings: Of the dataset as a whole.
        label_set: The classes.
        split: Where the cases were to go.
    """

    cases: tuple[CheckedCase, ...]
    findings: tuple[Finding, ...]
    label_set: LabelSet
    split: Split = field(default_factory=lambda: Split((), ()))

    @property
    def bad(self) -> tuple[str, ...]:
        """Identifiers of cases that would spoil the training."""
        return tuple(case.identifier for case in self.cases if case.bad)

    def all_findings(self) -> Iterable[tuple[str, Finding]]:
        """With the case's identifier, empty for the dataset's own."""
        yield from (("", finding) for finding in self.findings)
        yield from ((case.identifier, finding) for case in self.cases for finding in case.findings)

    @property
    def spoiled(self) -> bool:
        """Whether anything would spoil the training."""
        return any(finding.spoils for _, finding in self.all_findings())


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
    compared = _compared([replace(case, part=parts.get(case.identifier, LEFT_OUT)) for case in inspected])
    used = [case for case in compared if case.part != LEFT_OUT and not (skip_bad and case.bad)]
    return Check(tuple(compared), tuple(_of_all(used, dataset.label_set, has_teacher)), dataset.label_set, split)


def _inspected(
    case: Case,
    dataset: Dataset,
    thumbnails: bool,
    seen: Callable[[Case, Volume, Volume | None], None] | None,
) -> CheckedCase:
    annotated = "not" if not case.labelled else "in part" if case.partly_labelled else "whole"
    images, segmentation = files_of(case.reader)
    blank = CheckedCase(
        case.identifier, LEFT_OUT, annotated, patient=case.patient, images=images, segmentation=segmentation
    )
    try:
        volume = case.volume()
    except ReCoKDError as error:
        return replace(blank, findings=(Finding("unreadable", str(error)),))
    found = [Finding(p.kind, p.message) for p in image_problems(case, volume, len(dataset.channel_names))]
    constant = [str(number) for number, channel in enumerate(volume.array) if channel.min() == channel.max()]
    if constant:
        where = f"channel {', '.join(constant)}" if volume.channels > 1 else "the image"
        found.append(Finding("constant image", f"Every voxel of {where} has the same value."))
    labels = None
    try:
        labels = case.labels(volume)
    except ReCoKDError as error:
        found.append(Finding("unreadable", str(error)))
    if labels is not None:
        problems = label_problems(case, volume, labels, dataset.label_set)
        found += [Finding(p.kind, p.message) for p in problems]
        labels = None if problems else volume.with_array(relabelled(case, labels).array)
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


def _compared(cases: Sequence[CheckedCase]) -> list[CheckedCase]:
    """With what only the others show: leakage, duplicates, wild spacing and intensity."""
    more: dict[str, list[Finding]] = defaultdict(list)
    for name, finding in (*_same(cases), *_wild(cases)):
        more[name].append(finding)
    return [replace(case, findings=(*case.findings, *more[case.identifier])) for case in cases]


def _same(cases: Sequence[CheckedCase]) -> Iterable[tuple[str, Finding]]:
    """Cases with the same image, and patients on both sides of the split."""
    for key in ("checksum", "patient"):
        groups: dict[str, list[CheckedCase]] = defaultdict(list)
        for case in cases:
            if getattr(case, key) and case.part != LEFT_OUT:
                groups[getattr(case, key)].append(case)
        for members in groups.values():
            held_out = [case.identifier for case in members if case.part == VALIDATION]
            trained_on = [case.identifier for case in members if case.part == TRAINING]
            what = "Its image is also that of" if key == "checksum" else "Its patient is also that of"
            if held_out and trained_on:
                for name in trained_on:
                    yield (
                        name,
                        Finding(
                            "leakage",
                            f"{what} the held-out case {held_out[0]}: the figures would be too good. Keep both on one "
                            "side of the split.",
                        ),
                    )
            elif key == "checksum":
                for case in members[1:]:
                    message = f"{what} {members[0].identifier}. It counts twice."
                    yield case.identifier, Finding("duplicate", message, spoils=False)


def _wild(cases: Sequence[CheckedCase]) -> Iterable[tuple[str, Finding]]:
    readable = [case for case in cases if case.shape is not None and not case.bad]
    if len(readable) < _ENOUGH:
        return
    # In the order of size: which axis is which differs between orientations.
    spacings = np.log([sorted(case.spacing or (1, 1, 1)) for case in readable])
    for case, wild in zip(readable, _rare(_outliers(spacings, _SPACING_FACTOR)), strict=True):
        if wild:
            shown = " x ".join(f"{mm:.3g}" for mm in case.spacing or ())
            usual = " x ".join(f"{mm:.3g}" for mm in np.exp(np.median(spacings, 0)))
            message = f"Voxels of {shown} mm (k, j, i); half of the cases are about {usual} mm (smallest first)."
            yield case.identifier, Finding("spacing", message, spoils=False)
    channels = {len(case.intensities) for case in readable}
    if len(channels) != 1:
        return
    for channel in range(channels.pop()):
        values = np.array([case.intensities[channel] for case in readable])
        spread = np.log(np.maximum(values[:, 2] - values[:, 0], 1e-12))[:, None]
        usual_spread = float(np.exp(np.median(spread)))
        shifted = np.abs(values[:, :1] - np.median(values[:, 0])) > usual_spread / 2
        shifted &= _deviations(values[:, :1], usual_spread / 50) > _DEVIATIONS
        outlying = _rare(np.logical_or(_outliers(spread, _INTENSITY_FACTOR), shifted))
        low, middle, high = np.median(values, 0)
        for case, is_wild in zip(readable, outlying, strict=True):
            if is_wild:
                ours = case.intensities[channel]
                message = (
                    f"Channel {channel} from {ours[0]:.4g} to {ours[2]:.4g}, median {ours[1]:.4g}; of the cases in the "
                    f"middle from {low:.4g} to {high:.4g}, median {middle:.4g}."
                )
                yield case.identifier, Finding("intensity", message, spoils=False)


def _rare(outliers: npt.NDArray[np.bool_]) -> list[bool]:
    """Which cases of (case, n) are outliers in any respect; none where they are many."""
    wild = [bool(row.any()) for row in outliers]
    return wild if sum(wild) <= max(1, len(wild) // _RARE) else [False] * len(wild)


def _deviations(values: npt.NDArray[np.float64], least: float) -> npt.NDArray[np.float64]:
    """How many robust standard deviations each value (case, n) is off the median; ``least`` is their least size."""
    off = np.abs(values - np.median(values, 0))
    result: npt.NDArray[np.float64] = off / np.maximum(_MAD * np.median(off, 0), least)
    return result


def _outliers(logarithms: npt.NDArray[np.float64], factor: float) -> npt.NDArray[np.bool_]:
    """Which (case, n) are ``factor`` times more or less than the median, and far from it by the spread of the cases."""
    off = np.abs(logarithms - np.median(logarithms, 0))
    result: npt.NDArray[np.bool_] = (off > np.log(factor)) & (_deviations(logarithms, 1e-3) > _DEVIATIONS)
    return result


def _of_all(used: Sequence[CheckedCase], label_set: LabelSet, has_teacher: bool) -> Iterable[Finding]:
    """What is wrong with those cases together that would be used."""
    training = [case for case in used if case.part == TRAINING]
    if not used:
        yield Finding("empty dataset", "There is no case to train on. Give images with segmentations.")
        return
    if not training:
        yield Finding("no training", "There is no case to train on: all are held out. Give more cases, or a split.")
        return
    if len(used) == 1:
        yield Finding("one case", "There is only one case. At least one to train on and one to measure on are needed.")
    elif not any(case.part == VALIDATION for case in used):
        yield Finding(
            "no validation", "No case is held out: nothing will be measured. Give annotated cases for it.", spoils=False
        )
    alone = [case.identifier for case in training if case.annotated == "not"]
    if alone and not has_teacher:
        names = ", ".join(alone[:5]) + (", ..." if len(alone) > 5 else "")
        yield Finding(
            "no teacher",
            f"{len(alone)} of {len(training)} training cases have no segmentation ({names}): only a teacher can "
            "supervise them. Name one (--teacher), or leave them out (--unlabelled-weight 0).",
        )
    if not has_teacher and {case.annotated for case in training} == {"in part"}:
        yield Finding(
            "no background",
            "Every training case lacks the annotation of a class, so no case tells what is background. Add cases that "
            "are annotated in full, leave classes out (--labels), or name a teacher (--teacher).",
        )
    if not label_set.segments:
        yield Finding("no classes", "No source says what is to be segmented. Give annotated cases, or a teacher.")
    annotated = [case for case in training if case.voxels]
    absent = [s.name for s in label_set.segments if not any(case.voxels.get(s.name) for case in annotated)]
    if absent and (annotated or not has_teacher):
        yield Finding(
            "absent class",
            f"No training case has a voxel of {', '.join(absent)}. Leave it out (--labels), or add cases that have it.",
            spoils=not (has_teacher and len(annotated) < len(training)),
        )
