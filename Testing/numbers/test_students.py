"""Finding models."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from packages import rewritten, small_package
from ReCoKDLib import students
from ReCoKDLib.errors import PackageError
from ReCoKDLib.students import find_student, list_students, shipped_folder, student_folders, user_folder


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Empty places for shipped students, the user's, and two named by the variable."""
    places = {name: tmp_path / name for name in ("shipped", "user data", "first", "zweites für mich")}
    monkeypatch.setattr(students, "shipped_folder", lambda: places["shipped"])
    monkeypatch.setattr(students, "user_folder", lambda: places["user data"])
    monkeypatch.setenv("RECOKD_STUDENTS", os.pathsep.join([str(places["first"]), "", str(places["zweites für mich"])]))
    return places


def test_all_folders_are_searched(folders: dict[str, Path]) -> None:
    for number, folder in enumerate(folders.values()):
        small_package(folder / f"file{number}.recokd.zip", f"student-{number}")
    small_package(folders["first"] / "as a folder", "in-a-folder")
    (folders["first"] / "SampleCases").mkdir()
    (folders["first"] / "case.nii.gz").write_bytes(b"")
    entries = list_students()
    assert [entry.name for entry in entries] == ["in-a-folder", "student-0", "student-1", "student-2", "student-3"]
    assert all(entry.package is not None and not entry.problem for entry in entries)
    assert find_student("Student-2").path == folders["first"] / "file2.recokd.zip"


def test_folders_that_are_not_there_hold_no_students(folders: dict[str, Path]) -> None:
    assert list_students() == ()
    with pytest.raises(PackageError, match="no student called 'x'. Found: none"):
        find_student("x")


def test_of_two_with_one_name_the_first_is_taken(folders: dict[str, Path]) -> None:
    small_package(folders["shipped"] / "a.recokd.zip", "blobs", description="shipped")
    small_package(folders["user data"] / "b.recokd.zip", "blobs", description="mine")
    assert find_student("blobs").card.description == "mine"
    small_package(folders["first"] / "c.recokd.zip", "BLOBS", description="named")
    assert find_student("blobs").card.description == "named"
    assert len(list_students()) == 1


def test_a_broken_one_is_listed_with_its_reason(folders: dict[str, Path]) -> None:
    small_package(folders["first"] / "good.recokd.zip", "good")
    broken = small_package(folders["first"] / "broken.recokd.zip", "broken")
    rewritten(broken, {"LICENSE": b"changed"}, checksums=False)
    by_name = {entry.name: entry for entry in list_students()}
    assert by_name["good"].package is not None
    assert by_name["broken"].package is None
    assert "LICENSE has changed" in by_name["broken"].problem
    with pytest.raises(PackageError, match="student broken cannot be used. LICENSE has changed"):
        find_student("broken")
    small_package(folders["shipped"] / "broken.recokd.zip", "broken")
    assert find_student("broken").path.parent == folders["shipped"]


def test_a_path_is_opened_as_it_is(folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = small_package(tmp_path / "elsewhere" / "blobs.recokd.zip", "blobs")
    assert find_student(path).card.name == "blobs"
    assert find_student(str(path)).card.name == "blobs"
    folder = small_package(tmp_path / "elsewhere" / "folder", "in-a-folder")
    monkeypatch.chdir(folder.parent)
    assert find_student("folder").card.name == "in-a-folder"
    assert find_student("blobs.recokd.zip").card.name == "blobs"
    with pytest.raises(PackageError, match="There is no model package"):
        find_student("nowhere/blobs.recokd.zip")


def test_an_unknown_name_is_answered_with_the_known_ones(folders: dict[str, Path]) -> None:
    small_package(folders["user data"] / "a.recokd.zip", "hippo-x4")
    small_package(folders["user data"] / "b.recokd.zip", "hippo-x8")
    with pytest.raises(
        PackageError, match=r"no student called 'hippo'. Found: hippo-x4, hippo-x8\. Give .* RECOKD_STUDENTS"
    ):
        find_student("hippo")


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_DATA_HOME", "{variable}/ReCoKD/Students"),
        ("linux", None, "{home}/.local/share/ReCoKD/Students"),
        ("darwin", None, "{home}/Library/Application Support/ReCoKD/Students"),
        ("win32", "LOCALAPPDATA", "{variable}/ReCoKD/Students"),
        ("win32", None, "{home}/AppData/Local/ReCoKD/Students"),
    ],
)
def test_the_users_folder_is_where_the_platform_keeps_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, variable: str | None, expected: str
) -> None:
    monkeypatch.setattr("sys.platform", platform)
    for name in ("XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, str(tmp_path / "data"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert user_folder() == Path(expected.format(variable=tmp_path / "data", home=tmp_path / "home"))


def test_shipped_students_are_found_in_the_source_and_in_an_installation(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shipped_folder() == repository / "ReCoKD" / "Resources" / "Students"
    installed = tmp_path / "site-packages" / "ReCoKDLib"
    (installed / "Resources" / "Students").mkdir(parents=True)
    monkeypatch.setattr(students, "__file__", str(installed / "students.py"))
    assert shipped_folder() == installed / "Resources" / "Students"
    assert student_folders()[-1] == shipped_folder()
