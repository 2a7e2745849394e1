"""DICOM: image series with DICOM Segmentations (SEG) that refer to them (highdicom)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ReCoKDLib.annotation import Annotation, AnnotationBuilder
from ReCoKDLib.dicom_seg import is_dicom, require_highdicom
from ReCoKDLib.errors import DatasetError, InputError
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.mrml.scene_cases import patient_hash
from ReCoKDLib.segment_matching import FoundSegment, classes_of, lacking, matched, read_synonyms
from ReCoKDLib.volume import Volume, stack_channels

from .case import BrokenReader, Case, CaseReader, Place, files_checksum, without_path
from .dataset import Dataset
from .options import SourceOptions

# By DICOM's modality the name that decides the normalisation.
CHANNEL_NAMES = {"CT": "CT", "MR": "MRI", "PT": "PET"}
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Series:
    """An image series.

    Attributes:
        folder: Where its files lie.
        uid: Its Series Instance UID.
        files: Its files.
    """

    folder: Path
    uid: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class DicomReader:
    """Image series, one for each channel, and segmentations of the first.

    Attributes:
        series: One for each channel.
        segmentations: DICOM SEG files.
        values: For each file the numbers of its segments with their values in the label map.
    """

    series: tuple[Series, ...]
    segmentations: tuple[Path, ...]
    values: tuple[tuple[tuple[str, int], ...], ...]

    @property
    def labelled(self) -> bool:
        """Whether any of its segments is a class."""
        return any(self.values)

    def volume(self) -> Volume:
        """All channels as one volume."""
        try:
            read = [read_volume(series.folder, series.uid) for series in self.series]
            return stack_channels([replace(volume, name=f"channel {n}") for n, volume in enumerate(read)])
        except InputError as error:  # folders and files of DICOM may be named after patients
            told = str(error)
            for series in self.series:
                for path in (*series.files, series.folder):
                    told = without_path(told, path, "of the case")
            raise InputError(told.replace("in of the case", "of the case")) from None

    @property
    def place(self) -> Place:
        """The folders and files of its series and segmentations."""
        return Place(inside=", ".join(map(str, (*(series.folder for series in self.series), *self.segmentations))))

    def annotation(self, volume: Volume, wanted: Collection[int] | None = None) -> Annotation | None:
        """The segments that are classes, on the volume's grid (nearest neighbour); later ones win."""
        if not self.labelled:
            return None
        builder = AnnotationBuilder(volume, max(value for values in self.values for _, value in values))
        for path, values in zip(self.segmentations, self.values, strict=True):
            for segment, value in _masks(path, [(k, v) for k, v in values if wanted is None or v in wanted]):
                builder.put(value * nearest(segment, volume).astype(np.uint16))
                builder.compare(value * segment.array[0].astype(np.uint16), segment.ijk_to_ras)
        return builder.annotation()

    def content(self, wanted: Collection[int] | None = None) -> str:
        """Over the files' contents, and which segments are which classes."""
        files = [file for series in self.series for file in series.files]
        return files_checksum((*files, *self.segmentations), self.values)


@dataclass
class _Found:
    """What the headers below a folder say."""

    series: dict[str, list[Path]]
    headers: dict[str, Any]
    segmentations: dict[str, list[Path]]
    segments: dict[Path, tuple[FoundSegment, ...]]


class DicomDataset(Dataset):
    """Image series below a folder, with the SEG objects that refer to them; series without one are unlabelled cases.

    Cases are named by their series' UID, shortened to a hash: folders and descriptions of DICOM may hold names. With
    several channels (``--channels CT,PT`` or words of the series' descriptions) a case is a study.

    Raises:
        DatasetError: There is no image series.
        MissingDependencyError: highdicom is not installed.
    """

    def __init__(self, folder: Path, options: SourceOptions | None = None) -> None:
        require_highdicom()
        options = options or SourceOptions()
        found = _read_headers(folder)
        if not found.series:
            raise DatasetError(f"{folder} holds no DICOM series of images. Give the folder that does.")
        synonyms = read_synonyms(options.synonyms)
        label_set = classes_of(found.segments.values(), synonyms)
        cases = []
        for uids, problem in _channels(found, options.channels):
            first = found.headers[uids[0]]
            identifier = f"series_{patient_hash(uids[0])}"
            patient = str(first.get("PatientID", "") or "")
            files = tuple(path for uid in uids for path in found.segmentations.get(uid, ()))
            values = tuple(matched(found.segments[path], label_set, synonyms) for path in files)
            series = tuple(_series(uid, found.series[uid]) for uid in uids)
            reader: CaseReader = DicomReader(series, files, values)
            if problem:
                reader = BrokenReader(problem, bool(files), reader.place)
            elif any(len({path.parent for path in found.series[uid]}) > 1 for uid in uids):
                problem = "Its slices lie in several folders. Put each series into one folder."
                reader = BrokenReader(problem, bool(files), reader.place)
            cases.append(
                Case(
                    identifier,
                    reader,
                    label_set,
                    missing=lacking(label_set, values),
                    patient=patient_hash(patient) if patient else "",
                )
            )
        modality = str(found.headers[next(iter(found.series))].get("Modality", ""))
        names = options.channels or (CHANNEL_NAMES.get(modality, ""),)
        names = tuple(CHANNEL_NAMES.get(name.upper(), name) for name in names)
        # Folders may be named after patients; the name goes into the model and its report.
        in_order = sorted(cases, key=lambda case: case.identifier)
        super().__init__("dicom", names, label_set, in_order, synonyms=synonyms)


