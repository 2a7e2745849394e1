"""Corrected cases go to training whole, with their record, at the right place in the patient, and never over others."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geometries import Matrix, oblique
from plans import TWO_LABELS
from raw_dataset import make_raw_dataset
from ReCoKDLib import __version__, handover
from ReCoKDLib.errors import DatasetError, InputError, OutputError
from ReCoKDLib.handover import export_for_training
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.provenance import ClickRecord, Provenance, read_provenance
from ReCoKDLib.volume import Volume
from ReCoKDTrainingLib.datasets import NnunetRawDataset, load_case, read_split

TwoBlobs = Callable[..., tuple[Volume, Volume]]
CLICKS = (ClickRecord("anterior", True, (1.5, -2.25, 3.0)), ClickRecord("posterior", False, (0.0, 4.0, -1.0)))
RECORD = Provenance.now("blobs-x4", "00ff", CLICKS, annotator="Annotator 7")
NAMED = ("MRI",)


def add(case: tuple[Volume, Volume], folder: Path, record: Provenance = RECORD, **options: Any) -> str:
    return export_for_training(
        *case, options.pop("label_set", TWO_LABELS), folder, record, channel_names=NAMED, **options
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != handover.LOCK
    }


def test_a_new_dataset_is_read_by_training(two_blobs: TwoBlobs, any_geometry: Matrix, tmp_path: Path) -> None:
    image, labels = two_blobs(any_geometry)
    folder = tmp_path / "Dataset905_Korrigiert ä"
    assert add((image, labels), folder) == "corrected_0001"
    dataset = NnunetRawDataset(folder)
    assert dataset.channel_names == NAMED
    assert dataset.description["numTraining"] == 1
    (case,) = dataset.cases
    volume, back = load_case(case, dataset.label_set, 1)
    assert back is not None
    # The corner voxels lie in the patient where they lay, whatever the file's axes.
    assert volume.same_grid(image)
    assert back.same_grid(labels)
    np.testing.assert_array_equal(volume.array, image.array)
    np.testing.assert_array_equal(back.array, labels.array)
    assert case.provenance == RECORD
    assert RECORD.recokd == __version__
    assert sorted(contents(folder)) == [
        "dataset.json",
        "imagesTr/corrected_0001_0000.nii.gz",
        "labelsTr/corrected_0001.nii.gz",
        "provenance.json",
    ]


def test_the_record_counts_and_lists_the_clicks(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    add(two_blobs(), tmp_path)
    record = json.loads((tmp_path / "provenance.json").read_text())["cases"]["corrected_0001"]
    assert record["number_of_clicks"] == 2
    assert record["clicks"][0] == {"segment": "anterior", "inside": True, "position": [1.5, -2.25, 3.0]}
    assert record["student"] == "blobs-x4"
    assert record["annotator"] == "Annotator 7"
    assert record["date"].startswith("20")


def test_no_name_of_the_volume_goes_into_any_file(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    image, labels = two_blobs()
    add((replace(image, name="Doe^Jane"), replace(labels, name="Doe^Jane")), tmp_path)
    for name, data in contents(tmp_path).items():
        assert b"Doe" not in (gzip.decompress(data) if name.endswith(".gz") else data), name
        assert "Doe" not in name


def test_cases_are_added_to_a_dataset_that_is_there(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    folder = make_raw_dataset(tmp_path / "Dataset902", cases=3, file_ending=".nrrd")
    before = contents(folder)
    assert [add(two_blobs(oblique()), folder, replace(RECORD, clicks=())), add(two_blobs(), folder)] == [
        "corrected_0001",
        "corrected_0002",
    ]
    dataset = NnunetRawDataset(folder)
    assert [case.identifier for case in dataset.cases[:3]] == ["blobs_000", "blobs_001", "blobs_002"]
    assert dataset.description["numTraining"] == 5
    assert [case.provenance is None for case in dataset.cases] == [True] * 3 + [False] * 2
    assert all((folder / name).read_bytes() == data for name, data in before.items() if name != "dataset.json")
    for case in dataset.cases:
        load_case(case, dataset.label_set, 1)
    assert len(read_split(dataset, None).training) == 4


def test_several_channels(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    image, labels = two_blobs(channels=2)
    export_for_training(image, labels, TWO_LABELS, tmp_path, RECORD, channel_names=("T1", "T2"))
    dataset = NnunetRawDataset(tmp_path)
    np.testing.assert_array_equal(load_case(dataset.cases[0], dataset.label_set, 2)[0].array, image.array)


def test_a_deleted_case_gives_its_number_to_no_other(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    add(two_blobs(), tmp_path)
    add(two_blobs(), tmp_path)
    for part in ("imagesTr/corrected_0002_0000.nii.gz", "labelsTr/corrected_0002.nii.gz"):
        (tmp_path / part).unlink()
    with pytest.raises(DatasetError, match=r"states 2 training cases \(numTraining\), but imagesTr holds 1"):
        add(two_blobs(), tmp_path)
    description = json.loads((tmp_path / "dataset.json").read_text())
    (tmp_path / "dataset.json").write_text(json.dumps(description | {"numTraining": 1}))
    assert add(two_blobs(), tmp_path) == "corrected_0003"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": {"background": 0, "anterior": 1, "tail": 2}},
            r"has the labels .*'tail': 2.*this case .*'posterior'",
        ),
        ({"labels": {"background": 0, "posterior": 1, "anterior": 2}}, "has the labels"),
        ({"channel_names": {"0": "CT"}}, r"has the channels \['CT'\], this case \['MRI'\]"),
        ({"channel_names": {"0": "MRI", "1": "T2"}}, "has the channels"),
        ({"numTraining": 9}, "states 9 training cases"),
        ({"file_ending": ".tif"}, ".tif files"),
    ],
)
def test_another_dataset_is_refused_and_left_alone(
    two_blobs: TwoBlobs, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = make_raw_dataset(tmp_path / "Dataset902", cases=2)
    description = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(description | changes))
    before = contents(folder)
    with pytest.raises(DatasetError, match=message):
        add(two_blobs(), folder)
    assert contents(folder) == before


def test_a_folder_with_other_things_is_refused(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"not empty and has no dataset.json: it holds thesis.txt"):
        add(two_blobs(), tmp_path)


def test_a_case_that_contradicts_itself_is_refused(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    image, labels = two_blobs()
    with pytest.raises(InputError, match="does not lie on the volume's grid"):
        add((image, two_blobs(oblique())[1]), tmp_path)
    with pytest.raises(InputError, match=r"holds the values \[7\]"):
        add((image, labels.with_array(np.where(labels.array == 2, 7, labels.array))), tmp_path)
    with pytest.raises(InputError, match="not numbers"):
        add((image.with_array(np.full_like(image.array, np.nan)), labels), tmp_path)
    chosen = LabelSet(TWO_LABELS.segments[1:])  # a choice of the structures is no ground truth
    with pytest.raises(DatasetError, match="without gaps"):
        add((image, labels.with_array(labels.array // 2 * 2)), tmp_path, label_set=chosen)
    assert contents(tmp_path) == {}


def test_a_sheared_volume_is_refused_where_the_format_would_move_it(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    sheared = np.eye(4)
    sheared[0, 1] = 0.5
    with pytest.raises(OutputError, match="cannot keep this volume's geometry"):
        add(two_blobs(sheared), tmp_path)
    assert contents(tmp_path) == {}


class Killed(BaseException):
    """Nothing in the product catches it."""


@pytest.mark.parametrize("moves", range(6))
def test_a_kill_between_the_moves_leaves_a_dataset_without_half_a_case(
    two_blobs: TwoBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moves: int
) -> None:
    image, labels = two_blobs(channels=2)
    both = ("T1", "T2")
    export_for_training(image, labels, TWO_LABELS, tmp_path, RECORD, channel_names=both)
    real, done = Path.replace, 0

    def replace_until_killed(source: Path, target: Any) -> Path:
        nonlocal done
        if source.is_relative_to(tmp_path / handover.ADDING):
            if done == moves:
                raise Killed
            done += 1
        return real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace_until_killed)
        if moves < 5:
            with pytest.raises(Killed):
                export_for_training(image, labels, TWO_LABELS, tmp_path, RECORD, channel_names=both)
        else:  # there are five files: the parameters end where the moves do
            export_for_training(image, labels, TWO_LABELS, tmp_path, RECORD, channel_names=both)
    dataset = NnunetRawDataset(tmp_path)
    assert [case.identifier for case in dataset.cases] == [f"corrected_{n:04d}" for n in range(1, 2 + (moves >= 4))]
    for case in dataset.cases:
        assert load_case(case, dataset.label_set, 2)[1] is not None
        assert case.provenance == RECORD
    # The next addition finishes what was whole, and counts it.
    assert export_for_training(image, labels, TWO_LABELS, tmp_path, RECORD, channel_names=both) == "corrected_0003"
    dataset = NnunetRawDataset(tmp_path)
    assert len(dataset.cases) == dataset.description["numTraining"] == 3
    assert not (tmp_path / handover.ADDING).exists()


def test_what_a_kill_left_half_written_is_thrown_away(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    add(two_blobs(), tmp_path)
    rest = tmp_path / f".{handover.ADDING}-abc.part"
    shutil.copytree(tmp_path / "imagesTr", rest / "imagesTr")
    assert len(NnunetRawDataset(tmp_path).cases) == 1
    assert add(two_blobs(), tmp_path) == "corrected_0002"
    assert not rest.exists()


def test_a_disk_without_space_changes_nothing(
    two_blobs: TwoBlobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(two_blobs(), tmp_path)
    before = contents(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(handover, "write_label_map", full)
    with pytest.raises(OutputError, match="No space left"):
        add(two_blobs(), tmp_path)
    assert contents(tmp_path) == before


ADD_FIVE = """
import sys
from pathlib import Path
import numpy as np
from ReCoKDLib.handover import export_for_training
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.provenance import Provenance
from ReCoKDLib.volume import Volume
labels = LabelSet.from_dataset_json({"labels": {"background": 0, "anterior": 1}})
for n in range(5):
    volume = Volume(np.full((1, 3, 4, 5), int(sys.argv[2]) + n, np.int16), np.eye(4))
    map = volume.with_array(np.ones((1, 3, 4, 5), np.uint8))
    export_for_training(volume, map, labels, Path(sys.argv[1]), Provenance.now(), channel_names=["MRI"])
