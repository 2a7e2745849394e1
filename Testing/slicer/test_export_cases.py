"""The open scene's cases as a dataset that ``recokd-training`` reads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ReCoKDLib.errors import DatasetError
from ReCoKDLib.labels import LabelSet, Segment
from ReCoKDLib.mrml.scene_cases import case_annotation, case_volume, find_scene_cases, segments_of
from ReCoKDLib.mrml.segmentations import segmentation_to_node
from ReCoKDLib.volume import Volume
from ReCoKDTrainingLib.case_check import check_cases
from ReCoKDTrainingLib.datasets import SourceOptions, Split, open_datasets
from scene_files import add_case, turned

TwoBlobs = Callable[..., tuple[Volume, Volume]]


def test_the_scenes_cases_are_exported(
    slicer: Any, recokd: Any, two_blobs: TwoBlobs, blob_labels: LabelSet, any_geometry: Any, tmp_path: Path
) -> None:
    pairs = [two_blobs(any_geometry, seed=seed) for seed in range(2)]
    for number, (volume, labels) in enumerate(pairs):
        add_case(slicer, volume, labels, blob_labels, f"Mustermann {number}", turned() if number else None)
    add_case(slicer, *pairs[0], LabelSet(blob_labels.segments[:1]), "half")
    exported = recokd.ReCoKDLogic().exportCasesForTraining(tmp_path / "set")
    assert list(exported) == ["case_001", "case_002", "case_003"]
    assert not [path for path in (tmp_path / "set").iterdir() if "Mustermann" in path.name]
    dataset = open_datasets((tmp_path / "set",), SourceOptions())
    assert {s.name for s in dataset.label_set.segments} == {s.name for s in blob_labels.segments}
    for number, (case, (volume, labels)) in enumerate(zip(dataset.cases[:2], pairs, strict=True)):
        found = case.volume().reoriented("RAS")
        moved = turned() @ volume.ijk_to_ras if number else volume.ijk_to_ras
        expected = replace(volume, ijk_to_ras=moved).reoriented("RAS")
        assert found.same_grid(expected, tolerance=0.01)
        np.testing.assert_allclose(found.array, expected.array, rtol=1e-5)
        found_labels = case.labels(case.volume())
        assert found_labels is not None
        masks = replace(labels, ijk_to_ras=moved).reoriented("RAS").array
        for segment in blob_labels.segments:
            value = dataset.label_set.named(segment.name).value
            assert np.array_equal(found_labels.reoriented("RAS").array == value, masks == segment.value)


def test_what_segments_lose_is_found_in_the_exported_files(
    slicer: Any, recokd: Any, two_blobs: TwoBlobs, blob_labels: LabelSet, any_geometry: Any, tmp_path: Path
) -> None:
    volume, labels = two_blobs(any_geometry)
    other = replace(labels, ijk_to_ras=labels.ijk_to_ras.copy())
    other.ijk_to_ras[:3, 3] += 4.3 * labels.ijk_to_ras[:3, 0]  # off the image's lattice, and partly off the image
    both = labels.with_array((labels.array > 0).astype(np.uint8))
    node, _ = add_case(slicer, volume, both, LabelSet(blob_labels.segments[:1]))
    segmentation_to_node(other, LabelSet(blob_labels.segments[1:]), node)
    before = find_scene_cases(slicer.mrmlScene)
    (exported,) = recokd.ReCoKDLogic().exportCasesForTraining(tmp_path / "set").values()
    assert (exported,) == before
    dataset = open_datasets((tmp_path / "set",), SourceOptions())
    check = check_cases(dataset, Split(dataset.cases, ()))
    assert [finding.kind for case in check.cases for finding in case.findings] == ["outside the image", "overlap"]
    annotation = dataset.cases[0].annotation(dataset.cases[0].volume())
    assert annotation is not None
    values = [tuple((s.key, dataset.label_set.named(s.name).value) for s in each) for each in exported.segments]
    expected = case_annotation(slicer.mrmlScene, exported, values, case_volume(slicer.mrmlScene, exported))
    np.testing.assert_array_equal(annotation.labels.reoriented("RAS").array, expected.labels.reoriented("RAS").array)


@pytest.mark.parametrize("drawn", ["gamma alpha beta", "beta gamma beta", "alpha beta alpha beta", "beta alpha gamma"])
@pytest.mark.parametrize("apart", [False, True])
def test_of_overlapping_segments_the_later_one_wins_in_the_files_too(
    drawn: str, apart: bool, slicer: Any, recokd: Any, tmp_path: Path
) -> None:
    """Each overlaps its neighbours in the list, first and third not, so that they share a layer of the file."""
    volume = Volume(np.random.default_rng(0).normal(size=(1, 6, 8, 20)).astype(np.float32), np.eye(4))
    node, segmentation = add_case(slicer, volume, None, LabelSet(()))
    for number, name in enumerate(drawn.split()):
        mask = np.zeros(volume.array.shape, np.uint8)
        mask[..., 1 + 4 * number : 7 + 4 * number] = 1
        temporary = LabelSet((Segment(f"number {number}", 1, (1,), (1.0, 0.0, 0.0)),))
        segmentation = segmentation_to_node(volume.with_array(mask), temporary, node, None if apart else segmentation)
        (segment,) = [each for each in segments_of(segmentation) if each.name == f"number {number}"]
        segmentation.GetSegmentation().GetSegment(segment.key).SetName(name)
    (exported,) = recokd.ReCoKDLogic().exportCasesForTraining(tmp_path / "set").values()
    dataset = open_datasets((tmp_path / "set",), SourceOptions())
    annotation = dataset.cases[0].annotation(dataset.cases[0].volume())
    assert annotation is not None
    values = [tuple((s.key, dataset.label_set.named(s.name).value) for s in each) for each in exported.segments]
    expected = case_annotation(slicer.mrmlScene, exported, values, case_volume(slicer.mrmlScene, exported))
    np.testing.assert_array_equal(annotation.labels.reoriented("RAS").array, expected.labels.reoriented("RAS").array)
    assert annotation.overlaps == expected.overlaps
    assert len(expected.overlaps) == len(set(zip(drawn.split(), drawn.split()[1:], strict=False)))


def test_a_scene_without_cases(slicer: Any, recokd: Any, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="No case was chosen"):
        recokd.ReCoKDLogic().exportCasesForTraining(tmp_path / "set")
    assert not (tmp_path / "set").exists()
