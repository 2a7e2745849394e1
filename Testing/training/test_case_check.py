"""``--task check`` finds what would spoil a training, in every case; ``--task export`` writes what it found whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from plans import TWO_LABELS
from raw_dataset import make_raw_dataset
from ReCoKDLib.errors import DatasetError
from ReCoKDLib.image_io import read_volume, write_volume
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.volume import Volume
from ReCoKDTrainingLib.case_check import check_cases
from ReCoKDTrainingLib.checked_case import Check
from ReCoKDTrainingLib.cli import main
from ReCoKDTrainingLib.datasets import Dataset, NnunetRawDataset, Split, open_dataset, open_datasets, read_split

Capture = pytest.CaptureFixture[str]
TwoBlobs = Callable[..., tuple[Volume, Volume]]
Spoil = Callable[[Path], object]
SHORT = ["--epochs", "2", "--steps-per-epoch", "2", "--batch-size", "2", "--workers", "0", "--device", "cpu"]


@pytest.fixture
def nrrd(tmp_path: Path) -> Path:
    """A dataset whose files keep NaN."""
    return make_raw_dataset(tmp_path / "Dataset903_Nrrd", cases=6, file_ending=".nrrd", geometries=["oblique"])


def image(folder: Path, number: int) -> Path:
    return folder / "imagesTr" / f"blobs_{number:03d}_0000.nrrd"


def label(folder: Path, number: int) -> Path:
    return folder / "labelsTr" / f"blobs_{number:03d}.nrrd"


def change(path: Path, work: Callable[[sitk.Image], sitk.Image]) -> Path:
    sitk.WriteImage(work(sitk.ReadImage(str(path))), str(path))
    return path


def with_voxels(work: Callable[[Any], Any]) -> Callable[[sitk.Image], sitk.Image]:
    def changed(before: sitk.Image) -> sitk.Image:
        after = sitk.GetImageFromArray(work(sitk.GetArrayFromImage(before)))
        after.CopyInformation(before)
        return after

    return changed


def set_nan(array: Any) -> Any:
    array[3, 3, 3] = np.nan
    return array


def wider(before: sitk.Image) -> sitk.Image:
    before.SetSpacing([4 * mm for mm in before.GetSpacing()])
    return before


def checked(dataset: Dataset, split: Split | None = None, **options: Any) -> Check:
    return check_cases(dataset, split or read_split(dataset, None, unlabelled=True), **options)


def kinds(check: Check, number: int) -> dict[str, bool]:
    (case,) = [case for case in check.cases if case.identifier.endswith(f"blobs_{number:03d}")]
    return {finding.kind: finding.spoils for finding in case.findings}


def test_a_good_dataset_has_no_findings(nrrd: Path) -> None:
    check = checked(NnunetRawDataset(nrrd), thumbnails=True)
    assert not list(check.all_findings())
    assert not check.spoiled
    case = check.cases[0]
    labels = read_volume(label(nrrd, 0)).array
    assert case.voxels == {"anterior": (labels == 1).sum(), "posterior": (labels == 2).sum()}
    assert case.thumbnail is not None
    assert case.thumbnail.labels.array.any()


@pytest.mark.parametrize(
    ("spoil", "kind", "spoils"),
    [
        (lambda d: image(d, 2).write_bytes(b"nothing"), "unreadable", True),
        (lambda d: label(d, 2).write_bytes(b"nothing"), "unreadable", True),
        (lambda d: change(image(d, 2), with_voxels(set_nan)), "not numbers", True),
        (lambda d: change(image(d, 2), with_voxels(lambda a: 0 * a)), "constant image", True),
        (lambda d: change(label(d, 2), lambda i: i[1:, :, :]), "different grids", True),
        (lambda d: change(label(d, 2), wider), "different grids", True),
        (lambda d: change(label(d, 2), with_voxels(lambda a: 7 * a)), "unknown values", True),
        (lambda d: change(label(d, 2), with_voxels(lambda a: a * (a != 2))), "empty segment", False),
        (lambda d: [change(path, wider) for path in (image(d, 2), label(d, 2))], "spacing", False),
        (lambda d: change(image(d, 2), with_voxels(lambda a: 100 * a)), "intensity", False),
        (lambda d: change(image(d, 2), with_voxels(lambda a: a + 1024)), "intensity", False),
    ],
)
def test_each_bad_case_is_named(nrrd: Path, spoil: Spoil, kind: str, spoils: bool) -> None:
    spoil(nrrd)
    check = checked(NnunetRawDataset(nrrd), thumbnails=True)
    assert kinds(check, 2) == {kind: spoils}
    assert all(not case.findings for case in check.cases if case.identifier != "blobs_002")
    assert check.spoiled is spoils
    assert check.bad == (("blobs_002",) if spoils else ())


def test_a_constant_channel_is_found_beside_a_good_one(tmp_path: Path) -> None:
    folder = make_raw_dataset(tmp_path / "two", cases=3, channel_names=("T1", "T2"), file_ending=".nrrd")
    change(folder / "imagesTr" / "blobs_002_0001.nrrd", with_voxels(lambda a: 0 * a))
    (case,) = [case for case in checked(NnunetRawDataset(folder)).cases if case.bad]
    assert [(f.kind, f.message) for f in case.findings] == [
        ("constant image", "Every voxel of channel 1 has the same value.")
    ]


def test_what_many_cases_have_is_not_wild(nrrd: Path) -> None:
    for number in (1, 2):
        change(image(nrrd, number), with_voxels(lambda a: 100 * a))
    assert not list(checked(NnunetRawDataset(nrrd)).all_findings())


def test_all_that_is_wrong_with_a_case_is_told(nrrd: Path) -> None:
    change(image(nrrd, 1), with_voxels(set_nan))
    change(label(nrrd, 1), lambda i: i[1:, :, :] * 3)
    assert kinds(checked(NnunetRawDataset(nrrd)), 1).keys() == {"not numbers", "different grids", "unknown values"}


@pytest.mark.usefixtures("slicer_core")
def test_a_scene_case_that_lacks_a_segment(two_blobs: TwoBlobs, tmp_path: Path, capsys: Capture) -> None:
    from scene_files import add_case, save_scene

    def build(slicer: Any) -> None:
        for seed in range(3):
            volume, labels = two_blobs(seed=seed)
            label_set = TWO_LABELS if seed else replace(TWO_LABELS, segments=TWO_LABELS.segments[:1])
            add_case(slicer, volume, labels, label_set)

    path = save_scene(tmp_path / "three.mrb", build)
    assert main(["--task", "check", "--dataset", str(path), "--output", str(tmp_path / "out")]) == 0
    first, *_ = json.loads((tmp_path / "out" / "check.json").read_text())["cases"]
    name = first["case"]
    assert f"warning  {name}: missing class: Not annotated: posterior" in capsys.readouterr().out
    assert first["annotated"] == "in part"
    assert list(first["voxels"]) == ["anterior"]
    assert main(["--task", "export", "--dataset", str(path), "--output", str(tmp_path / "raw")]) == 0
    labels = read_volume(tmp_path / "raw" / "labelsTr" / f"{name}.nii.gz").array
    assert set(np.unique(labels)) == {1, 3}, "background is not known"


@pytest.fixture
def slicer_core() -> None:
    pytest.importorskip("slicer", reason='needs slicer-core: pip install "recokd[host]"')


def test_duplicates_and_leakage(nrrd: Path, tmp_path: Path) -> None:
    # As NIfTI and in another orientation: the voxels count, not the file.
    change(image(nrrd, 3), lambda i: i)
    copy = read_volume(image(nrrd, 0))
    change_to = copy.reoriented("LPS")
    for path, source in ((image(nrrd, 4), change_to), (label(nrrd, 4), read_volume(label(nrrd, 0)).reoriented("LPS"))):
        write_volume(source, path, overwrite=True)
    dataset = NnunetRawDataset(nrrd)
    by_name = {case.identifier: case for case in dataset.cases}
    apart = Split(tuple(by_name[f"blobs_{n:03d}"] for n in (1, 2, 3, 4, 5)), (by_name["blobs_000"],))
    assert kinds(checked(dataset, apart), 4) == {"leakage": True}
    together = Split(tuple(by_name[f"blobs_{n:03d}"] for n in (0, 2, 3, 4, 5)), (by_name["blobs_001"],))
    assert kinds(checked(dataset, together), 4) == {"duplicate": False}


def test_a_patient_on_both_sides(raw_dataset: Path) -> None:
    before = NnunetRawDataset(raw_dataset)
    cases = tuple(replace(case, patient="p" if i in (1, 2) else "") for i, case in enumerate(before.cases))
    dataset = Dataset("x", before.channel_names, before.label_set, cases)
    assert kinds(checked(dataset, Split((*cases[:2], *cases[3:]), (cases[2],))), 1) == {"leakage": True}


def test_what_is_wrong_with_all_cases_together(nrrd: Path) -> None:
    dataset = NnunetRawDataset(nrrd)

    def found(cases: Any, held_out: Any = (), **options: Any) -> dict[str, bool]:
        check = check_cases(dataset, Split(tuple(cases), tuple(held_out)), **options)
        return {finding.kind: finding.spoils for finding in check.findings}

    assert found(()) == {"empty dataset": True}
    assert found((), dataset.cases) == {"no training": True}
    assert found(dataset.cases[:1]) == {"one case": True}
    assert found(dataset.cases) == {"no validation": False}
    for number in range(5):
        change(label(nrrd, number), with_voxels(lambda a: a * (a != 1)))
    assert found(dataset.cases[:5], dataset.cases[5:]) == {"absent class": True}
    image(nrrd, 5).write_bytes(b"")
    assert found(dataset.cases[:5], dataset.cases[5:], skip_bad=True).keys() == {"absent class", "no validation"}


def test_the_task_prints_writes_and_returns_1(nrrd: Path, tmp_path: Path, capsys: Capture) -> None:
    change(image(nrrd, 0), with_voxels(set_nan))
    label(nrrd, 1).write_bytes(b"")
    change(label(nrrd, 2), with_voxels(lambda a: a * (a != 2)))
    arguments = ["--task", "check", "--dataset", str(nrrd), "--output", str(tmp_path / "out")]
    assert main(arguments) == 1
    printed = capsys.readouterr().out
    assert "ERROR  blobs_000: not numbers" in printed
    assert "ERROR  blobs_001: unreadable" in printed
    assert "warning  blobs_002: empty segment: No voxel of: posterior" in printed
    assert "6 cases, 2 errors, 1 warnings" in printed
    values = json.loads((tmp_path / "out" / "check.json").read_text(encoding="utf-8"))
    assert values["spoiled"] is True
    assert [finding["kind"] for finding in values["cases"][0]["findings"]] == ["not numbers"]
    rows = (tmp_path / "out" / "check.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith(
        "case,part,annotated,k,j,i,mm_k,mm_j,mm_i,voxels anterior,voxels posterior,errors,warnings,found in"
    )
    assert len(rows) == 7
    assert (tmp_path / "out" / "check.png").stat().st_size > 20_000
    assert main(arguments) == 2
    assert "exists already" in capsys.readouterr().err
    assert main([*arguments[:-1], str(tmp_path / "again"), "--skip-bad"]) == 0


def test_a_source_that_cannot_be_opened_is_an_error_of_the_check(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "empty").mkdir()
    arguments = ["--task", "check", "--dataset", str(tmp_path / "empty"), "--output", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert "is empty" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "check.json").read_text())["cases"] == []


def test_training_names_all_bad_cases_or_skips_them(nrrd: Path, tmp_path: Path, capsys: Capture) -> None:
    change(image(nrrd, 0), with_voxels(set_nan))
    label(nrrd, 1).write_bytes(b"")
    arguments = ["--task", "teacher", "--dataset", str(nrrd), "--output", str(tmp_path / "run"), *SHORT]
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert "2 thing(s) would spoil the training" in told
    assert "blobs_000: not numbers" in told
    assert "blobs_001: unreadable" in told
    assert "--skip-bad" in told
    assert main([*arguments, "--skip-bad"]) == 0
    card = ModelPackage.open(tmp_path / "run" / "nrrd-teacher.recokd.zip").card
    assert sum(card.training.split.values()) == 4
    assert "skipped: blobs_000: not numbers" in capsys.readouterr().out


def test_a_split_is_made_of_the_cases_that_are_not_skipped(nrrd: Path, tmp_path: Path, capsys: Capture) -> None:
    (held_out,) = read_split(NnunetRawDataset(nrrd), None).validation
    change(nrrd / "imagesTr" / f"{held_out.identifier}_0000.nrrd", with_voxels(set_nan))
    arguments = ["--dataset", str(nrrd), "--skip-bad", "--output"]
    assert main(["--task", "check", *arguments, str(tmp_path / "check")]) == 0
    assert "no validation" not in capsys.readouterr().out
    assert main(["--task", "teacher", *arguments, str(tmp_path / "run"), *SHORT]) == 0
    split = json.loads((tmp_path / "run" / "split.json").read_text())
    assert (len(split["train"]), len(split["val"])) == (4, 1)
    assert held_out.identifier not in split["val"]


def volumes_alone(raw_dataset: Path, folder: Path) -> Path:
    """Images without labels, other ones than the dataset's."""
    made = make_raw_dataset(folder.parent / "made", cases=3, seed=7)
    shutil.copytree(made / "imagesTr", folder)
    return folder


