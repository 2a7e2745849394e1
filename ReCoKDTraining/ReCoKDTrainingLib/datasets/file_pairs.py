"""A folder of images with their segmentations, paired by the files' names."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ReCoKDLib.annotation import Annotation
from ReCoKDLib.batch.cases import IMAGE_SUFFIXES
from ReCoKDLib.errors import DatasetError, InputError
from ReCoKDLib.files import full_suffix
from ReCoKDLib.image_io import read_header, read_volume
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.segment_matching import FoundSegment, Synonyms, classes_of, lacking, matched, read_synonyms, renamed
from ReCoKDLib.terminology import with_terminology
from ReCoKDLib.volume import Volume, stack_channels

from ..class_matching import relabelling
from .case import BrokenReader, Case, CaseReader, FileReader, Place, files_checksum
from .dataset import Dataset
from .file_names import SEGMENTATIONS, CaseFiles, is_segmentation, paired_by_habit, paired_by_rule
from .nnunet_raw import read_description
from .options import SourceOptions, channels_asked_for

# More classes than any atlas of label maps in use; images have thousands of values.
_MOST_UNNAMED = 256

WHAT_TO_GIVE = (
    "Give a folder with a dataset.json (nnU-Net, Decathlon), scenes (.mrb, .mrml), images and segmentations, or DICOM."
)


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

    @property
    def place(self) -> Place:
        """Its files."""
        return Place(self.images, self.segmentation)

    def annotation(self, volume: Volume, wanted: Collection[int] | None = None) -> Annotation | None:
        """The segments that are classes, on the image's grid."""
        from ReCoKDLib.mrml.scene_files import read_segmentation

        if not self.values:
            return None
        values = [(key, value) for key, value in self.values if wanted is None or value in wanted]
        return read_segmentation(self.segmentation, values, volume)

    def content(self, wanted: Collection[int] | None = None) -> str:
        """Over the files' contents, and which segments are which classes."""
        return files_checksum((*self.images, self.segmentation), self.values)


