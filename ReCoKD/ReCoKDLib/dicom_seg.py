"""A label map as a DICOM Segmentation that refers to the series it was made from (highdicom, DICOM PS3.3 A.51).

Segments are coded by their terminology entry. One without an entry gets the category and type "Tissue"
(SCT 85756007), which is also Slicer's choice for a segment that nobody coded: DICOM demands a code, this one claims
nothing, and the name stands in the Segment Label.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import __version__
from .errors import InputError, MissingDependencyError
from .files import atomic_file
from .image_io import label_array
from .labels import LabelSet, Segment
from .table import segment_mask
from .volume import Volume

TISSUE = ("SCT", "85756007", "Tissue")

# What a series must have even if empty (DICOM type 2); tools that remove names tend to remove these altogether.
_TYPE_2 = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_ON_GRID = 0.1  # of a voxel
_SERIES_NUMBER = 300


def require_highdicom() -> None:
    """Check that DICOM SEG can be written here.

    Raises:
        MissingDependencyError: highdicom is not installed.
    """
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            'highdicom, which writes DICOM SEG, is not installed. Install it (pip install "recokd[dicom]"), or choose '
            "another format, such as .seg.nrrd or .nii.gz."
        ) from error


def is_dicom(path: Path) -> bool:
    """Whether a file says that it is DICOM: "DICM" after the preamble of 128 bytes."""
    try:
        with path.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def write_dicom_seg(
    labels: Volume,
    label_set: LabelSet,
    source: Sequence[Path],
    path: Path,
    algorithm: str,
    algorithm_version: str,
    overwrite: bool = False,
) -> None:
    """Write a binary DICOM SEG, whole or not at all. Patient and study are those of the source, as DICOM demands.

    Args:
        labels: One-channel label map, with a slice for each of the source's.
        label_set: Segments to write, in this order.
        source: Files of the series that was segmented: one for each slice, or one with all.
        path: A file ending in ``.dcm``.
        algorithm: Name of the student.
        algorithm_version: Its version.
        overwrite: Replace an existing file.

    Raises:
        InputError: The source is not the series of this label map, or lacks what DICOM demands.
        OutputError: The file exists and ``overwrite`` is False, or cannot be written.
        MissingDependencyError: highdicom is not installed.
    """
    require_highdicom()
    import highdicom
    import pydicom

    try:
        images = [pydicom.dcmread(file) for file in source]
    except (OSError, pydicom.errors.InvalidDicomError) as error:
        raise InputError(f"The DICOM series of the segmentation could not be read again ({error}).") from error
    k, j, i = labels.spacing
    for image in images:
        for keyword in _TYPE_2:
            if keyword not in image:
                setattr(image, keyword, None)
        if not image.get("SliceThickness"):  # highdicom reads it, though the measures below are what it writes
            image.SliceThickness = k
    slices = _slices_of_frames(images, labels)
    frames = _frames(labels.array[0][slices], label_set)
    measures = highdicom.PixelMeasuresSequence((j, i), float(images[0].SliceThickness), k)
    with atomic_file(path, overwrite) as temporary:
        try:
            segmentation = highdicom.seg.Segmentation(
                source_images=images,
                pixel_array=frames,
                segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
                segment_descriptions=[
                    _description(number, segment, algorithm, algorithm_version)
                    for number, segment in enumerate(label_set.segments, 1)
                ],
                series_instance_uid=highdicom.UID(),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=highdicom.UID(),
                instance_number=1,
                manufacturer="ReCoKD",
                manufacturer_model_name=algorithm,
                software_versions=__version__,
                device_serial_number="0",
                series_description=f"Segmentation by {algorithm}"[:64],
                content_description="Research use only",
                content_label="SEGMENTATION",
                pixel_measures=measures,
                omit_empty_frames=bool(frames.any()),
            )
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(
                f"The DICOM series lacks something that a DICOM SEG of it needs ({error}). Choose another format, such "
                "as .seg.nrrd."
            ) from error
        segmentation.save_as(temporary)


def _frames(array: npt.NDArray[Any], label_set: LabelSet) -> npt.NDArray[Any]:
    """(frame, j, i) of the segments' numbers; of regions, which overlap, (frame, j, i, segment) of zeros and ones."""
    if label_set.has_regions:
        masks = [segment_mask(array, segment) for segment in label_set.segments]
        return np.stack(masks, axis=-1).astype(np.uint8)
    numbers = np.zeros(int(array.max(initial=0)) + 1, dtype=np.uint16)
    for number, segment in enumerate(label_set.segments, 1):
        if segment.value < len(numbers):
            numbers[segment.value] = number
    return label_array(numbers[array])


