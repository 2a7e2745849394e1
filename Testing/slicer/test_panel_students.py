"""The panel's students: imported, refused, removed, found in folders; and what is remembered between sessions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from packages import rewritten, small_package
from panel_user import choose, segment, segmentations, settle
from ReCoKDLib.students import list_students, shipped_folder, user_folder
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]


def shown(panel: Any) -> list[str]:
    combo = panel.ui.studentComboBox
    return [combo.itemText(index) for index in range(combo.count)]


def menu_entry(button: Any, text: str) -> Any:
    """An entry of a button's menu, by a part of its text."""
    (entry,) = [action for action in button.menu().actions() if text in action.property("text")]
    return entry


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package somewhere on the disk."""
    return small_package(tmp_path / "downloads" / "new.recokd.zip", "new-student")


def drop(panel: Any, path: Path) -> Any:
    """Drop a file onto the section of the students, as a file manager does."""
    from PySide6.QtCore import QMimeData, QPointF, Qt, QUrl
    from PySide6.QtGui import QDragEnterEvent, QDropEvent
    from PySide6.QtWidgets import QApplication

    data = QMimeData()
    data.setUrls([QUrl.fromLocalFile(str(path))])
    where = (Qt.DropAction.CopyAction, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier)
    entered = QDragEnterEvent(QPointF(5, 5).toPoint(), *where)
    QApplication.sendEvent(panel.ui.StudentSection, entered)
    if entered.isAccepted():
        QApplication.sendEvent(panel.ui.StudentSection, QDropEvent(QPointF(5, 5), *where))
    return entered


def test_the_card_of_the_shipped_student(host: Any, panel: Any, picture_of: Any) -> None:
    choose(panel.ui.studentComboBox, "hippocampus-x4")
    card = panel.ui.cardLabel.text
    for text in ("Anterior", "Posterior", "MRI", "Dice 0.875", "351,329 parameters, 0.7 MB", "CC-BY-SA-4.0"):
        assert text in card
    assert "Not a medical device" in card
    assert panel.ui.pictureLabel.isVisible()
    assert panel.ui.pictureLabel.pixmap.width() > 50


def test_open_sample_data_loads_a_case_that_fits(host: Any, slicer: Any, panel: Any, picture_of: Any) -> None:
    choose(panel.ui.studentComboBox, "hippocampus-x4")
    host.click(panel.ui.sampleDataButton)
    settle(host, panel)
    assert panel.ui.inputSelector.currentNode().GetName() == "hippocampus_025"
    assert panel.ui.checkLabel.text == "The volume is like those that the student was made from."
    assert panel.ui.applyButton.enabled
    picture_of("panel-2-sample")


def test_no_sample_for_other_students(host: Any, blob_student: str, panel: Any) -> None:
    choose(panel.ui.studentComboBox, blob_student)
    assert not panel.ui.sampleDataButton.enabled
    assert panel.ui.sampleDataButton.toolTip == "No sample data for the chosen student came with ReCoKD."


def test_import_by_the_file_dialog(host: Any, panel: Any, package: Path) -> None:
    host.chosen_files.append(str(package))
    host.click(panel.ui.importButton)
    assert host.messages == []
    assert panel.ui.studentComboBox.currentText == "new-student"
    copied = user_folder() / "new-student.recokd.zip"
    assert copied.read_bytes() == package.read_bytes()
    assert [path.name for path in user_folder().iterdir()] == [copied.name]
    package.unlink()
    host.click(panel.ui.refreshButton)
    assert panel.ui.studentComboBox.currentText == "new-student"


def test_a_dialog_left_without_a_choice_changes_nothing(host: Any, panel: Any) -> None:
    before = shown(panel)
    host.click(panel.ui.importButton)
    menu_entry(panel.ui.foldersButton, "Add").trigger()
    assert shown(panel) == before
    assert host.messages == []


def test_import_of_a_folder(host: Any, panel: Any, tmp_path: Path) -> None:
    folder = small_package(tmp_path / "unpacked", "in-a-folder")
    host.chosen_files.append(str(folder))
    menu_entry(panel.ui.importButton, "folder").trigger()
    assert panel.ui.studentComboBox.currentText == "in-a-folder"
    assert (user_folder() / "in-a-folder" / "checksums.json").is_file()


def test_import_by_dropping(host: Any, panel: Any, package: Path) -> None:
    assert drop(panel, package).isAccepted()
    assert panel.ui.studentComboBox.currentText == "new-student"
    assert (user_folder() / "new-student.recokd.zip").is_file()


def test_a_refused_package_says_why_and_leaves_nothing(host: Any, panel: Any, package: Path, tmp_path: Path) -> None:
    before = shown(panel)
    drop(panel, rewritten(package, {"models/extra.pkl": b"\x80\x04x"}, checksums=False))
    (message,) = host.messages
    assert "pickle" in message
    assert "Do not use this package" in message
    torn = tmp_path / "torn.recokd.zip"
    torn.write_bytes(b"half")
    drop(panel, torn)
    assert len(host.messages) == 2
    assert shown(panel) == before
    assert not user_folder().exists() or list(user_folder().iterdir()) == []
    assert panel.ui.statusLabel.text == host.messages[-1]


def test_damaged_weights_are_found_at_the_import(host: Any, panel: Any, package: Path) -> None:
    drop(panel, rewritten(package, {"models/model.safetensors": b"\x08" + bytes(7) + b"{}      "}, checksums=False))
    (message,) = host.messages
    assert "model.safetensors has changed since the package was written" in message


def test_replacing_is_asked_for(host: Any, panel: Any, package: Path, tmp_path: Path) -> None:
    host.chosen_files.append(str(package))
    host.click(panel.ui.importButton)
    drop(panel, package)  # the same again: nothing to ask
    assert host.messages == []
    other = small_package(tmp_path / "other.recokd.zip", "new-student", folds=2)
    host.answers.append(host.qt.QMessageBox.No)
    drop(panel, other)
    assert "Another model called new-student" in host.messages[0]
    installed = user_folder() / "new-student.recokd.zip"
    assert installed.read_bytes() == package.read_bytes()
    drop(panel, other)
    assert installed.read_bytes() == other.read_bytes()
    folder = small_package(tmp_path / "folder", "new-student", dtype="float16")
    drop(panel, folder)
    assert sorted(path.name for path in user_folder().iterdir()) == ["new-student"]


def test_removal_asks_and_only_takes_ones_own(host: Any, panel: Any, package: Path) -> None:
    choose(panel.ui.studentComboBox, "hippocampus-x4")
    assert not panel.ui.removeButton.enabled
    drop(panel, package)
    assert panel.ui.removeButton.enabled
    host.answers.append(host.qt.QMessageBox.No)
    host.click(panel.ui.removeButton)
    assert "new-student" in shown(panel)
    host.click(panel.ui.removeButton)
    assert "new-student" not in shown(panel)
    assert "Remove the student new-student?" in host.messages[0]
    assert list(user_folder().iterdir()) == []
    assert list(shipped_folder().glob("*.zip"))


def test_removing_what_is_not_ones_own_is_refused() -> None:
    from ReCoKDLib.errors import OutputError
    from ReCoKDLib.installing import remove_student

    (entry,) = [entry for entry in list_students() if entry.name == "hippocampus-x4"]
    with pytest.raises(OutputError, match="not in your own folder"):
        remove_student(entry)
    assert entry.path.exists()


def test_folders_of_the_user(host: Any, panel: Any, recokd: Any, package: Path, runs: Any) -> None:
    host.chosen_files.append(str(package.parent))
    menu_entry(panel.ui.foldersButton, "Add").trigger()
    assert "new-student" in shown(panel)
    choose(panel.ui.studentComboBox, "new-student")
    assert not panel.ui.removeButton.enabled
    again = host.open(recokd)  # the next session
    assert "new-student" in shown(again)
    menu_entry(again.ui.foldersButton, str(package.parent)).trigger()
    assert "new-student" not in shown(again)
    again.cleanup()
    assert package.exists()


def test_the_student_of_the_last_session_is_chosen(
    host: Any, slicer: Any, panel: Any, recokd: Any, package: Path, runs: Any
) -> None:
    drop(panel, package)
    slicer.mrmlScene.Clear(0)
    again = host.open(recokd)
    assert again.ui.studentComboBox.currentText == "new-student"
    again.cleanup()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_user_folder_that_cannot_be_written(host: Any, panel: Any, package: Path) -> None:
    user_folder().mkdir(parents=True)
    user_folder().chmod(0o500)
    try:
        drop(panel, package)
    finally:
        user_folder().chmod(0o700)
    assert "cannot be written" in host.messages[0]


def test_settings_that_cannot_be_written(
    host: Any, recokd: Any, students: Path, package: Path, runs: Any, tmp_path: Path
) -> None:
    """A read-only settings folder: all works in this session, and the user is told what is forgotten."""
    host.use_settings(Path("/proc/no-such-folder/settings.ini"))
    panel = host.open(recokd)
    host.chosen_files.append(str(package.parent))
    menu_entry(panel.ui.foldersButton, "Add").trigger()
    assert "new-student" in shown(panel)
    assert host.messages == ["Slicer's settings cannot be written, so the folders are forgotten when Slicer is closed."]
    choose(panel.ui.deviceComboBox, "CPU")
    assert panel.panel.settings.device == "cpu"
    panel.cleanup()


def test_a_picture_beside_the_package_is_shown_and_comes_along(host: Any, panel: Any, package: Path) -> None:
    shutil.copy(shipped_folder() / "hippocampus-x4.png", package.with_name("new.png"))
    drop(panel, package)
    assert panel.ui.pictureLabel.isVisible()
    assert (user_folder() / "new-student.png").is_file()
    host.click(panel.ui.removeButton)
    assert list(user_folder().iterdir()) == []


def test_a_run_uses_the_imported_student(
    host: Any, slicer: Any, two_blobs: TwoBlobs, blob_student: str, students: Path, panel: Any, tmp_path: Path
) -> None:
    from ReCoKDLib.mrml.volumes import volume_to_node

    moved = tmp_path / "moved.recokd.zip"
    (students / "blobs.recokd.zip").rename(moved)
    host.click(panel.ui.refreshButton)
    drop(panel, moved)
    assert panel.ui.studentComboBox.currentText == blob_student
    volume_to_node(two_blobs()[0])
    panel.initializeParameterNode()
    segment(host, panel)
    assert len(segmentations(slicer)) == 1
