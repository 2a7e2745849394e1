"""Every source gives the voxels that it was made from, at their places in the world, whatever the geometry."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from dicom_series import write_series
from geometries import Matrix, anisotropic, oblique, oblique_left_handed
from plans import TWO_LABELS
from raw_dataset import make_raw_dataset
from ReCoKDLib.errors import DatasetError, InputError
from ReCoKDLib.image_io import dicom_files, write_label_map, write_volume
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.terminology import with_terminology
from ReCoKDLib.volume import Volume
from ReCoKDTrainingLib.datasets import (
    Case,
    Dataset,
    NnunetRawDataset,
    SourceOptions,
    load_case,
    open_dataset,
    open_datasets,
    read_split,
)
from ReCoKDTrainingLib.datasets.decathlon import DecathlonDataset
from ReCoKDTrainingLib.datasets.dicom import DicomDataset
from ReCoKDTrainingLib.datasets.file_pairs import FilePairsDataset
from ReCoKDTrainingLib.datasets.scenes import ScenesDataset

TwoBlobs = Callable[..., tuple[Volume, Volume]]
LABELS = with_terminology(TWO_LABELS, "Dataset004_Hippocampus")
NAMES = [segment.name for segment in LABELS.segments]


def loaded(dataset: Dataset, case: Case | None = None) -> tuple[Volume, Volume]:
    volume, labels = load_case(case or dataset.cases[0], dataset.label_set, len(dataset.channel_names))
    assert labels is not None
    return volume, labels


def assert_same_in_ras(found: Volume, expected: Volume) -> None:
    ours, theirs = found.reoriented("RAS"), expected.reoriented("RAS")
    assert ours.same_grid(theirs, tolerance=0.01)
    np.testing.assert_allclose(ours.array, theirs.array, rtol=1e-5)


def by_place(dataset: Dataset) -> list[Case]:
    """In the order of their files, which their names do not tell."""
    return sorted(dataset.cases, key=lambda case: str(case.reader.place))


@pytest.fixture
def slicer() -> Any:
    pytest.importorskip("slicer", reason='needs slicer-core: pip install "recokd[host]"')
    from ReCoKDLib.mrml.host import ensure_slicer

    return ensure_slicer()


def test_label_maps_beside_images(two_blobs: TwoBlobs, any_geometry: Matrix, tmp_path: Path) -> None:
    volume, labels = two_blobs(any_geometry)
    write_volume(volume, tmp_path / "a.nii.gz")
    write_label_map(labels, tmp_path / "a_seg.nii.gz")
    (tmp_path / "dataset.json").write_text(json.dumps(TWO_LABELS.to_dataset_json()))
    dataset = open_dataset(tmp_path)
    assert isinstance(dataset, FilePairsDataset)
    assert [case.identifier for case in dataset.cases] == ["a"]
    assert [segment.name for segment in dataset.label_set.segments] == NAMES
    for found, expected in zip(loaded(dataset), (volume, labels), strict=True):
        assert_same_in_ras(found, expected)


@pytest.mark.usefixtures("slicer")
def test_segmentations_beside_images(two_blobs: TwoBlobs, any_geometry: Matrix, tmp_path: Path) -> None:
    from ReCoKDLib.mrml.segmentations import write_segmentation

    volume, labels = two_blobs(any_geometry)
    write_volume(volume, tmp_path / "b.nrrd")
    write_segmentation(labels, LABELS, tmp_path / "b.seg.nrrd")
    dataset = open_dataset(tmp_path)
    assert [segment.terminology for segment in dataset.label_set.segments] == [s.terminology for s in LABELS.segments]
    for found, expected in zip(loaded(dataset), (volume, labels), strict=True):
        assert_same_in_ras(found, expected)


@pytest.mark.usefixtures("slicer")
def test_a_segmentation_on_another_grid_is_brought_to_the_image(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    from ReCoKDLib.mrml.segmentations import write_segmentation

    volume, labels = two_blobs(oblique())
    # The same block of the world in twice as many voxels along i, from another corner.
    matrix = labels.ijk_to_ras.copy()
    matrix[:3, 3] -= matrix[:3, 0] / 4
    matrix[:3, 0] /= 2
    fine = Volume(labels.array.repeat(2, axis=3), matrix)
    write_volume(volume, tmp_path / "b.nrrd")
    write_segmentation(fine.reoriented("LPS"), LABELS, tmp_path / "b.seg.nrrd")
    assert_same_in_ras(loaded(open_dataset(tmp_path))[1], labels)


def test_rules_for_files(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    volume, labels = two_blobs(channels=2)
    for channel, name in enumerate(("T1", "T2")):
        write_volume(volume.with_array(volume.array[channel : channel + 1]), tmp_path / "scans" / f"p7-{name}.mha")
    write_label_map(labels, tmp_path / "truth" / "of p7.nii.gz")
    options = SourceOptions(("T2", "T1"), "scans/{case}-{channel}.mha", "truth/of {case}.nii.gz")
    dataset = open_dataset(tmp_path, options)
    found, found_labels = loaded(dataset)
    assert dataset.channel_names == ("T2", "T1")
    assert [segment.name for segment in dataset.label_set.segments] == ["label 1", "label 2"]
    assert_same_in_ras(found, volume.with_array(volume.array[::-1]))
    assert_same_in_ras(found_labels, labels)
    with pytest.raises(DatasetError, match="does not say where the case's name stands"):
        open_dataset(tmp_path, SourceOptions(image_rule="scans/x.mha"))
    with pytest.raises(DatasetError, match="'nothing/{case}.mha' fits"):
        open_dataset(tmp_path, SourceOptions(image_rule="nothing/{case}.mha"))
    with pytest.raises(DatasetError, match="Give --image-rule"):
        open_dataset(tmp_path, SourceOptions(label_rule="{case}.nii.gz"))
    lacking = open_dataset(tmp_path, replace(options, channels=("T1", "FLAIR")))
    with pytest.raises(DatasetError, match="'FLAIR' of the case p7 is missing"):
        lacking.cases[0].volume()


def test_folders_of_images_and_labels(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    volume, labels = two_blobs()
    for name in ("one", "two"):
        write_volume(volume, tmp_path / "images" / f"{name}.nii.gz")
    write_label_map(labels, tmp_path / "labels" / "one.nii.gz")
    dataset = open_dataset(tmp_path)
    assert {case.identifier: case.labelled for case in dataset.cases} == {"one": True, "two": False}


def test_the_decathlon(two_blobs: TwoBlobs, any_geometry: Matrix, tmp_path: Path) -> None:
    volume, labels = two_blobs(any_geometry, channels=2)
    write_label_map(labels, tmp_path / "labelsTr" / "case_1.nii.gz")
    image = sitk.JoinSeries([_image(volume, channel) for channel in range(2)])
    (tmp_path / "imagesTr").mkdir()
    sitk.WriteImage(image, str(tmp_path / "imagesTr" / "case_1.nii.gz"))
    description = {
        "modality": {"0": "T1", "1": "T2"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "training": [{"image": "./imagesTr/case_1.nii.gz", "label": "./labelsTr/case_1.nii.gz"}],
        "licence": "CC-BY-SA 4.0",
    }
    (tmp_path / "dataset.json").write_text(json.dumps(description))
    dataset = open_dataset(tmp_path)
    assert isinstance(dataset, DecathlonDataset)
    assert dataset.channel_names == ("T1", "T2")
    assert dataset.description["licence"] == "CC-BY-SA 4.0"
    assert [segment.name for segment in dataset.label_set.segments] == ["Anterior", "Posterior"]
    for found, expected in zip(loaded(dataset), (volume, labels), strict=True):
        assert_same_in_ras(found, expected)
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "training": [{"image": "x"}]}))
    with pytest.raises(DatasetError, match="Each case needs 'image' and 'label'"):
        open_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({**description, "training": []}))
    with pytest.raises(DatasetError, match="lists no cases"):
        open_dataset(tmp_path)


def _image(volume: Volume, channel: int) -> sitk.Image:
    image = sitk.GetImageFromArray(volume.array[channel])
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def test_a_scene_with_its_transforms(slicer: Any, two_blobs: TwoBlobs, any_geometry: Matrix, tmp_path: Path) -> None:
    from scene_files import add_case, save_scene, turned

    volume, labels = two_blobs(any_geometry)
    path = save_scene(
        tmp_path / "a scene.mrb", lambda slicer: add_case(slicer, volume, labels, LABELS, transform=turned())
    )
    dataset = open_dataset(path)
    assert isinstance(dataset, ScenesDataset)
    (case,) = dataset.cases
    assert re.fullmatch("scene_[0-9a-f]{12}", case.identifier), "scenes are often called after patients"
    assert str(case.reader.place).startswith(f"{path}: volume + ")
    for found, expected in zip(loaded(dataset), (volume, labels), strict=True):
        assert_same_in_ras(found, replace(expected, ijk_to_ras=turned() @ expected.ijk_to_ras))
    # The scene in memory is another one.
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 0


@pytest.mark.usefixtures("slicer")
def test_a_scene_with_a_relative_path(two_blobs: TwoBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scene_files import add_case, save_scene

    volume, labels = two_blobs()
    save_scene(tmp_path / "scene.mrb", lambda slicer: add_case(slicer, volume, labels, LABELS))
    monkeypatch.chdir(tmp_path)
    (case,) = open_dataset(Path("scene.mrb")).cases
    assert case.labelled
    assert Path.cwd() == tmp_path


@pytest.mark.usefixtures("slicer")
def test_a_folder_of_scenes_and_mrml_files(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    from scene_files import add_case, save_scene

    pairs = [two_blobs(make(), seed=seed) for seed, make in enumerate((oblique, oblique_left_handed))]
    for number, (volume, labels) in enumerate(pairs):
        save_scene(tmp_path / f"{number}.mrb", partial(add_case, volume=volume, labels=labels, label_set=LABELS))
    with zipfile.ZipFile(tmp_path / "1.mrb") as archive:
        archive.extractall(tmp_path / "unpacked")
    (tmp_path / "1.mrb").unlink()
    dataset = open_dataset(tmp_path)
    cases = by_place(dataset)
    for case, pair in zip(cases, pairs, strict=True):
        for found, expected in zip(loaded(dataset, case), pair, strict=True):
            assert_same_in_ras(found, expected)
    before = cases[1].content()
    assert before != cases[0].content()
    again = by_place(open_dataset(tmp_path))
    assert before == again[1].content()
    assert [case.identifier for case in again] == [case.identifier for case in cases]


@pytest.mark.usefixtures("slicer")
def test_pairs_by_study_and_channels_by_name(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    from scene_files import add_case, forget_reference, save_scene, study

    pairs = [two_blobs(oblique(), seed=seed, channels=2) for seed in range(2)]

    def build(slicer: Any) -> None:
        for number, (volume, labels) in enumerate(pairs):
            t2, t1 = (volume.with_array(volume.array[c : c + 1]) for c in (1, 0))
            second, _ = add_case(slicer, t2, None, LABELS, "the T2")
            first, segmentation = add_case(slicer, t1, labels, LABELS, "the T1")
            forget_reference(segmentation)
            study(slicer, f"study {number}", first, second, segmentation, patient=f"id {number}")

    path = save_scene(tmp_path / "two.mrb", build)
    dataset = open_dataset(path, SourceOptions(("T1", "T2")))
    assert [case.identifier[-2:] for case in dataset.cases] == ["_1", "_2"]
    for case, (volume, labels) in zip(dataset.cases, pairs, strict=True):
        found, found_labels = loaded(dataset, case)
        assert_same_in_ras(found, volume)
        assert_same_in_ras(found_labels, labels)
    patients = [case.patient for case in dataset.cases]
    assert len(set(patients)) == 2
    assert all(len(patient) == 12 and "id" not in patient for patient in patients)
    single = open_dataset(path)
    with pytest.raises(DatasetError, match="The segmentation has no reference image, and its study has 2 volumes"):
        single.cases[0].volume()
    absent = open_dataset(path, SourceOptions(("T1", "FLAIR")))
    with pytest.raises(DatasetError, match="0 of the 2 volumes of the case are the channel 'FLAIR'"):
        absent.cases[0].volume()


@pytest.mark.usefixtures("slicer")
def test_pairs_by_table(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    from scene_files import add_case, forget_reference, save_scene

    pairs = [two_blobs(anisotropic(), seed=seed) for seed in range(2)]

    def build(slicer: Any) -> None:
        for number, (volume, labels) in enumerate(pairs):
            _, segmentation = add_case(slicer, volume, labels, LABELS, f"v{number}")
            segmentation.SetName(f"s{number}")
            forget_reference(segmentation)

    path = save_scene(tmp_path / "two.mrb", build)
    with pytest.raises(DatasetError, match="the scene has 2 volumes"):
        open_dataset(path).cases[0].volume()
    (tmp_path / "pairs.csv").write_text("scene,segmentation,volume\n,s0,v1\ntwo,s1,v9\n", encoding="utf-8-sig")
    dataset = open_dataset(path, SourceOptions(pairing=tmp_path / "pairs.csv"))
    assert_same_in_ras(loaded(dataset)[0], pairs[1][0])
    with pytest.raises(DatasetError, match="names the volume, of which the scene has 0"):
        dataset.cases[1].volume()
    assert str(dataset.cases[1].reader.place) == f"{path}: v9 + s1"
    (tmp_path / "pairs.csv").write_text("a,b\n")
    with pytest.raises(DatasetError, match="not a pairing table"):
        open_dataset(path, SourceOptions(pairing=tmp_path / "pairs.csv"))


@pytest.mark.usefixtures("slicer")
def test_classes_by_code_then_by_name_and_synonym(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    from scene_files import add_case, save_scene

    volume, labels = two_blobs()
    coded, named = LABELS.segments
    renamed = LabelSet((replace(coded, name="Vorne"), replace(named, name=named.name.upper(), terminology="")))
    other = LabelSet((replace(coded, name="head", terminology=""), named))
    save_scene(tmp_path / "a.mrb", lambda slicer: add_case(slicer, volume, labels, LABELS))
    save_scene(tmp_path / "b.mrb", lambda slicer: add_case(slicer, volume, labels, renamed))
    save_scene(tmp_path / "c.mrb", lambda slicer: add_case(slicer, volume, labels, other))
    assert len(open_dataset(tmp_path).label_set.segments) == 3
    (tmp_path / "other names.json").write_text(json.dumps({coded.name: ["Head"]}))
    dataset = open_dataset(tmp_path, SourceOptions(synonyms=tmp_path / "other names.json"))
    assert [segment.name for segment in dataset.label_set.segments] == [coded.name, named.name]
    for case in dataset.cases:
        assert not case.partly_labelled
        assert_same_in_ras(loaded(dataset, case)[1], labels)
    (tmp_path / "other names.csv").write_text(f"{coded.name},Head\n{named.name},head\n")
    with pytest.raises(DatasetError, match="'head' under"):
        open_dataset(tmp_path, SourceOptions(synonyms=tmp_path / "other names.csv"))


@pytest.mark.usefixtures("slicer")
def test_scenes_that_are_none(tmp_path: Path, two_blobs: TwoBlobs) -> None:
    from scene_files import add_case, save_scene

    (tmp_path / "broken.mrb").write_bytes(b"no archive")
    (tmp_path / "broken.mrml").write_text("<MRML></MRML>")
    dataset = open_dataset(tmp_path)
    assert len(dataset.cases) == 2
    for case in dataset.cases:
        with pytest.raises(DatasetError, match=r"damaged or no scene|is no scene"):
            case.volume()
    save_scene(tmp_path / "s.mrb", lambda slicer: add_case(slicer, *two_blobs(), LABELS))
    with zipfile.ZipFile(tmp_path / "s.mrb") as archive:
        archive.extractall(tmp_path / "unpacked")
    next((tmp_path / "unpacked").rglob("volume.nrrd")).unlink()
    (case,) = open_dataset(next((tmp_path / "unpacked").rglob("*.mrml"))).cases
    with pytest.raises(InputError, match="The volume is empty"):
        case.volume()


@pytest.mark.parametrize("make", [oblique, anisotropic])
def test_dicom_with_seg(two_blobs: TwoBlobs, make: Callable[[], Matrix], tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    from ReCoKDLib.dicom_seg import write_dicom_seg
    from ReCoKDLib.image_io import read_volume

    volume, labels = two_blobs(make())
    for number, patient in enumerate(("Doe^Jane", "Roe^Richard")):
        folder = tmp_path / f"Doe Jane {number}"
        write_series(folder, volume.with_array(volume.array + number), PatientID=patient)
    folder = tmp_path / "Doe Jane 0"
    image = read_volume(folder)  # slices come in the order of DICOM
    codes = {"RAS": image.axis_codes}
    on_image = labels.reoriented(codes["RAS"])
    write_dicom_seg(on_image, LABELS, dicom_files(folder), folder / "seg.dcm", "manual", "1")
    dataset = open_dataset(tmp_path)
    assert isinstance(dataset, DicomDataset)
    assert dataset.channel_names == ("MRI",)
    (case,) = [case for case in dataset.cases if case.labelled]
    assert len(dataset.cases) == 2
    assert len({known.patient for known in dataset.cases}) == 2
    for text in (known.identifier + known.patient for known in dataset.cases):
        assert "Doe" not in text
    found, found_labels = loaded(dataset, case)
    assert_same_in_ras(found, volume.with_array(np.rint(volume.array)))
    assert_same_in_ras(found_labels, labels)


def test_of_fractional_dicom_segments_what_is_half_occupied_counts(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    highdicom = pytest.importorskip("highdicom")
    import pydicom

    from ReCoKDLib.dicom_seg import write_dicom_seg
    from ReCoKDLib.image_io import read_volume

    volume, labels = two_blobs(oblique())
    write_series(tmp_path, volume)
    image = read_volume(tmp_path)
    files = dicom_files(tmp_path)
    on_image = labels.reoriented(image.axis_codes)
    write_dicom_seg(on_image, LABELS, files, tmp_path / "seg.dcm", "manual", "1")
    known = pydicom.dcmread(tmp_path / "seg.dcm")
    descriptions = [highdicom.seg.SegmentDescription.from_dataset(item) for item in known.SegmentSequence]
    fractions = np.stack([np.select([on_image.array[0] == value], [0.6], 0.4) for value in (1, 2)], -1)
    highdicom.seg.Segmentation(
        [pydicom.dcmread(file) for file in files],
        fractions,
        "FRACTIONAL",
        descriptions,
        series_instance_uid=highdicom.UID(),
        series_number=1,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="-",
        manufacturer_model_name="-",
        software_versions="1",
        device_serial_number="1",
        fractional_type="OCCUPANCY",
    ).save_as(tmp_path / "seg.dcm")
    dataset = open_dataset(tmp_path)
    assert dataset.name == "dicom", "folders may be named after patients"
    assert_same_in_ras(loaded(dataset)[1], labels)


def test_a_segment_outside_of_its_image_is_refused(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    import pydicom

    from ReCoKDLib.dicom_seg import write_dicom_seg
    from ReCoKDLib.image_io import read_volume

    volume, labels = two_blobs(oblique())
    write_series(tmp_path, volume)
    image, files = read_volume(tmp_path), dicom_files(tmp_path)
    on_image = labels.reoriented(image.axis_codes)
    write_dicom_seg(on_image, LABELS, files, tmp_path / "seg.dcm", "manual", "1")
    for file in files:
        header = pydicom.dcmread(file)
        header.ImagePositionPatient = [value + 500 for value in header.ImagePositionPatient]
        header.save_as(file)
    with pytest.raises(DatasetError, match="lies outside of its image"):
        loaded(open_dataset(tmp_path))


def test_sources_are_mixed(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    raw = make_raw_dataset(tmp_path / "raw", cases=2)
    twin = make_raw_dataset(tmp_path / "elsewhere" / "raw", cases=2, seed=1)
    (tmp_path / "volumes").mkdir()
    write_volume(two_blobs()[0], tmp_path / "volumes" / "blobs_000.nii.gz")
    dataset = open_datasets([raw, twin, tmp_path / "volumes"])
    assert [case.identifier for case in dataset.cases] == [
        *("raw__blobs_000", "raw__blobs_001", "raw-2__blobs_000", "raw-2__blobs_001", "volumes__blobs_000")
    ]
    assert dataset.label_set.ignore_label == 3
    assert dataset.channel_names == ("MRI",)
    split = read_split(dataset, None, unlabelled=True)
    assert [case.identifier for case in split.training if not case.labelled] == ["volumes__blobs_000"]
    assert all(case.labelled for case in split.validation)
    assert open_datasets([raw]).label_set == NnunetRawDataset(raw).label_set
    two = make_raw_dataset(tmp_path / "two", cases=1, channel_names=("T1", "T2"))
    with pytest.raises(DatasetError, match="raw 1, two 2"):
        open_datasets([raw, two])
    regions = make_raw_dataset(tmp_path / "regions", cases=1, regions=True)
    with pytest.raises(DatasetError, match="overlapping regions"):
        open_datasets([raw, regions])


def test_background_of_a_partly_annotated_case_is_not_known(tmp_path: Path) -> None:
    raw = make_raw_dataset(tmp_path / "raw", cases=2)
    part = make_raw_dataset(tmp_path / "part", cases=1)
    description = json.loads((part / "dataset.json").read_text())
    description["labels"] = {"background": 0, "posterior": 1, "rest": 2}
    (part / "dataset.json").write_text(json.dumps(description))
    dataset = open_datasets([raw, part])
    assert [segment.name for segment in dataset.label_set.segments] == ["anterior", "posterior", "rest"]
    case = dataset.cases[-1]
    assert case.partly_labelled
    before = NnunetRawDataset(part)
    _, theirs = loaded(before)
    _, ours = loaded(dataset, case)
    assert (ours.array[theirs.array == 1] == 2).all()
    assert (ours.array[theirs.array == 2] == 3).all()
    assert (ours.array[theirs.array == 0] == dataset.label_set.ignore_label).all()
    assert case.identifier not in {held.identifier for held in read_split(dataset, None).validation}
    # Of the classes that are left, all were annotated.
    chosen = dataset.with_labels(LabelSet((replace(dataset.label_set.segments[1], value=1, region=(1,)),)))
    assert not chosen.cases[-1].partly_labelled


def test_patients_stay_on_one_side(raw_dataset: Path) -> None:
    dataset = NnunetRawDataset(raw_dataset)
    cases = [replace(case, patient=f"patient {index // 2}") for index, case in enumerate(dataset.cases)]
    split = read_split(Dataset("x", ("MRI",), dataset.label_set, cases), None)
    assert len(split.validation) == 2
    assert not {case.patient for case in split.training} & {case.patient for case in split.validation}


def test_a_folder_without_anything(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="is empty. Give a folder"):
        open_dataset(tmp_path)
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DatasetError, match="holds no images"):
        open_dataset(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        open_dataset(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="holds no scenes"):
        open_dataset(tmp_path / "notes.txt")


@pytest.mark.skipif(os.name == "nt", reason="names of this kind are not allowed there")
def test_hidden_files_are_no_cases(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    volume, _ = two_blobs()
    write_volume(volume, tmp_path / "a.nii.gz")
    write_volume(volume, tmp_path / "._a.nii.gz")
    assert [case.identifier for case in open_dataset(tmp_path).cases] == ["a"]
