"""A DICOM SEG, read back with highdicom, has every voxel where ours has it, and says what and whose it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from dicom_series import write_series
from geometries import Matrix, matrix, oblique, rotation
from plans import TWO_LABELS
from ReCoKDLib.cli import main
from ReCoKDLib.dicom_seg import write_dicom_seg
from ReCoKDLib.errors import InputError, OutputError
from ReCoKDLib.image_io import dicom_files, read_volume
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.segment import segment_files
from ReCoKDLib.terminology import with_terminology
from ReCoKDLib.volume import Volume
from threshold_student import threshold_package

highdicom = pytest.importorskip("highdicom")
pydicom = pytest.importorskip("pydicom")

TwoBlobs = Callable[..., tuple[Volume, Volume]]
CODED = with_terminology(TWO_LABELS, "Dataset004_Hippocampus")


def voxels_in_ras(path: Path) -> dict[int, npt.NDArray[Any]]:
    """For each segment of a DICOM SEG the RAS centres of its voxels, sorted; by highdicom's own geometry."""
    seg = highdicom.seg.segread(path)
    found = {}
    for number in seg.segment_numbers:
        volume = seg.get_volume(segment_numbers=[number])
        index = np.argwhere(volume.array[..., 0])
        found[int(number)] = in_order(volume.map_indices_to_reference(index) * [-1, -1, 1])
    return found


def our_voxels_in_ras(labels: Volume, value: int) -> npt.NDArray[Any]:
    index = np.argwhere(labels.array[0] == value)[:, ::-1]
    return in_order(index @ labels.ijk_to_ras[:3, :3].T + labels.ijk_to_ras[:3, 3])


def in_order(points: npt.NDArray[Any]) -> npt.NDArray[Any]:
    rounded = np.round(points, 1)
    return points[np.lexsort((rounded[:, 2], rounded[:, 1], rounded[:, 0]))]


def assert_same_voxels(path: Path, labels: Volume, values: dict[int, int]) -> None:
    found = voxels_in_ras(path)
    assert found.keys() == values.keys()
    for number, value in values.items():
        ours = our_voxels_in_ras(labels, value)
        assert len(ours) > 20
        assert len(found[number]) == len(ours)
        # Nearest neighbours, for rounding may order equal coordinates differently.
        distance = np.linalg.norm(found[number][:, None] - ours[None], axis=2)
        assert distance.min(axis=1).max() < 0.01
        assert distance.min(axis=0).max() < 0.01


def left_handed() -> Matrix:
    """Slices that are stacked against the normal of their planes, 2.5 mm apart, oblique, pixels not square."""
    return matrix(rotation((20.0, -12.0, 33.0)) @ np.diag([1.0, 1.0, -1.0]), (0.8, 0.6, 2.5), (10.0, -40.0, 25.0))


@pytest.mark.parametrize("geometry", [oblique, left_handed])
@pytest.mark.parametrize("reverse", [False, True])
def test_every_voxel_lies_where_ours_lies(
    two_blobs: TwoBlobs, tmp_path: Path, geometry: Callable[[], Matrix], reverse: bool
) -> None:
    image, labels = two_blobs(geometry())
    write_series(tmp_path / "series", image, reverse=reverse)
    read = read_volume(tmp_path / "series")
    # ITK may stack the slices the other way round: the labels as a student would give them, on the volume as read.
    on_read = read.with_array(labels.reoriented(read.axis_codes).array)
    files = dicom_files(tmp_path / "series")
    write_dicom_seg(on_read, CODED, files, tmp_path / "a.dcm", "blobs-x4", "1.2.0")
    assert_same_voxels(tmp_path / "a.dcm", labels, {1: 1, 2: 2})
    # The order of the files does not matter: frames are told by their places.
    write_dicom_seg(on_read, CODED, files[::-1], tmp_path / "b.dcm", "blobs-x4", "1.2.0")
    assert_same_voxels(tmp_path / "b.dcm", labels, {1: 1, 2: 2})


