"""A folder of images with their segmentations, paired by the files' names."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ReCoKDLib.batch.cases import IMAGE_SUFFIXES, LABEL_FOLDERS, LABEL_WORDS
from ReCoKDLib.errors import DatasetError, InputError
from ReCoKDLib.files import full_suffix
from ReCoKDLib.image_io import read_header, read_volume
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.segment_matching import FoundSegment, Synonyms, classes_of, matched, read_synonyms
from ReCoKDLib.terminology import with_terminology
from ReCoKDLib.volume import Volume, stack_channels

from .case import BrokenReader, Case, CaseReader, FileReader, files_checksum
from .dataset import Dataset
from .nnunet_raw import read_description
from .options import SourceOptions

WHAT_TO_GIVE = (
    "Give a folder with a dataset.json (nnU-Net, Decathlon), scenes (.mrb, .mrml), images and segmentations, or DICOM."
)
SEGMENTATIONS = (".seg.nrrd", ".seg.nhdr")
_IMAGE_WORDS = {"image", "images", "img", "imgs", "volume", "volumes", "scan", "scans", "imagestr", "imagests"}
_CHANNEL = re.compile(r"(.+)_(\d{4})")


@dataclass(frozen=True)
class SegmentationReader:
    """Image files with a segmentation of Slicer's, which is resampled to the image where its grid is another.

    Attributes:
        images: One file for each channel.
        segmentation: A ``.seg.nrrd`` file.
        values: Segment ids with their values in the label map.
    """

    images: tuple[Path, ...]
    segmentation: Path
    values: tuple[tuple[str, int], ...]

    @property
    def labelled(self) -> bool:
        """Whether any of its segments is a class."""
        return bool(self.values)

    def volume(self) -> Volume:
        """All channels as one volume."""
        return stack_channels([read_volume(path) for path in self.images])

    def labels(self, volume: Volume) -> Volume | None:
        """The segments that are classes, on the image's grid."""
        from ReCoKDLib.mrml.scene_files import read_segmentation

        return read_segmentation(self.segmentation, dict(self.values), volume) if self.values else None

    def content(self) -> str:
        """Over the files' contents."""
        return files_checksum((*self.images, self.segmentation))


@dataclass(frozen=True)
class _Files:
    """What belongs to one case."""

    images: tuple[Path, ...]
    label: Path | None
    problem: str = ""


class FilePairsDataset(Dataset):
    """Images and segmentations in a folder and those below it; images without one are unlabelled cases.

    Without rules, the segmentation of ``X.nii.gz`` is ``X.seg.nrrd``, ``X_seg.nii.gz`` (or ``-label``, ``_mask``,
    ...) beside it, or ``X.nii.gz`` in a folder ``labels`` (``masks``, ``labelsTr``) beside ``images``. The classes are
    the segments' or, of label maps, those that ``labels`` of a ``dataset.json`` in the folder names; values without a
    name are called ``label 1``, ``label 2``.

    Raises:
        DatasetError: No image is found, or a rule is none.
    """

    def __init__(self, folder: Path, options: SourceOptions | None = None) -> None:
        self.folder = Path(folder)
        options = options or SourceOptions()
        found = self._found(options)
        if not found:
            rule = f" that the rule {options.image_rule!r} fits. Correct the rule."
            more = rule if options.image_rule else f". {WHAT_TO_GIVE}"
            raise DatasetError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}){more}")
        synonyms = read_synonyms(options.synonyms)
        segments = {files.label: _segments(files.label) for files in found.values() if _is_segmentation(files.label)}
        label_set = self._label_set(found, segments, synonyms)
        cases = [self._case(name, files, segments, label_set, synonyms) for name, files in sorted(found.items())]
        count = max((len(files.images) for files in found.values()), default=1)
        channels = options.channels if len(options.channels) == count else ("",) * count
        super().__init__(self.folder.resolve().name, channels, label_set, cases)

    def _found(self, options: SourceOptions) -> dict[str, _Files]:
        files = [
            path
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
            and full_suffix(path).lower() in (*IMAGE_SUFFIXES, *SEGMENTATIONS)
            and not any(part.startswith(".") for part in path.relative_to(self.folder).parts)
        ]
        if options.image_rule:
            return _by_rule(self.folder, files, options)
        if options.label_rule:
            raise DatasetError("A rule for labels needs one for images. Give --image-rule as well.")
        return _by_habit(self.folder, files)

    def _label_set(
        self,
        found: Mapping[str, _Files],
        segments: Mapping[Path | None, tuple[FoundSegment, ...] | None],
        synonyms: Synonyms,
    ) -> LabelSet:
        named = None
        if (self.folder / "dataset.json").is_file():
            named = LabelSet.from_dataset_json(read_description(self.folder / "dataset.json"))
            return with_terminology(named, self.folder.resolve().name)
        if segments:
            return classes_of([known for known in segments.values() if known], synonyms)
        values: set[int] = set()
        for files in found.values():
            if files.label is not None:
                values |= _values(files.label)
        names = ((value, f"label {value}") for value in range(1, max(values, default=0) + 1))
        return (
            LabelSet.from_dataset_json({"labels": {"background": 0, **{name: value for value, name in names}}})
            if (values - {0})
            else LabelSet(())
        )

    @staticmethod
    def _case(
        name: str,
        files: _Files,
        segments: Mapping[Path | None, tuple[FoundSegment, ...] | None],
        label_set: LabelSet,
        synonyms: Synonyms,
    ) -> Case:
        reader: CaseReader
        missing: tuple[str, ...] = ()
        if files.problem:
            reader = BrokenReader(files.problem)
        elif files.label is None or not _is_segmentation(files.label):
            reader = FileReader(files.images, files.label)
        else:
            known = segments[files.label]
            if known is None:
                reader = BrokenReader(f"{files.label} could not be read as a segmentation. Get the file again.")
            else:
                values, missing = matched(known, label_set, synonyms)
                reader = SegmentationReader(files.images, files.label, values)
        return Case(name, reader, label_set, missing=missing)