def test_volumes_alone_need_a_teacher(raw_dataset: Path, tmp_path: Path, capsys: Capture) -> None:
    alone = volumes_alone(raw_dataset, tmp_path / "alone")
    arguments = ["--task", "distill", "--dataset", str(raw_dataset), "--dataset", str(alone)]
    arguments += ["--output", str(tmp_path / "run"), *SHORT]
    assert main(arguments) == 2
    assert "3 of 8 training cases have no segmentation" in capsys.readouterr().err
    assert main([*arguments, "--unlabelled-weight", "0"]) == 0


def test_a_student_from_annotated_and_other_volumes(
    teacher: Path, raw_dataset: Path, tmp_path: Path, capsys: Capture
) -> None:
    alone = volumes_alone(raw_dataset, tmp_path / "alone")
    arguments = ["--task", "distill", "--dataset", str(raw_dataset), "--dataset", str(alone), "--teacher", str(teacher)]
    arguments += ["--unlabelled-weight", "0.5", "--ramp", "0", *SHORT]
    assert main([*arguments, "--output", str(tmp_path / "run")]) == 0
    (package,) = (tmp_path / "run").glob("*.recokd.zip")
    card = ModelPackage.open(package).card
    assert card.training.options["cases without annotation"] == 3
    assert card.training.options["weight of cases without annotation"] == 0.5
    assert card.training.split == {"training": 8, "validation": 1}
    assert [channel.name for channel in card.channels] == ["MRI"]
    # Its split names cases that are not measured, and that a run without them leaves out.
    again = ["--split", str(tmp_path / "run" / "split.json"), "--output"]
    assert (
        main(["--task", "evaluate", *arguments[2:], "--model", str(package), *again, str(tmp_path / "measured")]) == 0
    )
    assert main([*arguments, "--unlabelled-weight", "0", *again, str(tmp_path / "fewer")]) == 0
    # Another weight is another run.
    capsys.readouterr()
    assert main([*arguments, "--unlabelled-weight", "2", "--resume", "--output", str(tmp_path / "run")]) == 2
    assert "unlabelled weight" in capsys.readouterr().err


