"""Segmentation nodes and files: places, names, colours, codes, and what is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from ReCoKDLib.errors import InputError, OutputError
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.labels import LabelSet, Segment
from ReCoKDLib.mrml.segmentations import labels_from_node, segmentation_to_node, write_segmentation
from ReCoKDLib.mrml.volumes import volume_to_node, vtk_matrix
from ReCoKDLib.volume import Volume

Matrix = npt.NDArray[np.float64]
Points = npt.NDArray[np.float64]
TwoBlobs = Callable[..., tuple[Volume, Volume]]
WorldPoints = Callable[[Volume, int], Points]
SamePlaces = Callable[[Points, Points], bool]


def names(node: Any) -> list[str]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]


def ids(node: Any) -> list[str]:
    segmentation = node.GetSegmentation()
    return [segmentation.GetNthSegmentID(n) for n in range(segmentation.GetNumberOfSegments())]


def read_back(slicer: Any, path: Path) -> Any:
    """A segmentation file as Slicer reads it."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "read")
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(path))
    assert storage.ReadData(node)
    return node


def test_node_has_the_voxels_where_they_were(
    slicer: Any, two_blobs: TwoBlobs, any_geometry: Matrix, blob_labels: LabelSet
) -> None:
    image, labels = two_blobs(any_geometry)
    volume_node = volume_to_node(image)
    node = segmentation_to_node(labels, blob_labels, volume_node)
    # Slicer's own export on the volume's geometry, not our way back.
    for value, segment_id in enumerate(ids(node), start=1):
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume_node)
        assert np.array_equal(mask > 0, labels.array[0] == value)
    assert np.array_equal(labels_from_node(node, blob_labels, image).array, labels.array)


def test_names_colours_codes_and_reference(
    slicer: Any, two_blobs: TwoBlobs, blob_labels: LabelSet, oblique_left_handed_matrix: Matrix
) -> None:
    image, labels = two_blobs(oblique_left_handed_matrix)
    volume_node = volume_to_node(image)
    node = segmentation_to_node(labels, blob_labels, volume_node)
    assert node.GetName() == "two blobs segmentation"
    assert names(node) == ["Anterior", "Größe hinten"]
    assert ids(node) == ["Anterior", "Größe hinten"]
    for segment, segment_id in zip(blob_labels.segments, ids(node), strict=True):
        given = node.GetSegmentation().GetSegment(segment_id)
        assert np.allclose(given.GetColor(), segment.color)
        tag = slicer.vtkSegment.GetTerminologyEntryTagName()
        assert tag_value(given, tag) == segment.terminology
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is volume_node
    text = node.GetSegmentation().GetConversionParameter(
        slicer.vtkSegmentationConverter.GetReferenceImageGeometryParameterName()
    )
    numbers = [float(part) for part in text.split(";") if part]
    assert np.allclose(np.reshape(numbers[:16], (4, 4)), oblique_left_handed_matrix)
    k, j, i = image.shape
    assert numbers[16:] == [0, i - 1, 0, j - 1, 0, k - 1]


def tag_value(segment: Any, tag: str) -> str:
    import vtk

    value = vtk.reference("")
    segment.GetTag(tag, value)
    return str(value)


def test_values_with_gaps_and_a_segment_without_voxels(slicer: Any, two_blobs: TwoBlobs) -> None:
    image, labels = two_blobs()
    spread = labels.with_array(np.array([0, 7, 300], np.int16)[labels.array])
    label_set = LabelSet(tuple(Segment(f"structure {v}", v, (v,), (0.5, 0.5, 0.5)) for v in (7, 9, 300)))
    node = segmentation_to_node(spread, label_set, volume_to_node(image))
    assert names(node) == ["structure 7", "structure 9", "structure 300"]
    assert np.array_equal(labels_from_node(node, label_set, image).array, spread.array)
    counts = [
        int((slicer.util.arrayFromSegmentBinaryLabelmap(node, i, None) > 0).sum()) if i != "structure 9" else 0
        for i in ids(node)
    ]
    assert counts == [int((spread.array == 7).sum()), 0, int((spread.array == 300).sum())]