def has_dicom(folder: Path) -> bool:
    """Whether any file below a folder is DICOM."""
    return any(path.is_file() and is_dicom(path) for path in sorted(folder.rglob("*")))


def _series(uid: str, files: list[Path]) -> Series:
    return Series(files[0].parent, uid, tuple(files))


def _read_headers(folder: Path) -> _Found:
    import highdicom
    import pydicom

    found = _Found(defaultdict(list), {}, defaultdict(list), {})
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or not is_dicom(path):
            continue
        try:
            header = pydicom.dcmread(path, stop_before_pixels=True)
        except (OSError, pydicom.errors.InvalidDicomError):
            continue
        modality, uid = str(header.get("Modality", "")), str(header.get("SeriesInstanceUID", ""))
        if modality == "SEG":
            referenced = header.get("ReferencedSeriesSequence") or []
            found.segments[path] = tuple(_segment(item) for item in header.get("SegmentSequence", []))
            for item in referenced:
                found.segmentations[str(item.SeriesInstanceUID)].append(path)
        elif uid and "Rows" in header and modality not in ("RTDOSE", "SR", "PR"):
            found.series[uid].append(path)
            found.headers.setdefault(uid, header)
    assert highdicom is not None
    return found


def _segment(item: Any) -> FoundSegment:
    """A segment of a SEG object; its codes as Slicer writes them."""

    def code(sequence: Any) -> str:
        if not sequence:
            return "^^"
        first = sequence[0]
        return f"{first.CodingSchemeDesignator}^{first.CodeValue}^{first.CodeMeaning}"

    kind = item.get("SegmentedPropertyTypeCodeSequence")
    modifier = kind[0].get("SegmentedPropertyTypeModifierCodeSequence") if kind else None
    category = code(item.get("SegmentedPropertyCategoryCodeSequence"))
    region = item.get("AnatomicRegionSequence")
    region_modifier = region[0].get("AnatomicRegionModifierSequence") if region else None
    entry = f"DICOM~{category}~{code(kind)}~{code(modifier)}~DICOM~{code(region)}~{code(region_modifier)}"
    return FoundSegment(str(item.SegmentNumber), str(item.get("SegmentLabel", "") or item.SegmentNumber), entry)


def _channels(found: _Found, names: tuple[str, ...]) -> list[tuple[tuple[str, ...], str]]:
    """The series of each case by channel, or with what is wrong."""
    if len(names) < 2:
        return [((uid,), "") for uid in found.series]
    studies: dict[str, list[str]] = defaultdict(list)
    for uid, header in found.headers.items():
        studies[str(header.get("StudyInstanceUID", ""))].append(uid)
    cases = []
    for members in studies.values():
        chosen, problem = [], ""
        for name in names:
            told = [
                uid
                for uid in members
                if str(found.headers[uid].get("Modality", "")).upper() == name.upper()
                or name.casefold() in str(found.headers[uid].get("SeriesDescription", "")).casefold()
            ]
            if len(told) != 1:
                problem = f"{len(told)} of the {len(members)} series of its study are the channel {name!r}."
                break
            chosen.append(told[0])
        cases.append((tuple(chosen) if not problem else (members[0],), problem))
    return cases


def _masks(path: Path, values: Sequence[tuple[str, int]]) -> Iterator[tuple[Volume, int]]:
    """Segments of a SEG object on its own grid, with their values; one at a time, as each is a whole volume.

    Of fractional segments what is at least half occupied or probable.
    """
    import highdicom

    try:
        segmentation = highdicom.seg.segread(path)
        for key, value in values:
            volume = segmentation.get_volume(
                segment_numbers=[int(key)], combine_segments=False, skip_overlap_checks=True
            )
            # highdicom's axes (slice, row, column) are (k, j, i); its affine leads from them to LPS mm.
            lps = np.asarray(volume.affine, dtype=np.float64)[:, [2, 1, 0, 3]]
            mask = (np.asarray(volume.array)[None, ..., 0] >= 0.5).astype(np.uint8)
            yield Volume(mask, _LPS_TO_RAS @ lps), value
    except (OSError, ValueError, AttributeError, KeyError, RuntimeError) as error:
        told = without_path(str(error), path, "the file")
        raise InputError(f"A DICOM SEG could not be read ({told}). Get the file again.") from error


def nearest(labels: Volume, reference: Volume) -> npt.NDArray[Any]:
    """(k, j, i): a label map on another volume's grid (nearest neighbour), 0 outside of its own."""
    from scipy.ndimage import affine_transform

    way = np.linalg.inv(labels.ijk_to_ras) @ reference.ijk_to_ras
    turned = way[:3, :3][::-1, ::-1]
    moved: npt.NDArray[Any] = affine_transform(
        labels.array[0], turned, way[:3, 3][::-1], reference.shape, order=0, mode="grid-constant"
    )
    return moved
