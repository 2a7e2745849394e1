"""Messages name no patient where files and folders do, however a system writes their paths."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ReCoKDLib.errors import InputError
from ReCoKDLib.mrml.scene_cases import SceneCase
from ReCoKDTrainingLib.datasets import dicom, scenes
from ReCoKDTrainingLib.datasets.case import without_path
from ReCoKDTrainingLib.datasets.dicom import DicomReader, Series
from ReCoKDTrainingLib.datasets.scenes import SceneReader, ScenesDataset

WINDOWS = (r"C:\scans\Doe^Jane", r"\\server\scans\Doe, Jane", r"D:\Jane O'Doe\new", 'D:\\Doe "J\'ane"\\ö')


def told_by_the_system(path: object) -> OSError:
    return OSError(13, "Permission denied", str(path))


def refuse(path: Path, *_: Any) -> Any:
    """As any reader that says where, and what the system says."""
    raise InputError(f"{path} cannot be read ({told_by_the_system(path)}). Get the file again.")


@pytest.mark.parametrize("folder", [*WINDOWS, "/scans/Doe^Jane"])
def test_a_path_is_not_told_whatever_its_slashes(folder: str) -> None:
    path = Path(folder)
    assert without_path(str(told_by_the_system(path)), path, "the file") == "[Errno 13] Permission denied: the file"
    for written in (path, path.resolve(), path.as_posix()):
        assert without_path(f"{written} is bad.", path, "The file") == "The file is bad."


@pytest.mark.parametrize("folder", WINDOWS)
def test_a_scene_that_cannot_be_opened(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path, told = Path(folder + r"\scene.mrb"), "The scene cannot be read"
    monkeypatch.setattr(scenes, "open_scene", refuse)
    monkeypatch.setattr(scenes, "scene_files", lambda _: [path])
    (case,) = ScenesDataset(path).cases
    assert case.reader.place.inside == str(path)
    for reader in (case.reader, SceneReader(path, SceneCase(volumes=("vtkMRMLScalarVolumeNode1",)), ())):
        with pytest.raises(Exception, match=f"^{told}") as caught:
            reader.volume()
        assert "Doe" not in str(caught.value)
        assert "ane" not in str(caught.value)


@pytest.mark.parametrize("folder", WINDOWS)
def test_a_dicom_file_that_cannot_be_opened(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    highdicom = pytest.importorskip("highdicom")
    path = Path(folder + r"\seg.dcm")

    def fail(file: Path) -> Any:
        raise told_by_the_system(file)

    monkeypatch.setattr(highdicom.seg, "segread", fail)
    with pytest.raises(InputError, match=r"could not be read \(\[Errno 13\] Permission denied: the file\)"):
        next(dicom._masks(path, [("1", 1)]))


@pytest.mark.parametrize("folder", WINDOWS)
def test_a_dicom_series_that_cannot_be_opened(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom, "read_volume", refuse)
    reader = DicomReader((Series(Path(folder), "1.2.3", (Path(folder + r"\1.dcm"),)),), (), ())
    with pytest.raises(InputError) as caught:
        reader.volume()
    told = "of the case cannot be read ([Errno 13] Permission denied: of the case). Get the file again."
    assert str(caught.value) == told