def test_nothing_found(slicer: Any, two_blobs: TwoBlobs, blob_labels: LabelSet, tmp_path: Path) -> None:
    image, labels = two_blobs()
    nothing = labels.with_array(np.zeros_like(labels.array))
    node = segmentation_to_node(nothing, blob_labels, volume_to_node(image))
    assert names(node) == ["Anterior", "Größe hinten"]
    assert not labels_from_node(node, blob_labels, image).array.any()
    write_segmentation(nothing, blob_labels, tmp_path / "nothing.seg.nrrd")
    again = read_back(slicer, tmp_path / "nothing.seg.nrrd")
    assert names(again) == ["Anterior", "Größe hinten"]
    assert not labels_from_node(again, blob_labels, image).array.any()


def test_overlapping_regions_stay_whole(slicer: Any, two_blobs: TwoBlobs, tmp_path: Path) -> None:
    image, labels = two_blobs()
    regions = LabelSet((Segment("whole", 1, (1, 2), (1, 0, 0)), Segment("core", 2, (2,), (0, 1, 0))), has_regions=True)
    node = segmentation_to_node(labels, regions, volume_to_node(image))
    write_segmentation(labels, regions, tmp_path / "regions.seg.nrrd")
    for found in (node, read_back(slicer, tmp_path / "regions.seg.nrrd")):
        whole, core = (
            slicer.util.arrayFromSegmentBinaryLabelmap(found, i, volume_to_node(image)) > 0 for i in ids(found)
        )
        assert np.array_equal(whole, labels.array[0] > 0)
        assert np.array_equal(core, labels.array[0] == 2)


def test_an_existing_segmentation_keeps_its_other_segments(
    slicer: Any, two_blobs: TwoBlobs, blob_labels: LabelSet
) -> None:
    image, labels = two_blobs()
    volume_node = volume_to_node(image)
    mine = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    mine.CreateDefaultDisplayNodes()
    mine.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    drawn = {}
    for name, region in {
        "tumour": np.s_[2:9, 2:9, 2:9],
        "ANTERIOR": np.s_[0:3, 0:3, 0:3],
        "cyst": np.s_[5:7, :, :],
    }.items():
        segment_id = mine.GetSegmentation().AddEmptySegment("", name)
        drawn[name] = np.zeros(image.shape, np.uint8)
        drawn[name][region] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(drawn[name], mine, segment_id, volume_node)
    before = ids(mine)
    assert segmentation_to_node(labels, blob_labels, volume_node, mine) is mine
    assert mine.GetName() == "mine"
    assert names(mine) == ["tumour", "Anterior", "cyst", "Größe hinten"]
    assert ids(mine)[:3] == before  # markups, scripts and saved scenes find the segment again
    for name, segment_id in zip(names(mine), ids(mine), strict=True):
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(mine, segment_id, volume_node) > 0
        expected = {"Anterior": labels.array[0] == 1, "Größe hinten": labels.array[0] == 2}
        assert np.array_equal(mask, expected[name] if name in expected else drawn[name] > 0), name


def test_a_second_run_replaces_the_first(slicer: Any, two_blobs: TwoBlobs, blob_labels: LabelSet) -> None:
    image, labels = two_blobs()
    volume_node = volume_to_node(image)
    node = segmentation_to_node(labels, blob_labels, volume_node)
    swapped = labels.with_array(np.array([0, 2, 1], np.uint8)[labels.array])
    segmentation_to_node(swapped, blob_labels, volume_node, node)
    assert names(node) == ["Anterior", "Größe hinten"]
    assert np.array_equal(labels_from_node(node, blob_labels, image).array, swapped.array)


def test_surfaces_follow(
    slicer: Any, two_blobs: TwoBlobs, blob_labels: LabelSet, oblique_left_handed_matrix: Matrix
) -> None:
    """A segmentation shown in 3D shows the new segments, at their place also in a left-handed volume."""
    image, labels = two_blobs(oblique_left_handed_matrix)
    volume_node = volume_to_node(image)
    empty = labels.with_array(np.zeros_like(labels.array))
    node = segmentation_to_node(empty, blob_labels, volume_node)
    node.CreateClosedSurfaceRepresentation()
    segmentation_to_node(labels, blob_labels, volume_node, node)
    for value, segment_id in enumerate(ids(node), start=1):
        import vtk

        surface = vtk.vtkPolyData()
        node.GetClosedSurfaceRepresentation(segment_id, surface)
        k, j, i = np.nonzero(labels.array[0] == value)
        centre = (labels.ijk_to_ras @ (i.mean(), j.mean(), k.mean(), 1.0))[:3]
        bounds = np.reshape(surface.GetBounds(), (3, 2))
        assert surface.GetNumberOfPoints() > 50
        assert np.allclose(bounds.mean(1), centre, atol=1.5)


