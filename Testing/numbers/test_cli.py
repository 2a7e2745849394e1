"""The command ``recokd``."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from geometries import oblique_left_handed
from packages import rewritten, small_package
from ReCoKDLib import __version__
from ReCoKDLib.cli import main
from ReCoKDLib.commands import students
from ReCoKDLib.errors import Cancelled
from ReCoKDLib.image_io import read_volume, write_label_map
from ReCoKDLib.segment import segment
from ReCoKDLib.volume import Volume

TwoBlobs = Callable[..., tuple[Volume, Volume]]
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def student(tmp_path: Path) -> Path:
    return small_package(tmp_path / "models" / "blobs.recokd.zip")


@pytest.fixture
def image(tmp_path: Path, two_blobs: TwoBlobs) -> Path:
    """A file with the two blobs, in a folder with a space and an umlaut."""
    volume, _ = two_blobs()
    path = tmp_path / "Bilder für Tests" / "blobs.nrrd"
    path.parent.mkdir()
    write_label_map(volume.with_array(volume.array.astype(np.uint8)), path)
    return path


def failed(capsys: Capture, *arguments: str | Path) -> str:
    """What an error says; it must be one line on stderr, with no traceback, and the code 2."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("recokd: ")
    assert err.count("\n") == 1
    return err


