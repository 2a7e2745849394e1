"""Which cases a folder holds: all of them, once each, under names that differ, the same every time."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dicom_series import write_series
from geometries import oblique
from ReCoKDLib.batch.cases import BatchCase, find_cases
from ReCoKDLib.errors import InputError
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def names(folder: Path, **options: Any) -> list[str]:
    return [case.name for case in find_cases(folder, **options).cases]


def test_every_image_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "b.nii.gz", "a.nrrd", "x/y/ä b.mha", "x/c.nii", "notes.txt", ".hidden/d.nrrd", ".e.nrrd", "f.png")
    assert names(tmp_path) == ["a", "b", "x/c", "x/y/ä b"]
    assert find_cases(tmp_path).cases[1].sources[0].path == tmp_path / "b.nii.gz"


def test_label_maps_are_left_out_and_told(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "a.nii.gz",
        "a_label.nii.gz",
        "a-seg.nrrd",
        "A_Mask.mha",
        "a.seg.nrrd",
        "labelsTr/a.nii.gz",
        "unlabel.nrrd",
    )
    found = find_cases(tmp_path)
    assert [case.name for case in found.cases] == ["a", "unlabel"]
    assert {path.name for path in found.left_out} == {"a_label.nii.gz", "a-seg.nrrd", "A_Mask.mha", "a.nii.gz"}


def test_names_that_collide_are_told_apart(tmp_path: Path) -> None:
    touch(tmp_path, "a.nii.gz", "a.nrrd", "b.nrrd", "s/a.nrrd")
    assert names(tmp_path) == ["a.nii.gz", "a.nrrd", "b", "s/a"]
    (tmp_path / "a.nrrd").unlink()
    assert names(tmp_path) == ["a", "b", "s/a"]
    touch(tmp_path, "B.mha", "a.nrrd", "a.nrrd.nii")  # a.nrrd.nii without its suffix would be a.nrrd
    found = names(tmp_path)
    assert len(found) == len({name.casefold() for name in found}) == 6


def test_loops_of_links_end(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.nrrd", "b/y.nrrd")
    try:
        (tmp_path / "a" / "up").symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / "c").symlink_to(tmp_path / "b", target_is_directory=True)
    except OSError:
        pytest.skip("links cannot be made here")
    assert names(tmp_path) == ["a/x", "b/y"]


def test_a_dangling_link_is_a_case_that_will_fail(tmp_path: Path) -> None:
    touch(tmp_path, "a.nrrd")
    try:
        (tmp_path / "b.nrrd").symlink_to(tmp_path / "nowhere.nrrd")
    except OSError:
        pytest.skip("links cannot be made here")
    assert names(tmp_path) == ["a", "b"]


def test_channels_of_a_case(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "a_0000.nii.gz",
        "a_0001.nii.gz",
        "b_0001.nii.gz",
        "c_0000.nrrd",
        "c_0001.nrrd",
        "c_0002.nrrd",
        "d.mha",
    )
    a, b, c, d = find_cases(tmp_path, channels=2).cases
    assert (a.name, [source.path.name for source in a.sources], a.problem) == (
        "a",
        ["a_0000.nii.gz", "a_0001.nii.gz"],
        "",
    )
    assert "_0000 of this case is missing" in b.problem
    assert "3 channels, the student takes 2" in c.problem
    assert "_0001 of this case is missing" in d.problem
    assert names(tmp_path, channels=1)[:2] == ["a_0000", "a_0001"]


def test_dicom_series(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    first, second = two_blobs(oblique(), seed=1)[0], two_blobs(oblique(), shape=(7, 9, 11), seed=2)[0]
    write_series(tmp_path / "patient" / "one", first)
    uids = [
        write_series(tmp_path / "patient" / "both", volume, prefix=name)
        for volume, name in ((first, "a"), (second, "b"))
    ]
    touch(tmp_path, "patient/both/z.nii.gz", "patient/both/README")
    found = find_cases(tmp_path).cases
    assert [case.name for case in found] == sorted(
        ["patient/one", "patient/both/z", *(f"patient/both/{uid}" for uid in uids)]
    )
    by_name = {case.name: case for case in found}
    for uid, volume in zip(uids, (first, second), strict=True):
        (source,) = by_name[f"patient/both/{uid}"].sources
        assert len(source.files) == volume.shape[0]
        assert read_volume(source.path, source.series).same_grid(volume, tolerance=0.01)
    with pytest.raises(InputError, match="holds 2 DICOM series"):
        read_volume(tmp_path / "patient" / "both")
    with pytest.raises(InputError, match="no DICOM series 1.2.3"):
        read_volume(tmp_path / "patient" / "both", "1.2.3")


def test_a_series_in_the_folder_itself_and_files_without_suffix(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    write_series(tmp_path / "scan", two_blobs()[0])
    for file in list((tmp_path / "scan").iterdir()):
        file.rename(file.with_suffix(""))
    assert names(tmp_path / "scan") == ["scan"]


def test_a_dicom_seg_is_no_case(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    from plans import TWO_LABELS
    from ReCoKDLib.dicom_seg import write_dicom_seg
    from ReCoKDLib.image_io import dicom_files

    image, labels = two_blobs(oblique())
    write_series(tmp_path / "scan", image)
    write_dicom_seg(labels, TWO_LABELS, dicom_files(tmp_path / "scan"), tmp_path / "scan" / "seg.dcm", "a", "1")
    assert names(tmp_path) == ["scan"]


def test_damaged_dicom_files_are_a_case_with_a_problem(tmp_path: Path) -> None:
    touch(tmp_path, "scan/1.dcm", "scan/2.dcm")
    (case,) = find_cases(tmp_path).cases
    assert case.name == "scan"
    assert "None of the 2 DICOM files can be read" in case.problem


def test_a_folder_that_may_not_be_read_stops_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path, "a/x.nrrd", "secret/y.nrrd")
    real = os.scandir

    def scandir(path: Any) -> Any:
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    first, second = find_cases(tmp_path).cases
    assert (first.name, second) == ("a/x", BatchCase("secret", (), "The folder cannot be read (Permission denied)."))
    with pytest.raises(InputError, match="cannot be read"):
        find_cases(tmp_path / "secret")


def test_the_output_inside_of_the_input_is_not_looked_into(tmp_path: Path) -> None:
    touch(tmp_path, "a.nrrd", "out/a.nii.gz")
    assert names(tmp_path, without=tmp_path / "out") == ["a"]


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no image file and no DICOM series"):
        find_cases(tmp_path)
    touch(tmp_path, "a_label.nrrd")
    with pytest.raises(InputError, match="1 files look like label maps"):
        find_cases(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        find_cases(tmp_path / "missing")


def test_two_thousand_files_are_found_at_once(tmp_path: Path) -> None:
    touch(tmp_path, *(f"{n % 20:02d}/case_{n:04d}.nii.gz" for n in range(2000)))
    begun = time.process_time()
    assert len(names(tmp_path)) == 2000
    assert time.process_time() - begun < 3
