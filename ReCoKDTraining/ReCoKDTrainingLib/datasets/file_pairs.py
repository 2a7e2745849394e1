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
from .options import SourceOptions, channels_asked_for

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
    ...) beside it, or ``X.nii.gz`` in a folder ``labels`` (``masks``, ``labelsTr``) beside ``images``,
    or the only one beside the only image of a folder; any other is a case that cannot be read. The classes are
    the segments' or, of label maps, those that ``labels`` of a ``dataset.json`` in the folder names; values without a
    name are called ``label 1``, ``label 2``.

    Raises:
        DatasetError: No image is found, or a rule is none.
    """

    def __init__(self, folder: Path, options: SourceOptions | None = None) -> None:
        self.folder = Path(folder)
        options = options or SourceOptions()
        found = self._found(options)
        if not any(files.images for files in found.values()):
            rule = f" that the rule {options.image_rule!r} fits. Correct the rule."
            more = rule if options.image_rule else f". {WHAT_TO_GIVE}"
            raise DatasetError(f"{folder} holds no images ({', '.join(IMAGE_SUFFIXES)}){more}")
        synonyms = read_synonyms(options.synonyms)
        segments = {files.label: _segments(files.label) for files in found.values() if _is_segmentation(files.label)}
        label_set = self._label_set(found, segments, synonyms)
        named = (self.folder / "dataset.json").is_file()
        cases = [self._case(name, files, segments, label_set, synonyms, named) for name, files in sorted(found.items())]
        count = max((len(files.images) for files in found.values() if not files.problem), default=0)
        name = self.folder.resolve().name
        super().__init__(name, channels_asked_for(options, count), label_set, cases)

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
        named: bool,
    ) -> Case:
        reader: CaseReader
        missing: tuple[str, ...] = ()
        unnamed = bool(segments) and not named
        if files.problem:
            reader = BrokenReader(files.problem)
        elif unnamed and files.label is not None and not _is_segmentation(files.label):
            reader = BrokenReader(
                f"{files.label.name} is a label map beside segmentations (.seg.nrrd) of other cases, and nothing says "
                "what its numbers mean. Name them under 'labels' in a dataset.json in the folder."
            )
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
    for case in labels.keys() - images.keys():
        found[case] = _Files((), labels[case], _without_image(labels[case]))
    return found


def _by_habit(folder: Path, files: list[Path]) -> dict[str, _Files]:
    labels: dict[tuple[str, str], Path] = {}
    images: list[Path] = []
    for path in files:
        place, stem = path.parent.relative_to(folder), _stem(path)
        word = re.split(r"[^a-z]+", stem.lower())[-1]
        if _is_segmentation(path) or word in LABEL_WORDS:
            shorter = re.sub(r"[^A-Za-z0-9]*[A-Za-z]+$", "", stem) if word in LABEL_WORDS else stem
            labels[_common(place), shorter or stem] = path
        elif place.name.lower() in LABEL_FOLDERS:
            labels[_common(place), stem] = path
        else:
            images.append(path)
    groups = _with_channels(folder, images, labels)
    pairs: dict[tuple[str, str], Path | None] = {}
    for (common, stem), paths in groups.items():
        pairs[common, stem] = labels.get((common, stem))
        if len(paths) == 1 and pairs[common, stem] is None:  # CASE_0000 alone, whose labels keep the number
            pairs[common, stem] = labels.get((common, _stem(paths[0])))
    left = [path for path in labels.values() if path not in pairs.values()]
    for key, paths in groups.items():  # the only segmentation beside the only image of a folder
        place = paths[0].parent
        beside = [path for path in left if path.parent == place]
        if pairs[key] is None and len(beside) == 1 and sum(p.parent == place for p in images) == len(paths):
            pairs[key] = beside[0]
    found: dict[str, _Files] = {}
    for (common, stem), paths in groups.items():
        _add(found, common, stem, _Files(tuple(sorted(paths)), pairs[common, stem]))
    for (common, stem), path in labels.items():
        if path not in pairs.values():
            _add(found, common, stem, _Files((), path, _without_image(path)))
    return found


def _with_channels(
    folder: Path, images: list[Path], labels: Mapping[tuple[str, str], Path]
) -> dict[tuple[str, str], list[Path]]:
    """The images of each case: CASE_0000, CASE_0001, ... are its channels where none is left out or has a label."""
    single: dict[tuple[str, str], list[Path]] = defaultdict(list)
    numbered: dict[tuple[str, str], dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in images:
        common, match = _common(path.parent.relative_to(folder)), _CHANNEL.fullmatch(_stem(path))
        if match:
            numbered[common, match[1]][int(match[2])].append(path)
        else:
            single[common, _stem(path)].append(path)
    for (common, stem), channels in numbered.items():
        paths = [path for number in sorted(channels) for path in channels[number]]
        complete = sorted(channels) == list(range(len(paths))) and (common, stem) not in single
        if complete and (len(paths) == 1 or not any((common, _stem(path)) in labels for path in paths)):
            single[common, stem] = paths
        else:
            for path in paths:
                single[common, _stem(path)].append(path)
    return single


def _without_image(label: Path) -> str:
    """What to say of a segmentation that no image was found for."""
    return f"{label.name} has no image. Add the image, name both alike, or say which belong together (--image-rule)."


def _stem(path: Path) -> str:
    return path.name[: -len(full_suffix(path))]


def _add(found: dict[str, _Files], common: str, stem: str, files: _Files) -> None:
    found[next(name for name in _names(common, stem) if name not in found)] = files


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