def files_of(reader: CaseReader) -> tuple[tuple[Path, ...], Path | None]:
    """The image files of a case and the file of its annotation; none where it has no files of its own."""
    if isinstance(reader, SegmentationReader):
        return reader.images, reader.segmentation
    if isinstance(reader, FileReader):
        return reader.images, reader.label
    return (), None


def _is_segmentation(path: Path | None) -> bool:
    return path is not None and path.name.lower().endswith(SEGMENTATIONS)


def _segments(path: Path | None) -> tuple[FoundSegment, ...] | None:
    """From the header of a ``.seg.nrrd`` file; None where it cannot be read."""
    assert path is not None
    try:
        header = read_header(path)
    except InputError:
        return None
    found = []
    for number in range(len(header)):
        if f"Segment{number}_ID" not in header:
            break
        entry = re.search(r"TerminologyEntry:([^|]*)", header.get(f"Segment{number}_Tags", ""))
        red, green, blue = (float(part) for part in header.get(f"Segment{number}_Color", "1 0.6 0").split()[:3])
        key = header[f"Segment{number}_ID"]
        name = header.get(f"Segment{number}_Name", key)
        found.append(FoundSegment(key, name, entry[1] if entry else "", (red, green, blue)))
    return tuple(found)


def _values(path: Path) -> set[int]:
    """Whole numbers in a label map; what else is wrong with it is told when it is loaded."""
    try:
        return {int(value) for value in np.unique(read_volume(path).array) if value == int(value) and value >= 0}
    except InputError:
        return set()


def _rule(rule: str) -> re.Pattern[str]:
    if "{case}" not in rule:
        raise DatasetError(f"The rule {rule!r} does not say where the case's name stands. Write it as {{case}}.nii.gz.")
    parts = re.split(r"(\{case\}|\{channel\})", rule.replace("\\", "/"))
    seen: set[str] = set()
    pattern = ""
    for part in parts:
        if part in ("{case}", "{channel}"):
            name = part[1:-1]
            # A case may be in a folder of its own; {case} in two places is the same name twice.
            pattern += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
            seen.add(name)
        else:
            pattern += re.escape(part)
    return re.compile(pattern)


def _by_rule(folder: Path, files: list[Path], options: SourceOptions) -> dict[str, _Files]:
    images: dict[str, dict[str, Path]] = defaultdict(dict)
    labels: dict[str, Path] = {}
    image_rule = _rule(options.image_rule)
    label_rule = _rule(options.label_rule) if options.label_rule else None
    for path in files:
        place = path.relative_to(folder).as_posix()
        if label_rule is not None and (match := label_rule.fullmatch(place)):
            labels[match["case"]] = path
        elif match := image_rule.fullmatch(place):
            images[match["case"]][match.groupdict().get("channel", "")] = path
    order = options.channels if "{channel}" in options.image_rule else ()
    found = {}
    for case, channels in images.items():
        names = list(order) or sorted(channels)
        lacking = [name for name in names if name not in channels]
        problem = f"The channel {lacking[0]!r} of the case {case} is missing. Add the file." if lacking else ""
        chosen = tuple(channels[name] for name in names if name in channels)
        found[case] = _Files(chosen, labels.get(case), problem)
    return found


def _by_habit(folder: Path, files: list[Path]) -> dict[str, _Files]:
    labels: dict[tuple[str, str], Path] = {}
    images: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path in files:
        place, stem = path.parent.relative_to(folder), path.name[: -len(full_suffix(path))]
        word = re.split(r"[^a-z]+", stem.lower())[-1]
        if _is_segmentation(path) or (word in LABEL_WORDS and len(stem) > len(word)):
            shorter = re.sub(r"[^A-Za-z0-9]*[A-Za-z]+$", "", stem) if word in LABEL_WORDS else stem
            labels[_common(place), shorter or stem] = path
        elif place.name.lower() in LABEL_FOLDERS:
            labels[_common(place), stem] = path
        else:
            match = _CHANNEL.fullmatch(stem)
            images[_common(place), match[1] if match else stem].append(path)
    found: dict[str, _Files] = {}
    for (common, stem), paths in images.items():
        label = labels.get((common, stem))
        if len(paths) == 1 and label is None:  # CASE_0000 without further channels, whose labels keep the number
            whole = paths[0].name[: -len(full_suffix(paths[0]))]
            label = labels.get((common, whole))
        for name in _names(common, stem):
            if name not in found:
                found[name] = _Files(tuple(sorted(paths)), label)
                break
    return found


def _common(place: Path) -> str:
    """A folder without its last part, where that says "images" or "labels" only."""
    return (place.parent if place.name.lower() in LABEL_FOLDERS | _IMAGE_WORDS else place).as_posix()


def _names(place: str, stem: str) -> Iterator[str]:
    """Names for a case, the shortest first; with its folders where another one has that."""
    yield stem
    whole = "_".join((*(part for part in place.split("/") if part != "."), stem))
    yield whole
    number = 2
    while True:
        yield f"{whole}_{number}"
        number += 1