def test_a_surface_segmentation_becomes_voxels(slicer: Any, two_blobs: TwoBlobs, blob_labels: LabelSet) -> None:
    import vtk

    image, labels = two_blobs()
    volume_node = volume_to_node(image)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "contours")
    sphere = vtk.vtkSphereSource()
    sphere.SetCenter(*(image.ijk_to_ras @ (13, 11, 9, 1))[:3])
    sphere.SetRadius(5)
    sphere.Update()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    node.AddSegmentFromClosedSurfaceRepresentation(sphere.GetOutput(), "lesion", (1, 0, 0))
    segmentation_to_node(labels, blob_labels, volume_node, node)
    assert names(node) == ["lesion", "Anterior", "Größe hinten"]
    assert np.array_equal(labels_from_node(node, blob_labels, image).array, labels.array)
    lesion = LabelSet((Segment("lesion", 1, (1,), (1, 0, 0)),))
    assert 400 < labels_from_node(node, lesion, image).array.sum() < 650  # 4/3 pi 5^3 = 524


def test_it_moves_with_the_volume(
    slicer: Any, two_blobs: TwoBlobs, blob_labels: LabelSet, oblique_matrix: Matrix
) -> None:
    image, labels = two_blobs()
    volume_node = volume_to_node(image)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "t")
    transform.SetMatrixTransformToParent(vtk_matrix(oblique_matrix))
    volume_node.SetAndObserveTransformNodeID(transform.GetID())
    in_world = Volume(labels.array, oblique_matrix @ labels.ijk_to_ras)
    node = segmentation_to_node(in_world, blob_labels, volume_node)
    assert node.GetParentTransformNode() is transform
    assert np.array_equal(labels_from_node(node, blob_labels, in_world).array, labels.array)
    for value, segment_id in enumerate(ids(node), start=1):
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume_node)
        assert np.array_equal(mask > 0, labels.array[0] == value)


def test_into_a_segmentation_under_another_transform(
    slicer: Any, two_blobs: TwoBlobs, blob_labels: LabelSet, oblique_matrix: Matrix
) -> None:
    image, labels = two_blobs()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "moved")
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "t")
    transform.SetMatrixTransformToParent(vtk_matrix(oblique_matrix))
    node.SetAndObserveTransformNodeID(transform.GetID())
    segmentation_to_node(labels, blob_labels, volume_to_node(image), node)
    assert np.array_equal(labels_from_node(node, blob_labels, image).array, labels.array)
    # Hardened, the same segments stand at the same place without the transform.
    node.HardenTransform()
    back = labels_from_node(node, blob_labels, image).array
    assert (back == labels.array).mean() > 0.99


def test_a_segmentation_under_a_warp_is_refused(slicer: Any, two_blobs: TwoBlobs, blob_labels: LabelSet) -> None:
    image, labels = two_blobs()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "bent")
    warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp")
    node.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(InputError, match="'bent' is under the transform 'warp'"):
        segmentation_to_node(labels, blob_labels, volume_to_node(image), node)


def test_it_stands_beside_the_volume_in_the_study(slicer: Any, two_blobs: TwoBlobs, blob_labels: LabelSet) -> None:
    image, labels = two_blobs()
    volume_node = volume_to_node(image)
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    study = hierarchy.CreateStudyItem(hierarchy.GetSceneItemID(), "study")
    hierarchy.CreateItem(study, volume_node)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "s")
    item = hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)  # the application does this by itself
    segmentation_to_node(labels, blob_labels, volume_node, node)
    assert hierarchy.GetItemParent(item) == study


def test_no_segmentation_is_refused(slicer: Any, two_blobs: TwoBlobs, blob_labels: LabelSet) -> None:
    with pytest.raises(InputError, match="No segmentation was chosen"):
        labels_from_node(None, blob_labels, two_blobs()[0])


# Files


