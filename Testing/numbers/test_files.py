"""Nothing half written, nothing overwritten unasked."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ReCoKDLib.errors import InputError, OutputError
from ReCoKDLib.files import (
    atomic_file,
    atomic_folder,
    full_suffix,
    read_json,
    require_new,
    sha256,
    write_json,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "Ordner mit Umläuten"
    made.mkdir()
    return made


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.nii.gz", ".nii.gz"),
        ("b.SEG.NRRD", ".SEG.NRRD"),
        ("c.d.nrrd", ".nrrd"),
        ("e.recokd.zip", ".recokd.zip"),
        ("f", ""),
    ],
)
def test_full_suffix(name: str, suffix: str) -> None:
    assert full_suffix(Path(name)) == suffix


def test_a_file_appears_whole(folder: Path) -> None:
    target = folder / "result.nii.gz"
    with atomic_file(target) as temporary:
        assert temporary.name.endswith(".nii.gz")
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(folder.iterdir()) == [target]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_an_error_leaves_what_was_there(folder: Path, error: BaseException) -> None:
    target = folder / "result.csv"
    target.write_text("old")
    with pytest.raises(type(error)), atomic_file(target, overwrite=True) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert list(folder.iterdir()) == [target]


def test_a_full_disk_is_said_in_plain_words(folder: Path) -> None:
    target = folder / "result.csv"
    with (
        pytest.raises(OutputError, match=r"could not be written.*Nothing was changed.*free space"),
        atomic_file(target),
    ):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert list(folder.iterdir()) == []


def test_a_kill_leaves_no_result(folder: Path) -> None:
    target = folder / "result.csv"
    script = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from ReCoKDLib.files import atomic_file
        with atomic_file(Path(sys.argv[1])) as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
    """)
    library = Path(__file__).resolve().parents[2] / "ReCoKD"
    done = subprocess.run(
        [sys.executable, "-c", script, str(target)],
        env={**os.environ, "PYTHONPATH": str(library)},
        check=False,
    )
    assert done.returncode != 0
    assert not target.exists()


def test_what_exists_is_not_overwritten_unasked(folder: Path) -> None:
    target = folder / "result.csv"
    target.write_text("old")
    with pytest.raises(OutputError, match="exists already.*--overwrite"), atomic_file(target):
        pytest.fail("must not come here")
    assert target.read_text() == "old"
    require_new(target, overwrite=True)


def test_what_others_wrote_meanwhile_stays(folder: Path) -> None:
    with pytest.raises(OutputError, match="exists already"), atomic_file(folder / "result.csv") as temporary:  # noqa: PT012
        temporary.write_text("ours")
        (folder / "result.csv").write_text("theirs")
    with pytest.raises(OutputError, match="exists already"), atomic_folder(folder / "model") as temporary:  # noqa: PT012
        (temporary / "ours").write_text("")
        (folder / "model").mkdir()
    assert (folder / "result.csv").read_text() == "theirs"
    assert list((folder / "model").iterdir()) == []
    assert len(list(folder.iterdir())) == 2


def test_a_folder_below_a_file_is_refused(folder: Path) -> None:
    (folder / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        require_new(folder / "file" / "result.csv")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere; Windows has other rules")
def test_a_read_only_folder_is_refused(folder: Path) -> None:
    folder.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            require_new(folder / "result.csv")
    finally:
        folder.chmod(0o700)


def test_a_folder_that_the_system_refuses_is_said_so(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(OutputError, match="cannot be written.*Choose another folder"):
        require_new(folder / "result.csv")


def test_a_folder_is_replaced_as_a_whole(folder: Path) -> None:
    target = folder / "model"
    for content in ("one", "two"):
        with atomic_folder(target, overwrite=True) as temporary:
            (temporary / content).write_text(content)
    assert [path.name for path in target.iterdir()] == ["two"]
    assert list(folder.iterdir()) == [target]


def test_an_error_leaves_the_old_folder(folder: Path) -> None:
    target = folder / "model"
    with atomic_folder(target) as temporary:
        (temporary / "old").write_text("")
    with pytest.raises(ValueError, match="x"), atomic_folder(target, overwrite=True) as temporary:  # noqa: PT012
        (temporary / "new").write_text("")
        raise ValueError("x")
    assert [path.name for path in target.iterdir()] == ["old"]
    assert list(folder.iterdir()) == [target]


def test_json_and_its_errors(folder: Path) -> None:
    write_json(folder / "a.json", {"ä": [1, 2]})
    assert read_json(folder / "a.json") == {"ä": [1, 2]}
    (folder / "b.json").write_text("{")
    with pytest.raises(InputError, match="not readable as JSON"):
        read_json(folder / "b.json")
    with pytest.raises(InputError, match="does not exist"):
        read_json(folder / "c.json")


def test_sha256(folder: Path) -> None:
    (folder / "a").write_bytes(b"abc")
    assert sha256(folder / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