def test_segment_writes_what_the_function_finds(image: Path, student: Path, tmp_path: Path, capsys: Capture) -> None:
    output, table = tmp_path / "out" / "labels.nii.gz", tmp_path / "out" / "volumes.csv"
    command = ["segment", str(image), "--student", str(student), "--output", str(output), "--table", str(table)]
    assert main([*command, "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    expected = segment(read_volume(image), student, device="cpu").labels
    np.testing.assert_array_equal(read_volume(output).array, expected.array)
    with table.open(encoding="utf-8", newline="") as stream:
        rows = {row["segment"]: row for row in csv.DictReader(stream)}
    for value, name in ((1, "anterior"), (2, "posterior")):
        voxels = int((expected.array == value).sum())
        assert int(rows[name]["voxels"]) == voxels
        assert f"{name}: {voxels / 1000:.3f} ml ({voxels} voxels)" in out
    assert "Segmented by blobs-x4 in " in out
    assert str(output) in out
    assert str(table) in out
    assert "warning" not in err


def test_a_student_is_found_by_name(
    image: Path, student: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOKD_STUDENTS", str(student.parent))
    output = tmp_path / "labels.nrrd"
    assert main(["segment", str(image), "--student", "Blobs-X4", "--output", str(output), "--device", "cpu"]) == 0
    assert output.exists()


def test_labels_limit_the_result(image: Path, student: Path, tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "labels.nii.gz"
    command = ["segment", str(image), "--student", str(student), "--output", str(output), "--device", "cpu"]
    assert main([*command, "--labels", " Posterior ,"]) == 0
    assert set(np.unique(read_volume(output).array)) <= {0, 2}
    assert "anterior" not in capsys.readouterr().out
    assert "There is no label 'liver'" in failed(capsys, *command, "--overwrite", "--labels", "liver")
    with pytest.raises(SystemExit, match="2"):
        main([*command, "--labels", ","])


def test_warnings_go_to_stderr_and_do_not_stop(
    student: Path, tmp_path: Path, two_blobs: TwoBlobs, capsys: Capture
) -> None:
    volume, _ = two_blobs(ijk_to_ras=np.diag([3.0, 3.0, 3.0, 1.0]), shape=(12, 12, 12))
    path = tmp_path / "coarse.nii.gz"
    write_label_map(volume.with_array(volume.array.astype(np.uint8)), path)
    output = tmp_path / "labels.nii.gz"
    assert main(["segment", str(path), "--student", str(student), "--output", str(output), "--device", "cpu"]) == 0
    out, err = capsys.readouterr()
    assert "recokd: warning: The voxel size 3 x 3 x 3 mm" in err
    assert "1 x 1 x 1 mm" in err
    assert "ml" in out
    assert output.exists()


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_an_oblique_left_handed_volume_keeps_its_place(
    student: Path, tmp_path: Path, two_blobs: TwoBlobs, suffix: str
) -> None:
    volume, _ = two_blobs(ijk_to_ras=oblique_left_handed())
    path = tmp_path / "oblique.nrrd"
    write_label_map(volume.with_array(volume.array.astype(np.uint8)), path)
    output = tmp_path / f"labels{suffix}"
    assert main(["segment", str(path), "--student", str(student), "--output", str(output), "--device", "cpu"]) == 0
    labels = read_volume(output)
    np.testing.assert_allclose(labels.ijk_to_ras, oblique_left_handed(), atol=1e-4)
    assert labels.shape == volume.shape


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("missing", "does not exist. Check the path."),
        ("text", "could not be read as an image"),
        ("slice", "a 3D image is needed"),
        ("4D", "a 3D image is needed"),
        ("NaN", "that are not numbers (NaN or infinity)"),
        ("constant", "is constant (every voxel is 5)"),
        ("empty folder", "holds no DICOM series"),
        ("two channels", "needs 1 input channel(s) (T1); 2 given"),
    ],
)
def test_bad_input_is_refused_with_a_reason(
    what: str, message: str, student: Path, image: Path, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / f"{what}.nrrd"
    shapes = {"slice": (9, 9), "4D": (3, 9, 9, 9), "NaN": (9, 9, 9), "constant": (9, 9, 9)}
    if what in shapes:
        array = np.full(shapes[what], 5, dtype=np.float32)
        array.flat[0] = {"NaN": np.nan, "constant": 5}.get(what, 0)
        sitk.WriteImage(sitk.GetImageFromArray(array, isVector=False), str(path))
    elif what == "text":
        path.write_text("hello", encoding="utf-8")
    elif what == "empty folder":
        path.mkdir()
    inputs = [image, image] if what == "two channels" else [path]
    output = tmp_path / "labels.nii.gz"
    err = failed(capsys, "segment", *inputs, "--student", student, "--output", output, "--device", "cpu")
    assert message in err
    assert not output.exists()


def test_a_volume_too_large_for_the_memory_is_said_so(
    image: Path, student: Path, tmp_path: Path, capsys: Capture
) -> None:
    """As with a header in micrometres: petabytes at the network's voxel size."""
    huge = sitk.ReadImage(str(image))
    huge.SetSpacing((10_000.0, 10_000.0, 10_000.0))
    sitk.WriteImage(huge, str(tmp_path / "huge.nrrd"))
    inputs = [str(tmp_path / "huge.nrrd"), "--student", str(student), "--output", str(tmp_path / "labels.nii.gz")]
    assert main(["segment", *inputs]) == 2
    err = capsys.readouterr().err
    assert "warning: The voxel size 1e+04 x 1e+04 x 1e+04 mm" in err
    assert "The memory does not suffice for this volume" in err


def test_outputs_are_checked_before_the_work(image: Path, student: Path, tmp_path: Path, capsys: Capture) -> None:
    output = tmp_path / "labels.nii.gz"
    output.write_bytes(b"mine")
    command = ("segment", image, "--student", student, "--device", "cpu", "--output")
    assert "exists already" in failed(capsys, *command, output)
    assert "--overwrite" in failed(capsys, *command, tmp_path / "new.nii.gz", "--table", output)
    assert output.read_bytes() == b"mine"
    assert "no suffix that can be written" in failed(capsys, *command, tmp_path / "labels.jpg")
    assert "ends in .png" in failed(capsys, *command, tmp_path / "new.nii.gz", "--picture", tmp_path / "new.jpg")
    assert not (tmp_path / "new.nii.gz").exists()
    assert "cannot be made because" in failed(capsys, *command, output / "labels.nii.gz")
    assert main([str(part) for part in (*command, output, "--overwrite")]) == 0
    assert read_volume(output).shape == read_volume(image).shape


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_folder_that_cannot_be_written_is_named(image: Path, student: Path, tmp_path: Path, capsys: Capture) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    err = failed(capsys, "segment", image, "--student", student, "--output", locked / "labels.nii.gz")
    assert f"The folder {locked} cannot be written" in err


def test_an_unknown_or_broken_student_is_refused(
    image: Path, student: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOKD_STUDENTS", str(student.parent))
    command = ("segment", image, "--output", tmp_path / "labels.nii.gz", "--student")
    err = failed(capsys, *command, "nobody")
    assert "There is no student called 'nobody'" in err
    assert "blobs-x4" in err
    rewritten(student, {"LICENSE": b"changed"}, checksums=False)
    assert "LICENSE has changed" in failed(capsys, *command, student)
    assert "LICENSE has changed" in failed(capsys, "inspect", student)


def test_inspect_prints_the_card(student: Path, capsys: Capture) -> None:
    assert main(["inspect", str(student)]) == 0
    out = capsys.readouterr().out
    for needed in ("# blobs-x4", "Research use only", "anterior", "every checksum is right", str(student)):
        assert needed in out
    assert main(["inspect", "--json", str(student)]) == 0
    card = json.loads(capsys.readouterr().out)
    assert card["name"] == "blobs-x4"
    assert len(card["checksum"]) == 64


def test_students_lists_good_and_broken_ones(
    student: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RECOKD_STUDENTS", str(student.parent))
    broken = small_package(student.parent / "broken.recokd.zip", "broken")
    rewritten(broken, {"configs/plan.json": None}, checksums=False)
    assert main(["students"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("blobs-x4 1.0.0 (student, ") and "anterior, posterior" in line for line in lines)
    assert any(line.startswith("broken: cannot be used.") and "lacks configs/plan.json" in line for line in lines)


def test_import_and_segment_with_a_real_teacher(shared_data: Path, tmp_path: Path, capsys: Capture) -> None:
    model = tmp_path / "teacher.recokd.zip"
    assert main(["import", "nnunet", str(shared_data / "teacher_hippocampus"), "--output", str(model)]) == 0
    assert "Imported teacher (5,603,177 parameters; Anterior, Posterior)" in capsys.readouterr().out
    output = tmp_path / "hippocampus.nii.gz"
    series = shared_data / "dicom" / "hippocampus_crop"
    command = ["segment", str(series), "--student", str(model), "--output", str(output), "--device", "cpu"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "warning" not in err
    sizes = {line.split(":")[0]: float(line.split()[1]) for line in out.splitlines() if " ml " in line}
    assert all(0.5 < size < 4 for size in sizes.values())  # a hippocampus has about 3 ml
    assert "has no fold 4" in failed(
        capsys, "import", "nnunet", shared_data / "teacher_hippocampus", "--output", tmp_path / "m", "--folds", "4"
    )


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), Cancelled("Cancelled. Nothing was changed.")])
def test_a_break_ends_with_130(stop: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    def interrupted(_: object) -> None:
        raise stop

    monkeypatch.setattr(students, "_students", interrupted)
    assert main(["students"]) == 130
    assert capsys.readouterr().err == "recokd: cancelled\n"


def test_an_unexpected_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(students, "_students", broken)
    with pytest.raises(ZeroDivisionError):
        main(["students"])


@pytest.mark.parametrize("arguments", [[], ["segment"], ["import"], ["nonsense"], ["segment", "x", "--device", "tpu"]])
def test_wrong_arguments_end_with_2(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: recokd" in capsys.readouterr().err


def test_it_runs_as_a_module(tmp_path: Path, repository: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ReCoKDLib", *arguments],
            cwd=repository / "ReCoKD",
            capture_output=True,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
            check=False,
        )

    assert run("--version").stdout.strip() == f"recokd {__version__}"
    missing = run("inspect", str(tmp_path / "größe.recokd.zip"))
    assert missing.returncode == 2
    assert missing.stderr.startswith("recokd: There is no model package")
    assert "Traceback" not in missing.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way there")
def test_a_reader_that_leaves_early_is_no_error(student: Path, repository: Path) -> None:
    command = [sys.executable, "-m", "ReCoKDLib", "inspect", str(student)]
    environment = {**os.environ, "PYTHONPATH": str(repository / "ReCoKD"), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