class FilePairsDataset(Dataset):
    """Images and segmentations in a folder and those below it; images without one are unlabelled cases.

    Without rules, the segmentation of ``X.nii.gz`` is ``X.seg.nrrd``, ``X_seg.nii.gz`` (or ``-label``, ``_mask``,
    ...) beside it, or ``X.nii.gz`` in a folder ``labels`` (``masks``, ``labelsTr``) beside ``images``,
    or the only one beside the only image of a folder; any other is a case that cannot be read. The classes are
    the segments' or, of label maps, those that ``labels`` of a ``dataset.json`` in the folder names; values without a
    name are called ``label 1``, ``label 255``. Values in files may have gaps; those that are learned have none.

    Raises:
        DatasetError: No image is found, a rule is none, or label maps hold too many values without names.
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
        segments = {files.label: _segments(files.label) for files in found.values() if is_segmentation(files.label)}
        label_set = renamed(self._label_set(found, segments, synonyms), synonyms)
        label_set = with_terminology(label_set, self.folder.resolve().name)
        named = (self.folder / "dataset.json").is_file()
        cases = [self._case(name, files, segments, label_set, synonyms, named) for name, files in sorted(found.items())]
        counts = [len(files.images) for files in found.values() if not files.problem]
        name = self.folder.resolve().name
        learned = _without_gaps(label_set)
        if learned != label_set:
            cases = [replace(case, relabelling=relabelling(label_set, learned, case.missing)) for case in cases]
        super().__init__(name, channels_asked_for(options, counts), learned, cases, synonyms=synonyms)

    def _found(self, options: SourceOptions) -> dict[str, CaseFiles]:
        files = [
            path
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
            and full_suffix(path).lower() in (*IMAGE_SUFFIXES, *SEGMENTATIONS)
            and not any(part.startswith(".") for part in path.relative_to(self.folder).parts)
        ]
        if options.image_rule:
            return paired_by_rule(self.folder, files, options)
        if options.label_rule:
            raise DatasetError("A rule for labels needs one for images. Give --image-rule as well.")
        return paired_by_habit(self.folder, files)

    def _label_set(
        self,
        found: Mapping[str, CaseFiles],
        segments: Mapping[Path | None, tuple[FoundSegment, ...] | None],
        synonyms: Synonyms,
    ) -> LabelSet:
        if (self.folder / "dataset.json").is_file():
            return _named(read_description(self.folder / "dataset.json"))
        if segments:
            return classes_of([known for known in segments.values() if known], synonyms)
        values: set[int] = set()
        for files in found.values():
            if files.label is not None:
                values |= _values(files.label)
        values -= {0}
        if len(values) > _MOST_UNNAMED:
            raise DatasetError(
                f"The label maps in {self.folder} hold {len(values)} values that nothing names, as images do. Name the "
                "classes under 'labels' in a dataset.json in the folder, or say which files are label maps "
                "(--image-rule, --label-rule)."
            )
        return _of_values({f"label {value}": value for value in sorted(values)})

    @staticmethod
    def _case(
        name: str,
        files: CaseFiles,
        segments: Mapping[Path | None, tuple[FoundSegment, ...] | None],
        label_set: LabelSet,
        synonyms: Synonyms,
        named: bool,
    ) -> Case:
        reader: CaseReader
        missing: tuple[str, ...] = ()
        place = Place(files.images, files.label)
        unnamed = bool(segments) and not named
        if files.problem:
            reader = BrokenReader(files.problem, place=place)
        elif unnamed and files.label is not None and not is_segmentation(files.label):
            reader = BrokenReader(
                f"{files.label.name} is a label map beside segmentations (.seg.nrrd) of other cases, and nothing says "
                "what its numbers mean. Name them under 'labels' in a dataset.json in the folder.",
                place=place,
            )
        elif files.label is None or not is_segmentation(files.label):
            reader = FileReader(files.images, files.label)
        else:
            known = segments[files.label]
            if known is None:
                problem = f"{files.label} could not be read as a segmentation. Get the file again."
                reader = BrokenReader(problem, place=place)
            else:
                values = matched(known, label_set, synonyms)
                missing = lacking(label_set, [values])
                reader = SegmentationReader(files.images, files.label, values)
        return Case(name, reader, label_set, missing=missing)


def _named(description: Mapping[str, Any]) -> LabelSet:
    """The labels of a ``dataset.json``; unlike nnU-Net's, those without regions may have gaps."""
    given = description.get("labels")
    labels = dict(given) if isinstance(given, Mapping) else {}
    values = [value for name, value in labels.items() if name != "background"]
    plain = labels.get("background") == 0 and "ignore" not in labels
    plain = plain and all(isinstance(value, int) and value > 0 for value in values) and len({*values}) == len(values)
    if not plain or not values:
        return LabelSet.from_dataset_json(description)
    return _of_values({name: value for name, value in labels.items() if name != "background"})


def _of_values(values: Mapping[str, int]) -> LabelSet:
    """Classes by their names, in the order of their values, which may have gaps."""
    if not values:
        return LabelSet(())
    names = sorted(values, key=lambda name: values[name])
    numbered = LabelSet.from_dataset_json({"labels": {"background": 0, **{n: i for i, n in enumerate(names, 1)}}})
    segments = (replace(s, value=values[s.name], region=(values[s.name],)) for s in numbered.segments)
    return replace(numbered, segments=tuple(segments))


def _without_gaps(label_set: LabelSet) -> LabelSet:
    """The classes numbered from 1; regions stay as they are."""
    if label_set.has_regions or label_set.ignore_label is not None:
        return label_set
    numbered = (replace(s, value=number, region=(number,)) for number, s in enumerate(label_set.segments, 1))
    return replace(label_set, segments=tuple(numbered))


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
