"""Segments that overlap or lie outside, several segmentations of one volume, synonyms, masks, and names that stay."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_sources import NAMES, LabelMaps, Made, Mrb, Mrml, NnunetRaw, Segmentations, make_cases
from packages import small_package
from plans import TWO_LABELS
from ReCoKDLib.errors import DatasetError, InputError, PackageError
from ReCoKDLib.image_io import write_label_map, write_volume
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.package import ModelPackage
from ReCoKDTrainingLib.case_check import check_cases
from ReCoKDTrainingLib.cli import main
from ReCoKDTrainingLib.datasets import Dataset, SourceOptions, Split, load_case, open_dataset, open_datasets
from ReCoKDTrainingLib.model_fit import for_evaluation, match_model


@pytest.fixture
def slicer() -> Any:
    pytest.importorskip("slicer", reason='needs slicer-core: pip install "recokd[host]"')
    from ReCoKDLib.mrml.host import ensure_slicer

    return ensure_slicer()


def overlapping() -> Made:
    """The first class claims all that the second one has."""
    case = make_cases()[0]
    first, second = (case.masks[name] for name in NAMES)
    return replace(case, masks={NAMES[0]: first.with_array(first.array | second.array), NAMES[1]: second})


def found(dataset: Dataset) -> list[tuple[str, str]]:
    check = check_cases(dataset, Split(dataset.cases, ()), has_teacher=True)
    return [(finding.kind, finding.message) for case in check.cases for finding in case.findings]


@pytest.mark.usefixtures("slicer")
@pytest.mark.parametrize("source", [Segmentations(), Mrb()])
def test_of_overlapping_segments_the_later_one_has_the_voxels(source: Any, tmp_path: Path) -> None:
    case = overlapping()
    source.write(tmp_path, case)
    dataset = open_dataset(tmp_path)
    size = int(case.masks[NAMES[1]].array.sum())
    assert found(dataset) == [
        ("overlap", f"{size} voxels are both {NAMES[0]} and {NAMES[1]}; they count as {NAMES[1]}.")
    ]
    _, labels = load_case(dataset.cases[0], dataset.label_set, 1)
    assert labels is not None
    assert int((labels.array == dataset.label_set.named(NAMES[1]).value).sum()) == size
    # A class that is not learned takes nothing from one that is.
    alone = dataset.with_labels(LabelSet(TWO_LABELS.segments[:1]))
    assert found(alone) == []
    _, labels = load_case(alone.cases[0], alone.label_set, 1)
    assert labels is not None
    np.testing.assert_array_equal(labels.array, case.masks[NAMES[0]].array)


def several(slicer: Any, labelled: Made) -> None:
    """A volume with a segmentation for each class, and one beside them for both."""
    from ReCoKDLib.mrml.segmentations import segmentation_to_node
    from ReCoKDLib.mrml.volumes import volume_to_node

    node = volume_to_node(labelled.image, name="Mustermann")
    for name, mask in labelled.masks.items():
        part = LabelSet((replace(TWO_LABELS.segments[0], name=name),))
        segmentation_to_node(mask, part, node, name=f"of {name}")
    segmentation_to_node(labelled.label_map(), TWO_LABELS, node, name="of both")


def test_segmentations_of_one_volume_are_one_case(slicer: Any, tmp_path: Path) -> None:
    from scene_files import save_scene

    path = save_scene(tmp_path / "s.mrb", lambda slicer: several(slicer, overlapping()))
    dataset = open_dataset(path)
    (case,) = dataset.cases
    assert str(case.reader.place) == f"{path}: Mustermann + of {NAMES[0]} + of {NAMES[1]} + of both"
    assert [segment.name for segment in dataset.label_set.segments] == [*NAMES]
    _, labels = load_case(case, dataset.label_set, 1)
    assert labels is not None
    expected = overlapping().label_map().array
    np.testing.assert_array_equal(labels.array, np.where(expected == 3, 2, expected))
    assert {kind for kind, _ in found(dataset)} == {"overlap"}
    # Those that a table names stay apart.
    (tmp_path / "pairs.csv").write_text("scene,segmentation,volume\n,of both,Mustermann\n", encoding="utf-8")
    assert len(open_dataset(path, SourceOptions(pairing=tmp_path / "pairs.csv")).cases) == 2


@pytest.mark.usefixtures("slicer")
def test_what_a_scene_is_called_stays_in_the_users_own_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "scenes of Doe"
    folder.mkdir()
    for case in make_cases()[:3]:
        Mrb().write(folder, replace(case, name=f"Doe^Jane {case.name}", patient="Doe"))
    (folder / "Doe^Jane broken.mrb").write_bytes(b"nothing")
    Mrml().write(folder, replace(make_cases()[3], name="Doe^Jane lacking", patient="Doe"))
    (folder / "Doe^Jane lacking" / "Data" / "image.nrrd").unlink()
    capfd.readouterr()
    arguments = ["--dataset", str(folder), "--output", str(tmp_path / "out")]
    assert main(["--task", "check", *arguments]) == 1
    printed = capfd.readouterr()
    told = (printed.out + printed.err).replace(str(tmp_path / "out"), "")
    assert "The scene is damaged or no scene" in told
    assert "The volume is empty" in told
    assert "Doe" not in told
    values = json.loads((tmp_path / "out" / "check.json").read_text(encoding="utf-8"))
    places = sorted(case["found_in"] for case in values["cases"])
    assert places[0] == f"{folder / 'Doe^Jane broken.mrb'}"
    assert places[2] == f"{folder / 'Doe^Jane made0.mrb'}: image + annotated"
    assert not any("Doe" in str({**case, "found_in": ""}) for case in values["cases"])
    rows = (tmp_path / "out" / "check.csv").read_text(encoding="utf-8").splitlines()
    assert any(row.endswith(places[2]) for row in rows)


def test_a_warp_is_refused_without_its_name(slicer: Any, tmp_path: Path) -> None:
    from scene_files import save_scene

    def build(slicer: Any) -> None:
        several(slicer, make_cases()[0])
        warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "O'Neil")
        for kind in ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode"):
            slicer.mrmlScene.GetFirstNodeByClass(kind).SetAndObserveTransformNodeID(warp.GetID())

    (case,) = open_dataset(save_scene(tmp_path / "s.mrb", build)).cases
    with pytest.raises(InputError, match="^A node is under the transform, which is not linear"):
        case.volume()


@pytest.fixture
def german(tmp_path: Path) -> SourceOptions:
    (tmp_path / "german.json").write_text(json.dumps({NAMES[0]: ["vorne", "label 1"], NAMES[1]: ["hinten", "label 2"]}))
    return SourceOptions(synonyms=tmp_path / "german.json")


@pytest.mark.parametrize("source", [NnunetRaw(), LabelMaps()])
def test_synonyms_of_the_labels_of_label_maps(source: NnunetRaw, german: SourceOptions, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    source.begin(folder)
    source.write(folder, make_cases()[0])
    description = json.loads((folder / "dataset.json").read_text())
    description["labels"] = {"background": 0, "Vorne": 1, "hinten": 2}
    (folder / "dataset.json").write_text(json.dumps(description))
    assert [segment.name for segment in open_dataset(folder).label_set.segments] == ["Vorne", "hinten"]
    assert [segment.name for segment in open_dataset(folder, german).label_set.segments] == [*NAMES]
    description["labels"] = {"background": 0, "vorne": 1, NAMES[0]: 2}
    (folder / "dataset.json").write_text(json.dumps(description))
    with pytest.raises(DatasetError, match="are both 'anterior' by the table of synonyms"):
        open_dataset(folder, german)


def test_synonyms_reach_a_teachers_classes(german: SourceOptions, tmp_path: Path) -> None:
    english = tmp_path / "english.json"
    english.write_text(json.dumps({"vorne": [NAMES[0]], "hinten": [NAMES[1]]}))
    folder = tmp_path / "data"
    NnunetRaw().begin(folder)
    NnunetRaw().write(folder, make_cases()[0])
    dataset = open_datasets([folder], SourceOptions(synonyms=english))
    teacher = ModelPackage.open(small_package(tmp_path / "t.recokd.zip"))
    assert match_model(teacher, dataset, dataset.synonyms).names == tuple(zip(("vorne", "hinten"), NAMES, strict=True))
    with pytest.raises(PackageError, match="does not know vorne"):
        match_model(teacher, dataset)
    known = for_evaluation(teacher, dataset)
    assert load_case(known.cases[0], known.label_set, 1)[1] is not None
    assert [segment.name for segment in known.label_set.segments] == [*NAMES]


def masks(folder: Path, *values: int) -> Path:
    """A mask of these values beside each of two images."""
    for case in make_cases()[:2]:
        array = np.zeros(case.image.array.shape, np.uint16)
        for index, value in enumerate(values, 1):
            array.flat[3 * index : 3 * index + 3] = value
        write_volume(case.image, folder / f"{case.name}.nrrd")
        write_label_map(case.image.with_array(array), folder / f"{case.name}_seg.nrrd")
    return folder


@pytest.mark.parametrize("opened", [open_dataset, lambda path: open_datasets([path])])
def test_masks_of_0_and_255_are_one_class(opened: Callable[[Path], Dataset], tmp_path: Path) -> None:
    dataset = opened(masks(tmp_path, 255))
    assert [(segment.name, segment.value) for segment in dataset.label_set.segments] == [("label 255", 1)]
    assert found(dataset) == []
    _, labels = load_case(dataset.cases[0], dataset.label_set, 1)
    assert labels is not None
    assert np.unique(labels.array, return_counts=True)[1].tolist()[1:] == [3]


def test_values_with_gaps_may_have_names(german: SourceOptions, tmp_path: Path) -> None:
    masks(tmp_path, 7, 255)
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "tumour": 255, "liver": 7}}))
    dataset = open_dataset(tmp_path)
    assert [(segment.name, segment.value) for segment in dataset.label_set.segments] == [("liver", 1), ("tumour", 2)]
    assert found(dataset) == []
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": {"background": 0, "tumour": 255}}))
    assert [kind for kind, _ in found(open_dataset(tmp_path))] == ["unknown values", "unknown values"]
    (tmp_path / "dataset.json").unlink()
    (tmp_path / "names.json").write_text(json.dumps({"lesion": ["label 255"]}))
    named = open_dataset(tmp_path, SourceOptions(synonyms=tmp_path / "names.json"))
    assert [segment.name for segment in named.label_set.segments] == ["label 7", "lesion"]


def test_images_in_place_of_label_maps_are_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="hold 300 values that nothing names, as images do"):
        open_dataset(masks(tmp_path, *range(1, 301)))
