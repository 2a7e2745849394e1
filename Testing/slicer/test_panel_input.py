"""The panel before a run: volumes, channels, region, and the check whether they fit the student."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from geometries import TURNED_LEFT_HANDED
from packages import small_card, small_weights
from panel_user import choose, segment, segmentations, settle
from plans import TWO_LABELS, small_plan
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.mrml.checking import check_nodes
from ReCoKDLib.mrml.views import region_around
from ReCoKDLib.mrml.volumes import volume_to_node
from ReCoKDLib.package import ModelPackage, write_package
from ReCoKDLib.volume import Volume

Matrix = npt.NDArray[np.float64]
TwoBlobs = Callable[..., tuple[Volume, Volume]]


def test_apply_waits_for_a_volume_and_a_student(host: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any) -> None:
    assert not panel.ui.applyButton.enabled
    volume_to_node(two_blobs()[0])
    choose(panel.ui.studentComboBox, blob_student)
    settle(host, panel)
    assert panel.ui.applyButton.enabled
    card = panel.ui.cardLabel.text
    for text in ("Anterior", "Größe hinten", "T1", "not measured", "Not a medical device"):
        assert text in card


def test_two_channels_have_a_selector_each(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_labels: LabelSet, students: Path, panel: Any, picture_of: Any
) -> None:
    from packages import small_card, small_weights
    from plans import small_plan
    from ReCoKDLib.card import ChannelInfo
    from ReCoKDLib.package import write_package

    plan = small_plan(schemes=("ZScoreNormalization",) * 2)
    card = small_card(name="two-channels", channels=(ChannelInfo("T1", "MR"), ChannelInfo("FLAIR", "MR")))
    write_package(students / "two.recokd.zip", card, plan, blob_labels, [small_weights(plan)])
    image, _ = two_blobs()
    first, second = volume_to_node(image, name="first"), volume_to_node(image, name="second")
    host.click(panel.ui.refreshButton)
    choose(panel.ui.studentComboBox, "two-channels")
    settle(host, panel)
    assert panel.ui.inputVolumeLabel.text == "T1:"
    ((label, selector),) = panel.panel.input.further.rows
    assert label.text == "FLAIR:"
    assert not panel.ui.applyButton.enabled
    choose(panel.ui.inputSelector, "first")
    choose(selector, "second")
    settle(host, panel)
    picture_of("panel-2-two-channels")
    assert panel.panel.input.nodes() == [first, second]
    assert panel.ui.applyButton.enabled, panel.ui.checkLabel.text
    choose(panel.ui.studentComboBox, "hippocampus-x4")
    assert panel.panel.input.further.rows == []
    choose(panel.ui.studentComboBox, "two-channels")
    assert panel.panel.input.nodes() == [first, second]


def test_a_region(host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, runs: Any) -> None:
    """Made around an oblique, left-handed volume, made smaller, and what lies outside is not segmented."""
    image, _ = two_blobs(TURNED_LEFT_HANDED)
    node = volume_to_node(image)
    choose(panel.ui.studentComboBox, blob_student)
    settle(host, panel)
    host.click(panel.ui.drawRoiButton)
    settle(host, panel)
    roi = panel.ui.roiSelector.currentNode()
    assert roi is not None
    bounds, own = [0.0] * 6, [0.0] * 6
    roi.GetRASBounds(bounds)
    node.GetRASBounds(own)
    assert np.allclose(bounds, own, atol=0.01)
    segment(host, panel)
    whole = tuple((0, n) for n in image.shape)
    assert runs.started[0].options["region"] in (None, whole)
    size = roi.GetSize()
    roi.SetSize(size[0], size[1], size[2] / 3)
    segment(host, panel)
    part = [tuple(ends) for ends in runs.started[1].options["region"]]
    assert tuple(part[1:]) == whole[1:]
    assert 0 < part[0][1] - part[0][0] < image.shape[0] / 2


# The check before the run


def test_bad_input_is_said_before_the_run(
    host: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, picture_of: Any
) -> None:
    image, _ = two_blobs()
    image.array[0, 3, 3, 3] = np.nan
    volume_to_node(image)
    choose(panel.ui.studentComboBox, blob_student)
    settle(host, panel)
    assert panel.ui.checkLabel.text.startswith("The image in channel 0 (T1) has 1 voxel(s) that are not numbers")
    assert not panel.ui.applyButton.enabled
    assert panel.ui.applyButton.toolTip == panel.ui.checkLabel.text


def test_an_empty_volume_is_said_in_words(host: Any, slicer: Any, blob_student: str, panel: Any) -> None:
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hollow")
    choose(panel.ui.studentComboBox, blob_student)
    settle(host, panel)
    assert "'hollow' is empty" in panel.ui.checkLabel.text
    assert not panel.ui.applyButton.enabled


def test_a_warning_has_its_reason_and_stops_nobody(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, panel: Any, picture_of: Any
) -> None:
    volume_to_node(two_blobs(np.diag([2.5, 1.0, 1.0, 1.0]))[0])
    choose(panel.ui.studentComboBox, blob_student)
    settle(host, panel)
    assert "The voxel size 1 x 1 x 2.5 mm (k, j, i) is far from" in panel.ui.checkLabel.text
    picture_of("panel-2-warning")
    segment(host, panel)
    assert len(segmentations(slicer)) == 1
    assert host.messages == []
    assert "The voxel size 1 x 1 x 2.5 mm (k, j, i) is far from" in panel.ui.statusLabel.text


@pytest.mark.parametrize("scheme", ["ZScoreNormalization", "CTNormalization"])
def test_a_region_beside_the_volume_is_refused_before_the_run(
    slicer: Any, two_blobs: TwoBlobs, tmp_path: Path, scheme: str
) -> None:
    """Whether the student sees the region alone or the whole volume."""
    plan = small_plan(schemes=(scheme,))
    card, path = small_card("beside"), tmp_path / "beside.recokd.zip"
    package = ModelPackage.open(write_package(path, card, plan, TWO_LABELS, [small_weights(plan)]))
    node = volume_to_node(two_blobs()[0])
    region = region_around(node)
    assert check_nodes([node], package, region).problem == ""
    region.SetCenter(500.0, 0.0, 0.0)
    assert check_nodes([node], package, region).problem != ""


def test_the_check_takes_no_torch(repository: Path) -> None:
    code = (
        "import sys; from ReCoKDLib.mrml.checking import check_nodes; "
        "print(sorted({'torch', 'scipy', 'skimage', 'SimpleITK'} & set(sys.modules)))"
    )
    import os
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(repository / "ReCoKD")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stderr
