"""The page Train: real checks and short real trainings in processes of their own."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from packages import small_package
from panel_user import choose
from processes import gone
from ReCoKDLib.students import user_folder
from training_user import SECONDS, TwoBlobs, cells, check, finish, make_cases, open_page, said


@pytest.fixture
def teacher(students: Path) -> str:
    """Name of an installed teacher of two blobs."""
    small_package(students / "blobs-teacher.recokd.zip", "blobs-teacher", role="teacher")
    return "blobs-teacher"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "Ergebnis, größer"


@pytest.fixture
def page(host: Any, slicer: Any, two_blobs: TwoBlobs, teacher: str, panel: Any, output: Path) -> Any:
    """The page Train over a scene with four cases, everything chosen."""
    make_cases(slicer, two_blobs)
    open_page(host, panel)
    choose(panel.ui.teacherComboBox, teacher)
    panel.ui.trainOutputEdit.text = str(output)
    return panel


def test_from_the_scene_to_a_student(host: Any, slicer: Any, page: Any, output: Path, monkeypatch: Any) -> None:
    ui = page.ui
    assert ui.trainCasesList.count == 4
    check(host, page)
    assert "Nothing would spoil" in ui.checkLabel.text, cells(ui.checkTable)
    assert {row[0] for row in cells(ui.checkTable)} >= {"Mustermann 0"}
    host.click(ui.trainButton)
    assert not ui.trainButton.enabled
    assert ui.stopTrainingButton.enabled
    host.run_until(lambda: page.panel.train.plot.chart is not None, SECONDS)  # curves come while it runs
    assert page.panel.train.run is not None
    slicer.mrmlScene.Clear(0)  # it needs the scene no more, and the curves come again
    finish(host, page)
    assert said(page) == "The student is ready."
    chart = page.panel.train.plot.chart
    assert slicer.mrmlScene.IsNodePresent(chart)
    assert chart.GetNumberOfPlotSeriesNodes() == 2
    for index, name in enumerate(("Training loss", "Dice of held-out cases")):
        series = chart.GetNthPlotSeriesNode(index)
        assert series.GetYColumnName() == name
        table = series.GetTableNode().GetTable()
        epochs = table.GetColumnByName("Epoch")
        assert [epochs.GetValue(row) for row in range(table.GetNumberOfRows())] == [1.0, 2.0]
        assert np.isfinite([table.GetColumnByName(name).GetValue(row) for row in range(2)]).all()
    name = next(output.glob("*.recokd.zip")).name
    assert (user_folder() / name).is_file()
    assert ui.studentComboBox.findText(name.removesuffix(".recokd.zip")) >= 0
    scores = cells(ui.scoresTable)
    assert [row[0] for row in scores] == ["Mean Dice", "anterior", "posterior"]
    assert all(0 <= float(figure) <= 1 for row in scores for figure in row[1:])
    opened: list[Any] = []
    monkeypatch.setattr(host.qt.QDesktopServices, "openUrl", opened.append)
    host.click(ui.reportButton)
    assert [url.toLocalFile() for url in opened] == [str(output / "report.html")]
    patients = [path for path in output.rglob("*") if path.is_file() and b"Mustermann" in path.read_bytes()]
    assert patients == []
    # Another student of the name is never replaced unasked.
    (user_folder() / name).unlink()
    small_package(user_folder() / name, name.removesuffix(".recokd.zip"))
    before = (user_folder() / name).read_bytes()
    page.panel.train_result.show(output)
    assert (user_folder() / name).read_bytes() == before
    host.answers.append(host.qt.QMessageBox.No)
    host.click(ui.addStudentButton)
    assert (user_folder() / name).read_bytes() == before
    host.click(ui.addStudentButton)
    assert (user_folder() / name).read_bytes() == (output / name).read_bytes()


@pytest.mark.slow
def test_stop_resume_and_a_kill_from_outside(host: Any, page: Any, output: Path) -> None:
    ui = page.ui
    ui.epochsSpinBox.setValue(5000)
    host.click(ui.trainButton)
    host.run_until(lambda: (output / "log.csv").is_file(), SECONDS)
    run = page.panel.train.run
    host.click(ui.stopTrainingButton)
    assert "Stopping" in said(page)
    finish(host, page)
    assert gone(run.pid)
    assert "Resume goes on" in said(page)
    assert list((output / "checkpoints").glob("step-*.pt"))
    assert host.messages == []
    assert ui.resumeTrainingButton.enabled
    host.click(ui.trainButton)  # a new training in the same folder
    assert "not empty" in host.messages.pop()
    epochs = len((output / "log.csv").read_text().splitlines())
    host.click(ui.resumeTrainingButton)
    host.run_until(lambda: len((output / "log.csv").read_text().splitlines()) > epochs + 1, SECONDS)
    run = page.panel.train.run
    os.kill(run.pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    finish(host, page)
    (message,) = host.messages
    assert "Its last lines" in message
    assert "epoch" in message
    assert ui.resumeTrainingButton.enabled


@pytest.mark.slow
def test_nothing_is_left_running_when_slicer_quits(host: Any, page: Any, output: Path) -> None:
    page.ui.epochsSpinBox.setValue(5000)
    host.click(page.ui.trainButton)
    host.run_until(lambda: (output / "log.csv").is_file(), SECONDS)
    pid = page.panel.train.run.pid
    page.panel.cleanup()
    assert gone(pid)
    assert list((output / "checkpoints").glob("step-*.pt"))


def test_a_bad_case_is_told_shown_and_left_out(
    host: Any, slicer: Any, two_blobs: TwoBlobs, teacher: str, panel: Any, output: Path
) -> None:
    made = make_cases(slicer, two_blobs)
    array = slicer.util.arrayFromVolume(made[2][0])
    array[:] = 7.0
    slicer.util.arrayFromVolumeModified(made[2][0])
    slice_view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceCompositeNode")
    open_page(host, panel)
    ui = panel.ui
    panel.panel.train.use_teacher(next(Path(os.environ["RECOKD_STUDENTS"]).glob("*.zip")))
    ui.trainOutputEdit.text = str(output)
    check(host, panel)
    case, severity, message = cells(ui.checkTable)[0]
    assert (case, severity) == ("Mustermann 2", "Spoils the training")
    assert "same value" in message
    assert not ui.trainButton.enabled
    ui.checkTable.setCurrentCell(0, 0)
    ui.checkTable.cellDoubleClicked.emit(0, 0)
    assert slice_view.GetBackgroundVolumeID() == made[2][0].GetID()
    assert [segmentation.GetDisplayVisibility() for _, segmentation in made] == [0, 0, 1, 0]
    host.click(ui.skipBadCheckBox)
    assert ui.trainButton.enabled
    host.click(ui.trainButton)
    host.run_until(lambda: (output / "split.json").is_file(), SECONDS)  # the bad one did not stop it
    assert "case_003" not in (output / "split.json").read_text(encoding="utf-8")
    panel.panel.train.cleanup()


@pytest.mark.slow
def test_a_folder_without_a_teacher(host: Any, slicer: Any, two_blobs: TwoBlobs, panel: Any, output: Path) -> None:
    """Exported by the logic as a script would; learned from the segmentations alone."""
    make_cases(slicer, two_blobs, 3)
    folder = output.parent / "cases"
    panel.logic.exportCasesForTraining(folder)
    slicer.mrmlScene.Clear(0)
    open_page(host, panel)
    ui = panel.ui
    assert ui.trainCasesList.count == 0
    assert not ui.trainButton.enabled
    ui.trainSourceComboBox.setCurrentIndex(1)
    ui.trainDataEdit.text = str(folder)
    ui.trainOutputEdit.text = str(output)
    check(host, panel)
    assert {row[0] for row in cells(ui.checkTable)} == {"case_001", "case_002", "case_003"}, host.messages
    ui.checkTable.setCurrentCell(0, 0)
    for _ in range(2):  # loaded once
        host.click(ui.showCaseButton)
        assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLScalarVolumeNode") == 1
        assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    host.click(ui.trainButton)
    finish(host, panel)
    assert said(panel) == "The student is ready.", host.messages
    assert {row[1] for row in cells(ui.scoresTable)} == {"–"}


def test_a_check_that_fails_says_why(host: Any, panel: Any, tmp_path: Path) -> None:
    open_page(host, panel)
    panel.ui.trainSourceComboBox.setCurrentIndex(1)
    panel.ui.trainDataEdit.text = str(tmp_path / "nowhere")
    check(host, panel)
    row = cells(panel.ui.checkTable)[0]
    assert row[:2] == ["All cases", "Spoils the training"]
    assert "does not exist" in row[2]
    panel.ui.trainDataEdit.text = str(tmp_path)
    assert panel.ui.checkTable.rowCount == 0 or not panel.ui.checkTable.isVisible()