def test_the_real_series(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "dicom" / "hippocampus_crop"
    result = segment_files([folder], "hippocampus-x4", tmp_path / "a.dcm", device="cpu")
    assert_same_voxels(tmp_path / "a.dcm", result.labels, {1: 1, 2: 2})
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    source = pydicom.dcmread(folder / "1.dcm")
    assert (seg.PatientID, seg.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID


def test_what_the_file_says(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    image, labels = two_blobs(oblique())
    series = write_series(tmp_path / "series", image)
    files = dicom_files(tmp_path / "series")
    write_dicom_seg(labels, CODED, files, tmp_path / "a.dcm", "blobs-x4", "1.2.0")
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    assert seg.SegmentationType == "BINARY"
    assert (seg.PatientName, seg.PatientID) == ("Doe^Jane", "4711")
    assert seg.StudyInstanceUID == pydicom.dcmread(files[0]).StudyInstanceUID
    assert seg.SeriesInstanceUID != series
    (referenced,) = seg.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == series
    instances = {item.ReferencedSOPInstanceUID for item in referenced.ReferencedInstanceSequence}
    assert instances == {pydicom.dcmread(file).SOPInstanceUID for file in files}
    first = seg.SegmentSequence[0]
    assert first.SegmentLabel == "anterior"
    assert first.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "123037004"
    kind = first.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.CodeMeaning, kind.CodingSchemeDesignator) == ("5366008", "Hippocampus", "SCT")
    assert kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "255549009"
    assert first.SegmentAlgorithmType == "AUTOMATIC"
    assert first.SegmentAlgorithmName == "blobs-x4"
    (algorithm,) = first.SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("blobs-x4", "1.2.0")
    color = highdicom.color.CIELabColor.from_dicom_value(first.RecommendedDisplayCIELabValue).to_rgb()
    np.testing.assert_allclose(np.array(color) / 255, TWO_LABELS.segments[0].color, atol=0.02)


def test_a_segment_without_a_code_is_tissue(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    image, labels = two_blobs(oblique())
    write_series(tmp_path / "series", image)
    write_dicom_seg(labels, TWO_LABELS, dicom_files(tmp_path / "series"), tmp_path / "a.dcm", "blobs-x4", "1.2.0")
    second = pydicom.dcmread(tmp_path / "a.dcm").SegmentSequence[1]
    assert second.SegmentLabel == "posterior"
    assert second.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Tissue"
    assert second.SegmentedPropertyCategoryCodeSequence[0].CodeValue == "85756007"


def test_a_choice_of_segments_is_numbered_from_one(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    image, labels = two_blobs(oblique())
    write_series(tmp_path / "series", image)
    chosen = replace(CODED, segments=CODED.segments[1:])
    write_dicom_seg(labels, chosen, dicom_files(tmp_path / "series"), tmp_path / "a.dcm", "blobs-x4", "1.2.0")
    assert_same_voxels(tmp_path / "a.dcm", labels, {1: 2})


def test_regions_overlap(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    regions = LabelSet.from_dataset_json(
        {"labels": {"background": 0, "whole": [1, 2], "core": [2]}, "regions_class_order": [1, 2]}
    )
    image, labels = two_blobs(oblique())
    write_series(tmp_path / "series", image)
    write_dicom_seg(labels, regions, dicom_files(tmp_path / "series"), tmp_path / "a.dcm", "blobs-x4", "1.2.0")
    whole = labels.with_array((labels.array > 0).astype(np.uint8))
    found = voxels_in_ras(tmp_path / "a.dcm")
    assert len(found[1]) == len(our_voxels_in_ras(whole, 1))
    assert len(found[2]) == len(our_voxels_in_ras(labels, 2))


def test_an_empty_result_is_written(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    image, labels = two_blobs(oblique())
    write_series(tmp_path / "series", image)
    nothing = labels.with_array(np.zeros_like(labels.array))
    write_dicom_seg(nothing, CODED, dicom_files(tmp_path / "series"), tmp_path / "a.dcm", "blobs-x4", "1.2.0")
    seg = pydicom.dcmread(tmp_path / "a.dcm")
    assert [segment.SegmentLabel for segment in seg.SegmentSequence] == ["anterior", "posterior"]
    assert not seg.pixel_array.any()


def test_a_series_that_was_stripped_of_names_and_thickness(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    image, labels = two_blobs(oblique())
    stripped = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "SliceThickness")
    tags: dict[str, Any] = dict.fromkeys(stripped)
    write_series(tmp_path / "series", image, **tags)
    write_dicom_seg(labels, CODED, dicom_files(tmp_path / "series"), tmp_path / "a.dcm", "blobs-x4", "1.2.0")
    assert_same_voxels(tmp_path / "a.dcm", labels, {1: 1, 2: 2})


def test_another_series_is_refused(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    image, labels = two_blobs(oblique())
    write_series(tmp_path / "series", image)
    write_series(tmp_path / "moved", two_blobs(left_handed())[0])
    for files in (dicom_files(tmp_path / "moved"), dicom_files(tmp_path / "series")[:-1]):
        with pytest.raises(InputError, match="other slices than the volume"):
            write_dicom_seg(labels, CODED, files, tmp_path / "a.dcm", "blobs-x4", "1.2.0")
    assert not (tmp_path / "a.dcm").exists()


def test_segment_writes_it_for_dicom_only(
    two_blobs: TwoBlobs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ReCoKDLib.image_io import write_volume

    image, labels = two_blobs()
    student = threshold_package(tmp_path / "blobs.recokd.zip", image, labels, TWO_LABELS)
    write_series(tmp_path / "series", image)
    write_volume(image, tmp_path / "image.nii.gz")
    arguments = ["--student", str(student), "--device", "cpu", "--output", str(tmp_path / "a.dcm")]
    assert main(["segment", str(tmp_path / "image.nii.gz"), *arguments]) == 2
    assert "is not DICOM" in capsys.readouterr().err
    assert not (tmp_path / "a.dcm").exists()
    assert main(["segment", str(tmp_path / "series"), *arguments]) == 0
    found = voxels_in_ras(tmp_path / "a.dcm")
    assert abs(len(found[1]) - (labels.array == 1).sum()) < 0.1 * (labels.array == 1).sum()
    with pytest.raises(OutputError, match="exists already"):
        segment_files([tmp_path / "series"], student, tmp_path / "a.dcm", device="cpu")