def test_the_file_is_right_for_slicer_and_for_simpleitk(
    slicer: Any,
    two_blobs: TwoBlobs,
    any_geometry: Matrix,
    blob_labels: LabelSet,
    tmp_path: Path,
    world_points: WorldPoints,
    same_places: SamePlaces,
) -> None:
    image, labels = two_blobs(any_geometry)
    path = tmp_path / "größer und kleiner" / "case 1.seg.nrrd"
    write_segmentation(labels, blob_labels, path)
    assert [child.name for child in path.parent.iterdir()] == [path.name]

    node = read_back(slicer, path)
    assert names(node) == ["Anterior", "Größe hinten"]
    assert np.array_equal(labels_from_node(node, blob_labels, image).array, labels.array)
    for segment, segment_id in zip(blob_labels.segments, ids(node), strict=True):
        given = node.GetSegmentation().GetSegment(segment_id)
        assert np.allclose(given.GetColor(), segment.color, atol=1e-5)
        assert tag_value(given, slicer.vtkSegment.GetTerminologyEntryTagName()) == segment.terminology

    by_simpleitk = read_volume(path)
    assert by_simpleitk.same_grid(labels)
    for value in (1, 2):
        assert same_places(world_points(by_simpleitk, value), world_points(labels, value))


def test_a_volume_read_by_slicer_and_the_file_agree_in_the_world(
    slicer: Any,
    two_blobs: TwoBlobs,
    blob_labels: LabelSet,
    oblique_left_handed_matrix: Matrix,
    tmp_path: Path,
) -> None:
    """Slicer's reader flips a left-handed volume; our file, made from SimpleITK's reading, still lies on it."""
    from ReCoKDLib.image_io import write_label_map

    _, labels = two_blobs(oblique_left_handed_matrix)
    write_label_map(labels, tmp_path / "labels.nii.gz")
    write_segmentation(read_volume(tmp_path / "labels.nii.gz"), blob_labels, tmp_path / "labels.seg.nrrd")
    volume_node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "read by Slicer")
    storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
    storage.SetFileName(str(tmp_path / "labels.nii.gz"))
    assert storage.ReadData(volume_node)
    node = read_back(slicer, tmp_path / "labels.seg.nrrd")
    for value, segment_id in enumerate(ids(node), start=1):
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment_id, volume_node)
        assert np.array_equal(mask > 0, slicer.util.arrayFromVolume(volume_node) == value)


def test_real_case(slicer: Any, shared_data: Path, tmp_path: Path) -> None:
    labels = read_volume(shared_data / "ct" / "example_seg.nii.gz")
    values = [int(v) for v in np.unique(labels.array) if v]
    label_set = LabelSet(tuple(Segment(f"structure {v}", v, (v,), (v / 255, 0.5, 0.5)) for v in values))
    write_segmentation(labels, label_set, tmp_path / "ct.seg.nrrd")
    node = read_back(slicer, tmp_path / "ct.seg.nrrd")
    assert len(names(node)) == len(values) > 40
    assert np.array_equal(labels_from_node(node, label_set, labels).array, labels.array)


def test_files_are_not_overwritten_unasked(
    slicer: Any, two_blobs: TwoBlobs, blob_labels: LabelSet, tmp_path: Path
) -> None:
    _, labels = two_blobs()
    path = tmp_path / "a.seg.nrrd"
    path.write_text("precious")
    with pytest.raises(OutputError, match="exists already"):
        write_segmentation(labels, blob_labels, path)
    assert path.read_text() == "precious"
    write_segmentation(labels, blob_labels, path, overwrite=True)
    assert names(read_back(slicer, path)) == ["Anterior", "Größe hinten"]


def test_another_suffix_is_refused(two_blobs: TwoBlobs, blob_labels: LabelSet, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"ends in \.seg\.nrrd"):
        write_segmentation(two_blobs()[1], blob_labels, tmp_path / "a.nrrd")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit of the size of files")
def test_a_full_disk_leaves_the_old_file(slicer: Any, repository: Path, tmp_path: Path) -> None:
    """A file that may not grow stands for a disk that is full."""
    path = tmp_path / "a.seg.nrrd"
    path.write_text("precious")
    code = f"""
import resource, signal
import numpy as np
from pathlib import Path
from ReCoKDLib.errors import OutputError
from ReCoKDLib.labels import LabelSet, Segment
from ReCoKDLib.mrml.segmentations import write_segmentation
from ReCoKDLib.volume import Volume
noise = np.random.default_rng(0).integers(0, 2, (1, 64, 64, 64), dtype=np.uint8)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    labels = LabelSet((Segment("noise", 1, (1,), (1, 0, 0)),))
    write_segmentation(Volume(noise, np.eye(4)), labels, Path({str(path)!r}), overwrite=True)
except OutputError as error:
    print("refused:", error)
"""
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(repository / "ReCoKD")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "refused:" in run.stdout, run.stderr
    assert "could not be written" in run.stdout
    assert path.read_text() == "precious"
    assert [child.name for child in tmp_path.iterdir()] == [path.name]
