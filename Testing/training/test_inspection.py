"""Every case is read once at the start of a run, and not again when it goes on; with the same result."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from made_sources import Mrb, make_cases
from plans import small_plan
from raw_dataset import make_raw_dataset
from ReCoKDLib.errors import DatasetError
from ReCoKDLib.files import read_json, write_json
from ReCoKDTrainingLib import inspection
from ReCoKDTrainingLib.cache import preprocess_cases
from ReCoKDTrainingLib.datasets import Dataset, NnunetRawDataset
from ReCoKDTrainingLib.datasets.case import FileReader
from ReCoKDTrainingLib.datasets.scenes import ScenesDataset
from ReCoKDTrainingLib.fingerprint import fingerprint_cases
from ReCoKDTrainingLib.inspection import CheckedData, checked_data, remember
from ReCoKDTrainingLib.progress import Progress
from ReCoKDTrainingLib.run_folder import CHECKED, FINGERPRINT
from ReCoKDTrainingLib.training_data import DataSettings

SETTINGS = DataSettings(())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_raw_dataset(tmp_path / "Dataset901_Blobs", cases=5)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the image of each case was read."""
    counted: Counter[str] = Counter()
    volume = FileReader.volume

    def counting(reader: FileReader):  # type: ignore[no-untyped-def]
        counted[reader.images[0].name] += 1
        return volume(reader)

    monkeypatch.setattr(FileReader, "volume", counting)
    return counted


def start(dataset: Dataset, run: Path | None = None, settings: DataSettings = SETTINGS) -> CheckedData:
    return checked_data(dataset, settings, False, run, Progress("bar", silent=True))[0]


def leave(data: CheckedData, run: Path) -> None:
    """As a run does."""
    run.mkdir()
    write_json(run / FINGERPRINT, data.fingerprint.to_dict())
    remember(data, run)


def test_one_look_gives_check_fingerprint_and_preprocessing(
    folder: Path, tmp_path: Path, reads: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, plan = NnunetRawDataset(folder), small_plan()
    data, loaded = checked_data(dataset, SETTINGS, False, None, Progress("bar", silent=True))
    made = preprocess_cases(
        data.split.training,
        plan,
        dataset.label_set,
        tmp_path / "one",
        contents={case.identifier: case.sha256 for case in data.fingerprint.cases},
        loaded=loaded,
    )
    assert set(reads.values()) == {1}
    assert len(reads) == 5
    again = preprocess_cases(data.split.training, plan, dataset.label_set, tmp_path / "two")
    for one, other in zip(made, again, strict=True):
        assert one.folder.name == other.folder.name
        assert (one.data() == other.data()).all()
        assert (one.labels() == other.labels()).all()
    assert data.fingerprint == fingerprint_cases(data.split.training, dataset.channel_names, dataset.label_set)
    monkeypatch.setattr(inspection, "_KEPT_BYTES", 0)
    assert not checked_data(dataset, SETTINGS, False, None, Progress("bar", silent=True))[1]


def test_a_scene_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("slicer", reason='needs slicer-core: pip install "recokd[host]"')
    from ReCoKDLib.mrml import scene_files

    for case in make_cases():
        Mrb().write(tmp_path, case)
    dataset = ScenesDataset(tmp_path)
    opened: Counter[Path] = Counter()
    read = scene_files._read

    def counting(slicer: Any, path: Path) -> Any:
        opened[path] += 1
        return read(slicer, path)

    monkeypatch.setattr(scene_files, "_read", counting)
    scene_files._open.clear()
    data = start(dataset)
    assert data.split.validation
    assert list(opened.values()) == 5 * [1]
    by_itself = inspection._checksum(dataset, SETTINGS, False, {})
    assert data.checksum == by_itself, "as a later start will find it"


def test_a_later_start_reads_no_case_that_has_not_changed(folder: Path, tmp_path: Path, reads: Counter[str]) -> None:
    run = tmp_path / "run"
    first = start(NnunetRawDataset(folder))
    leave(first, run)
    reads.clear()
    again = start(NnunetRawDataset(folder), run)
    assert not reads
    assert again.split == first.split
    assert again.fingerprint == first.fingerprint
    assert again.said == first.said


@pytest.mark.parametrize("change", ["image", "label", "case", "classes", "settings", "memory", "fingerprint"])
def test_what_has_changed_is_looked_at_again(change: str, folder: Path, tmp_path: Path, reads: Counter[str]) -> None:
    run = tmp_path / "run"
    leave(start(NnunetRawDataset(folder)), run)
    settings = SETTINGS
    names = sorted(path.name for path in (folder / "imagesTr").iterdir())
    label = names[0].replace("_0000", "")
    if change == "image":
        shutil.copy(folder / "imagesTr" / names[0], folder / "imagesTr" / names[1])
        shutil.copy(folder / "labelsTr" / label, folder / "labelsTr" / names[1].replace("_0000", ""))
    elif change == "label":
        shutil.copy(folder / "imagesTr" / names[0], folder / "labelsTr" / label)
    elif change == "case":
        (folder / "imagesTr" / names[0]).unlink()
        (folder / "labelsTr" / label).unlink()
    elif change == "classes":
        description = read_json(folder / "dataset.json")
        description["labels"] = {"background": 0, "front": 1, "posterior": 2}
        write_json(folder / "dataset.json", description, overwrite=True)
    elif change == "settings":
        settings = DataSettings((), skip_bad=True)
    else:
        (run / (CHECKED if change == "memory" else FINGERPRINT)).write_text("{}")
    reads.clear()
    if change == "label":
        with pytest.raises(DatasetError, match="would spoil the training"):
            start(NnunetRawDataset(folder), run, settings)
    else:
        told = start(NnunetRawDataset(folder), run, settings).said
        assert (change == "image") == any("duplicate" in text for text in told)
    assert reads


def test_bad_cases_stay_left_out(folder: Path, tmp_path: Path, reads: Counter[str]) -> None:
    """A label map that is no label map; the other cases are split again without it."""
    settings = DataSettings((), skip_bad=True)
    name = sorted(path.name for path in (folder / "labelsTr").iterdir())[0]
    shutil.copy(folder / "imagesTr" / name.replace(".nii", "_0000.nii"), folder / "labelsTr" / name)
    first = start(NnunetRawDataset(folder), None, settings)
    assert len(first.dataset.cases) == 4
    leave(first, tmp_path / "run")
    reads.clear()
    again = start(NnunetRawDataset(folder), tmp_path / "run", settings)
    assert not reads
    assert [case.identifier for case in again.dataset.cases] == [case.identifier for case in first.dataset.cases]
    assert again.said == first.said
    assert "skipped" in again.said[0]
