"""The Segment Editor's rules hold for clicks and strokes of the effect as they do for its runs; strokes; channels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from effect_user import Array, Case, all_second, bitten, empty, run
from geometries import oblique_left_handed
from panel_user import choose
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.mrml.volumes import volume_to_node
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]
INSIDE = [(6, 6, 6), (6, 6, 7), (6, 6, 8)]  # of the first blob, along a line


def by_click(here: Case) -> None:
    here.press(here.place(6, 6, 7), control=True)


def by_stroke(here: Case) -> None:
    here.options.strokeCheckBox.checked = True
    here.draw(INSIDE)


BOTH = pytest.mark.parametrize("correct", [by_click, by_stroke], ids=["click", "stroke"])


@BOTH
def test_a_correction_inside_is_masked(host: Any, slicer: Any, case: Any, correct: Callable[[Case], None]) -> None:
    """Where another segment is, masking "Outside all segments" keeps everything as it is."""

    def half(array: Array) -> None:
        bitten(array)
        array[6, :7] = 2

    here = case(half)
    here.editor.node.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedOutsideAllSegments)
    before, other = here.mask(0), here.mask(1)
    correct(here)
    assert host.messages == []
    assert (here.mask(0) != before).any()
    assert not (here.mask(0) & other).any()
    assert np.array_equal(here.mask(1), other)


@BOTH
def test_a_correction_keeps_to_the_intensity_range(
    host: Any, slicer: Any, case: Any, correct: Callable[[Case], None]
) -> None:
    here = case(bitten)
    before = here.mask(0)
    low = float(np.median(here.image.array[0][before]))
    here.editor.node.SetSourceVolumeIntensityMask(True)
    here.editor.node.SetSourceVolumeIntensityMaskRange(low, 10000)
    correct(here)
    added = here.mask(0) & ~before
    assert added.any()
    assert here.image.array[0][added].min() >= low


@BOTH
@pytest.mark.parametrize("mode", ["OverwriteNone", "OverwriteAllSegments"])
def test_a_correction_keeps_to_the_overwrite_mode(
    host: Any, slicer: Any, case: Any, correct: Callable[[Case], None], mode: str
) -> None:
    here = case(all_second)
    here.editor.node.SetOverwriteMode(getattr(here.editor.node, mode))
    correct(here)
    added = here.mask(0)
    assert added[6, 6, 7]
    assert np.array_equal(here.mask(1), ~added if mode == "OverwriteAllSegments" else np.ones_like(added))


@BOTH
def test_a_correction_is_one_step_of_the_editors_undo(host: Any, case: Any, correct: Callable[[Case], None]) -> None:
    here = case(bitten)
    before = here.mask(0)
    correct(here)
    after = here.mask(0)
    assert after[6, 6, 7]
    here.editor.logic.Undo()
    assert np.array_equal(here.mask(0), before)
    assert not here.editor.logic.CanUndo()
    here.editor.logic.Redo()
    assert np.array_equal(here.mask(0), after)


@BOTH
def test_a_correction_leaves_locked_segments(host: Any, case: Any, correct: Callable[[Case], None]) -> None:
    def half(array: Array) -> None:
        bitten(array)
        array[6, :7] = 2

    here = case(half)
    here.lock(1)
    other = here.mask(1)
    correct(here)
    assert np.array_equal(here.mask(1), other)
    assert not (here.mask(0) & other).any()
    here.lock(0)
    before = here.mask(0)
    correct(here)
    assert "The segment Anterior is locked" in host.messages[-1]
    assert np.array_equal(here.mask(0), before)


@BOTH
def test_a_correction_outside_gives_nothing_to_others(
    host: Any, slicer: Any, case: Any, correct: Callable[[Case], None]
) -> None:
    """Removing ignores the overwrite mode: no other segment grows."""
    here = case()
    here.editor.node.SetOverwriteMode(here.editor.node.OverwriteAllSegments)
    other = here.mask(1)
    here.options.strokeCheckBox.checked = correct is by_stroke
    here.draw(INSIDE, control=True, shift=True)
    assert not here.mask(0)[INSIDE[0]]
    assert np.array_equal(here.mask(1), other)


# Strokes


def test_a_stroke_fills_what_it_covers(host: Any, case: Any) -> None:
    here = case(empty)
    host.click(here.options.strokeCheckBox)
    here.options.radiusSpinBox.value = 2.0
    voxels = [(15, 15, i) for i in range(4, 9)]
    here.draw(voxels)
    for voxel in voxels:
        assert here.mask(0)[voxel]
    assert host.messages == []
    assert here.options.statusLabel.text.endswith(" voxels corrected.")


def test_a_wider_stroke_covers_more(host: Any, case: Any) -> None:
    voxels = [(15, 15, i) for i in range(4, 9)]
    sizes = []
    for radius in (0.5, 3.0):
        here = case(empty)
        here.options.strokeCheckBox.checked = True
        here.options.radiusSpinBox.value = radius
        here.draw(voxels)
        sizes.append(int(here.mask(0).sum()))
    assert sizes[1] > 2 * sizes[0]


def test_a_stroke_on_an_oblique_left_handed_volume(host: Any, slicer: Any, case: Any) -> None:
    here = case(bitten, oblique_left_handed())
    here.options.strokeCheckBox.checked = True
    here.effect.correct([here.place(*voxel) for voxel in INSIDE], True)
    for voxel in INSIDE:
        assert here.mask(0)[voxel]


def test_without_strokes_the_mouse_is_the_views(host: Any, case: Any) -> None:
    here = case(empty)
    place = here.place(6, 6, 7)
    assert not here.mouse("LeftButtonPress", place, control=False)
    assert not here.mouse("MouseMove", place, control=False)
    assert not here.mouse("LeftButtonRelease", place, control=False)
    assert not here.mask(0).any()


def test_a_stroke_that_leaves_the_volume_is_refused_in_words(host: Any, case: Any) -> None:
    here = case()
    before = here.mask(0)
    here.options.strokeCheckBox.checked = True
    here.draw([(6, 6, 7), (6, 6, 400)])
    (message,) = host.messages
    assert "outside" in message.lower()
    assert np.array_equal(here.mask(0), before)
    assert not here.editor.logic.CanUndo()


def test_choices_are_kept_with_the_editor(host: Any, case: Any) -> None:
    here = case()
    assert not here.options.radiusSpinBox.enabled
    host.click(here.options.strokeCheckBox)
    here.options.radiusSpinBox.value = 2.5
    choose(here.options.structureComboBox, "Größe hinten")
    here.effect.deactivate()
    again = here.editor.use("ReCoKD")
    assert again.options.strokeCheckBox.checked
    assert again.options.radiusSpinBox.value == 2.5
    assert again.options.structure == "Größe hinten"
    again.cleanup()


# Several channels


@pytest.fixture
def two_channels(students: Path, blob_labels: LabelSet) -> str:
    """Name of an installed student of two channels."""
    from packages import small_card, small_weights
    from plans import small_plan
    from ReCoKDLib.card import ChannelInfo
    from ReCoKDLib.package import write_package

    plan = small_plan(schemes=("ZScoreNormalization",) * 2)
    card = small_card(name="two-channels", channels=(ChannelInfo("T1", "MR"), ChannelInfo("FLAIR", "MR")))
    write_package(students / "two.recokd.zip", card, plan, blob_labels, [small_weights(plan)])
    return card.name


def test_each_channel_has_its_volume(
    host: Any, slicer: Any, two_blobs: TwoBlobs, two_channels: str, case: Any, runs: Any
) -> None:
    """By name, as in the panel; the source volume is the first."""
    here = case(empty)
    options = here.options
    assert options.further.rows == []
    assert not options.firstLabel.isVisible()
    choose(options.studentComboBox, two_channels)
    assert options.firstLabel.text == "The source volume is the channel T1."
    ((label, selector),) = options.further.rows
    assert label.text == "FLAIR:"
    host.click(options.runButton)
    assert host.messages == ["Choose the volume with the channel FLAIR."]
    assert runs.started == []
    flair = volume_to_node(two_blobs(seed=4)[0], name="flair")
    choose(selector, "flair")
    assert here.editor.node.GetNodeReference("ReCoKD.Channel1") is flair
    run(host, here)
    assert len(host.messages) == 1
    assert runs.started[0].volume.array.shape[0] == 2
    assert np.array_equal(runs.started[0].volume.array[1], slicer.util.arrayFromVolume(flair))
    choose(options.studentComboBox, "blobs-x4")
    assert options.further.rows == []


def test_a_volume_on_another_grid_is_refused_in_words(
    host: Any, slicer: Any, two_blobs: TwoBlobs, two_channels: str, case: Any, runs: Any
) -> None:
    here = case(empty)
    choose(here.options.studentComboBox, two_channels)
    volume_to_node(two_blobs(np.diag([2.0, 1.0, 1.0, 1.0]))[0], name="elsewhere")
    choose(here.options.further.rows[0][1], "elsewhere")
    host.click(here.options.runButton)
    assert len(host.messages) == 1
    assert "grid" in host.messages[0]
    assert not here.mask(0).any()


def test_progress_tells_the_time_left(host: Any, case: Any, runs: Any) -> None:
    here = case(empty)
    runs.hold = True
    host.click(here.options.runButton)
    host.run_for(0.05)
    assert here.options.progressBar.isVisible()
    assert here.options.statusLabel.text == "Segmenting..."
    runs.started[0].on_progress(0.5)
    assert here.options.statusLabel.text.startswith("Segmenting... 0:0")
    assert here.options.statusLabel.text.endswith(" left")
    host.click(here.options.cancelButton)
    assert not here.options.progressBar.isVisible()


def test_every_option_has_a_hint(case: Any) -> None:
    here = case()
    for name, widget in vars(here.options).items():
        if name.endswith(("ComboBox", "Button", "Bar", "CheckBox", "SpinBox")):
            assert widget.toolTip, name