def test_a_student_from_volumes_alone(teacher: Path, raw_dataset: Path, tmp_path: Path, capsys: Capture) -> None:
    alone = volumes_alone(raw_dataset, tmp_path / "alone")
    names = [f"alone__blobs_{n:03d}" for n in range(3)]
    split = {"train": names, "val": ["Dataset901_Blobs__blobs_000"]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    arguments = ["--task", "distill", "--dataset", str(raw_dataset), "--dataset", str(alone), "--teacher", str(teacher)]
    arguments += ["--split", str(tmp_path / "split.json"), "--output", str(tmp_path / "run"), "--ramp", "0", *SHORT]
    assert main(arguments) == 0
    (package,) = (tmp_path / "run").glob("*.recokd.zip")
    opened = ModelPackage.open(package)
    assert opened.card.metrics["cases"] == 1
    log = (tmp_path / "run" / "log.csv").read_text().splitlines()
    row = dict(zip(log[0].split(","), log[-1].split(","), strict=True))
    assert float(row["segmentation"]) > 0.1  # against the teacher's labels
    assert float(row["logits/kl"]) > 0
    split["val"] = [names.pop()]
    (tmp_path / "split.json").write_text(json.dumps({**split, "train": names}))
    shutil.rmtree(tmp_path / "run")
    assert main(arguments) == 2
    assert "not fully annotated" in capsys.readouterr().err


def test_cases_annotated_in_part_alone_need_a_teacher(
    teacher: Path, raw_dataset: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Source A knows one class, source B the other: what is none of them only a teacher can tell."""
    arguments = []
    for name, other in (("anterior", "posterior"), ("posterior", "anterior")):
        folder = Path(shutil.copytree(raw_dataset, tmp_path / name))
        description = json.loads((folder / "dataset.json").read_text())
        recode = partial(np.equal, description["labels"][name])
        description["labels"] = {"background": 0, name: 1}
        (folder / "dataset.json").write_text(json.dumps(description))
        for path in (folder / "labelsTr").iterdir():
            change(path, with_voxels(lambda a: recode(a).astype(a.dtype)))  # noqa: B023 - called at once
        for path in (folder / "imagesTr").iterdir():
            change(path, with_voxels(partial(np.add, len(other))))
        arguments += ["--dataset", str(folder)]
    names = [case.identifier for case in open_datasets([tmp_path / "anterior", tmp_path / "posterior"]).cases]
    (tmp_path / "split.json").write_text(json.dumps({"train": names, "val": []}))
    arguments += ["--split", str(tmp_path / "split.json")]
    out = ["--output", str(tmp_path / "run")]
    assert main(["--task", "teacher", *arguments, *out, *SHORT]) == 2
    assert "no case tells what is background" in capsys.readouterr().err
    arguments += ["--teacher", str(teacher)]
    assert main(["--task", "check", *arguments, "--output", str(tmp_path / "checked")]) == 0
    assert main(["--task", "distill", *arguments, *out, *SHORT]) == 0


def test_a_teacher_that_does_not_know_a_class(teacher: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = make_raw_dataset(tmp_path / "other", cases=3)
    description = json.loads((folder / "dataset.json").read_text())
    description["labels"] = {"background": 0, "anterior": 1, "tumour": 2}
    (folder / "dataset.json").write_text(json.dumps(description))
    arguments = ["--dataset", str(folder), "--teacher", str(teacher), "--output"]
    assert main(["--task", "check", *arguments, str(tmp_path / "out")]) == 1
    assert "ERROR  dataset: teacher: The model blobs-teacher does not know tumour" in capsys.readouterr().out
    assert main(["--task", "distill", *arguments, str(tmp_path / "run"), *SHORT]) == 2
    assert "does not know tumour" in capsys.readouterr().err


def test_nnunet_reads_what_is_exported(
    raw_dataset: Path, two_blobs: TwoBlobs, tmp_path: Path, nnunet: None, capsys: Capture
) -> None:
    alone = volumes_alone(raw_dataset, tmp_path / "alone")
    arguments = ["--task", "export", "--dataset", str(raw_dataset), "--dataset", str(alone), "--output"]
    output = tmp_path / "Dataset905_Mixed"
    assert main([*arguments, str(output)]) == 0
    verify = pytest.importorskip("nnunetv2.experiment_planning.verify_dataset_integrity").verify_dataset_integrity
    verify(str(output), num_processes=1)
    assert "verify_dataset_integrity Done" in capsys.readouterr().out
    assert len(list((output / "imagesTs").iterdir())) == 3
    before, after = open_datasets([raw_dataset]), open_dataset(output)
    assert isinstance(after, NnunetRawDataset)
    assert after.label_set.ignore_label == 3
    for ours, theirs in zip(before.cases, after.cases, strict=True):
        found, expected = theirs.volume(), ours.volume()
        assert found.same_grid(expected)
        np.testing.assert_array_equal(found.array, expected.array)
        for one, other in ((theirs.labels(found), ours.labels(expected)),):
            assert one is not None
            assert other is not None
            np.testing.assert_array_equal(one.array, other.array)
    assert main([*arguments, str(output)]) == 2
    assert "exists already" in capsys.readouterr().err


def test_bad_cases_are_not_exported(nrrd: Path, tmp_path: Path, capsys: Capture) -> None:
    change(image(nrrd, 0), with_voxels(set_nan))
    arguments = ["--task", "export", "--dataset", str(nrrd), "--output", str(tmp_path / "out")]
    assert main(arguments) == 2
    assert "blobs_000: not numbers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert main([*arguments, "--skip-bad"]) == 0
    assert len(list((tmp_path / "out" / "imagesTr").iterdir())) == 5


def test_nothing_annotated_is_not_exported(tmp_path: Path, raw_dataset: Path, capsys: Capture) -> None:
    alone = volumes_alone(raw_dataset, tmp_path / "alone")
    assert main(["--task", "export", "--dataset", str(alone), "--output", str(tmp_path / "out")]) == 2
    assert "nothing for nnU-Net to learn from" in capsys.readouterr().err
    with pytest.raises(DatasetError, match="at least two"):
        read_split(open_dataset(alone), None)