"""


def test_two_processes_that_add_at_once_lose_nothing(repository: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(repository / "ReCoKD")}
    running = [
        subprocess.Popen([sys.executable, "-c", ADD_FIVE, str(tmp_path / "both"), str(start)], env=environment)
        for start in (0, 100)
    ]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    dataset = NnunetRawDataset(tmp_path / "both")
    assert dataset.description["numTraining"] == len(dataset.cases) == 10
    values = {int(load_case(case, dataset.label_set, 1)[0].array.flat[0]) for case in dataset.cases}
    assert values == {*range(5), *range(100, 105)}
    assert all(case.provenance for case in dataset.cases)


def test_a_dataset_that_another_process_holds_is_said_so(two_blobs: TwoBlobs, tmp_path: Path) -> None:
    filelock = pytest.importorskip("filelock")
    with filelock.FileLock(tmp_path / handover.LOCK), pytest.raises(OutputError, match="Another program is adding"):
        add(two_blobs(), tmp_path, lock_seconds=0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "format version None"),
        ('{"format_version": 2, "cases": {}}', "format version 2"),
        ('{"format_version": 1}', "record that cannot be read"),
        ('{"format_version": 1, "cases": {"a": {"clicks": [{"segment": "x"}]}}}', "record that cannot be read"),
        ('{"format_version": 1, "cases": {"a": {"clicks": [], "number_of_clicks": 3}}}', "3 clicks are stated"),
    ],
)
def test_a_broken_record_is_refused_in_words(two_blobs: TwoBlobs, tmp_path: Path, text: str, message: str) -> None:
    folder = make_raw_dataset(tmp_path / "Dataset902", cases=1)
    (folder / "provenance.json").write_text(text)
    for read in (lambda: NnunetRawDataset(folder), lambda: add(two_blobs(), folder)):
        with pytest.raises(DatasetError, match=message):
            read()


def test_a_dataset_without_records_has_none(tmp_path: Path) -> None:
    assert read_provenance(make_raw_dataset(tmp_path / "Dataset902", cases=1)) == {}