def _description(number: int, segment: Segment, algorithm: str, version: str) -> Any:
    import highdicom
    from highdicom.sr import CodedConcept
    from pydicom.sr.codedict import codes

    category, kind, modifier, region, region_modifier = _codes(segment)
    regions = None
    if region is not None:
        regions = [region]
        if region_modifier is not None:
            region.AnatomicRegionModifierSequence = [region_modifier]
    tissue = CodedConcept(TISSUE[1], TISSUE[0], TISSUE[2])
    description = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment.name[:64],
        segmented_property_category=category or tissue,
        segmented_property_type=kind or tissue,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=algorithm, family=codes.cid7162.ArtificialIntelligence, version=version
        ),
        anatomic_regions=regions,
        display_color=highdicom.color.CIELabColor.from_rgb(*(round(255 * part) for part in segment.color)),
    )
    if modifier is not None:
        kind = description.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [modifier]
    return description


def _codes(segment: Segment) -> list[Any]:
    """Category, type, its modifier, region and its modifier of the terminology entry; None for each that it lacks."""
    from highdicom.sr import CodedConcept

    parts = segment.terminology.split("~")
    found = []
    for index in (1, 2, 3, 5, 6):
        scheme, value, meaning = ([*(parts[index].split("^") if index < len(parts) else []), "", "", ""])[:3]
        found.append(CodedConcept(value, scheme, meaning or segment.name) if scheme and value else None)
    return found if found[0] is not None and found[1] is not None else [None] * 5


def _slices_of_frames(images: Sequence[Any], labels: Volume) -> list[int]:
    """For each frame of the source, in its own order, the slice of the label map that lies there."""
    places, directions = [], []
    for image in images:
        if "PerFrameFunctionalGroupsSequence" in image:
            shared = image.SharedFunctionalGroupsSequence[0]
            for frame in image.PerFrameFunctionalGroupsSequence:
                groups = frame if "PlaneOrientationSequence" in frame else shared
                places.append(frame.PlanePositionSequence[0].ImagePositionPatient)
                directions.append(groups.PlaneOrientationSequence[0].ImageOrientationPatient)
        else:
            places.append(image.get("ImagePositionPatient"))
            directions.append(image.get("ImageOrientationPatient"))
    if any(place is None for place in places) or any(direction is None for direction in directions):
        raise InputError(
            "The DICOM series does not say where its slices lie. Choose another format, such as .seg.nrrd."
        )
    lps_to_ijk = np.linalg.inv(np.diag([-1.0, -1.0, 1.0, 1.0]) @ labels.ijk_to_ras)
    first = (lps_to_ijk @ np.c_[np.array(places, dtype=np.float64), np.ones(len(places))].T)[:3].T
    axes = np.array(directions, dtype=np.float64).reshape(-1, 2, 3) @ lps_to_ijk[:3, :3].T
    # Along a row i increases, along a column j: a frame's corner is then at (0, 0, k).
    spacing = np.array(labels.spacing[::-1])
    slices = np.rint(first[:, 2]).astype(int)
    misplaced = np.abs(first - np.c_[np.zeros((len(first), 2)), slices]).max() > _ON_GRID
    turned = np.abs(axes * spacing - np.eye(3)[:2]).max() > _ON_GRID / max(labels.shape)
    if misplaced or turned or sorted(slices) != list(range(labels.shape[0])):
        raise InputError("The DICOM series has other slices than the volume that was segmented. Give the same series.")
    return [int(index) for index in slices]
