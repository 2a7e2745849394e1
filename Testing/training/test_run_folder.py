"""What a run leaves behind: configuration, log, metrics, curves, events, state and report; and a run that is killed."""

from __future__ import annotations

import base64
import csv
import json
import re
import shutil
import signal
import struct
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import SimpleITK as sitk
from filelock import FileLock

from killed_runs import (
    checkpoint_is_being_written,
    evaluating,
    finish,
    kill_at,
    last_state,
    preprocessing,
    same_result,
    start,
    status,
)
from raw_dataset import make_raw_dataset
from ReCoKDLib.errors import OutputError
from ReCoKDLib.package import ModelPackage
from ReCoKDTrainingLib import run_lock
from ReCoKDTrainingLib.checkpoints import Checkpoints
from ReCoKDTrainingLib.cli import main
from ReCoKDTrainingLib.history import Events, best_epoch, draw_curves, validations_since
from ReCoKDTrainingLib.journal import Journal
from ReCoKDTrainingLib.validation import DICE

SHORT = ["--epochs", "3", "--steps-per-epoch", "2", "--batch-size", "2", "--workers", "0", "--device", "cpu"]
NAME = "Mustermann"

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases that somebody named after patients."""
    folder = make_raw_dataset(tmp_path_factory.mktemp("raw") / "Dataset901_Blobs", cases=5)
    for path in [*(folder / "imagesTr").iterdir(), *(folder / "labelsTr").iterdir()]:
        path.rename(path.with_name(path.name.replace("blobs", NAME)))
    return folder


@pytest.fixture(scope="module")
def teacher(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("teacher") / "run"
    assert main(["--task", "teacher", "--dataset", str(dataset), "--output", str(output), *SHORT]) == 0
    return output / "blobs-teacher.recokd.zip"


@pytest.fixture(scope="module")
def distil(dataset: Path, teacher: Path) -> list[str]:
    arguments = ["--task", "distill", "--dataset", str(dataset), "--teacher", str(teacher), *SHORT]
    return [*arguments, "--losses", "reco=1", "--ramp", "0.5", "--validate-every", "1", "--ship", "best"]


@pytest.fixture(scope="module")
def run(distil: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("student") / "run"
    returned = output.parent / "returned.txt"
    assert main([*distil, "--output", str(output), "--returnparameterfile", str(returned)]) == 0
    return output


def test_the_run_folder_says_everything(run: Path, dataset: Path) -> None:
    there = {path.name for path in run.iterdir()}
    assert there >= {
        *("config.json", "environment.json", "fingerprint.json", "split.json", "plan.json", "status.json", "log.txt"),
        *("log.csv", "curves.png", "tensorboard", "report.html", "checkpoints", "evaluation", "blobs-x4.recokd.zip"),
    }
    assert not [name for name in there if name.startswith(".")]
    assert {path.name for path in (run / "checkpoints").iterdir()} == {
        *("step-00000004.pt", "step-00000006.pt", "best.pt")
    }
    made_with = json.loads((run / "environment.json").read_text())
    assert {"recokd", "python", "torch"} <= made_with["versions"].keys()
    assert made_with["git revision"] is None or re.match(r"[0-9a-f]{40}(-changed)?$", made_with["git revision"])
    split = json.loads((run / "split.json").read_text())
    assert len(split["train"]) == 4
    assert len(split["val"]) == 1


def test_the_state_is_there_for_programs(run: Path) -> None:
    state = status(run)
    assert state is not None
    assert (state["state"], state["epoch"], state["epochs"], state["step"]) == ("done", 3, 3, 6)
    assert (state["package"], state["report"], state["error"]) == ("blobs-x4.recokd.zip", "report.html", None)
    with (run / "log.csv").open(newline="") as stream:
        dice = [float(row[DICE]) for row in csv.DictReader(stream)]
    assert state["validation"]["best_dice"] == pytest.approx(max(dice), abs=1e-5)
    assert state["validation"]["best_epoch"] == 1 + dice.index(max(dice))


def test_slicer_gets_its_output_parameters(run: Path) -> None:
    lines = (run.parent / "returned.txt").read_text().splitlines()
    values = dict(line.split(" = ") for line in lines)
    assert values["package"] == str(run / "blobs-x4.recokd.zip")
    assert values["report"] == str(run / "report.html")
    card = ModelPackage.open(run / "blobs-x4.recokd.zip").card
    assert float(values["meanDice"]) == pytest.approx(card.metrics["mean"]["dice"], abs=1e-5)


def test_the_package_has_the_best_weights_and_says_so(run: Path) -> None:
    best = Checkpoints(run).best()
    package = ModelPackage.open(run / "blobs-x4.recokd.zip")
    weights = package.weights(0)
    assert all((best["student"][key] == value).all() for key, value in weights.items())
    assert package.card.training.options["weights"] == f"of the best epoch, {best['epoch']}"
    assert package.card.training.steps == 2 * best["epoch"]
    assert "flatters" in package.card.metrics["measured on"]


class Page(HTMLParser):
    """Checks that tags are closed, and collects pictures, links and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[bytes] = []
        self.outside: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "img"):
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and value is not None:
                kind, _, data = value.partition(",")
                if kind == "data:image/png;base64":
                    self.pictures.append(base64.b64decode(data, validate=True))
                else:
                    self.outside.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_has_all_parts_in_one_file(run: Path) -> None:
    page = Page()
    page.feed((run / "report.html").read_text(encoding="utf-8"))
    assert not page.open
    assert not page.outside, "nothing is fetched"
    assert len(page.pictures) == 3  # evaluation, the worst case (there is one), curves
    assert all(picture.startswith(b"\x89PNG") for picture in page.pictures)
    for part in ("Teacher and student", "Structures", "inherited", "worst cases", "Training", "How it was made"):
        assert part in page.text
    for word in ("Parameters", "Seconds a case", "Memory, MB", "HD95", "Surface Dice", "Best validation", "reco/fg"):
        assert word in page.text
    assert "blobs-teacher" in page.text


def test_no_case_is_named_where_it_might_be_passed_on(run: Path, dataset: Path) -> None:
    assert any(NAME in path.name for path in (dataset / "imagesTr").iterdir())
    passed_on = [run / name for name in ("report.html", "log.txt", "log.csv", "status.json", "environment.json")]
    for path in [*passed_on, *(run / "tensorboard").iterdir()]:
        assert NAME.encode() not in path.read_bytes(), path.name
        assert str(run.parent).encode() not in path.read_bytes() or path.name == "log.txt"


def test_teacher_and_student_are_measured_on_the_same_cases(run: Path) -> None:
    models = json.loads((run / "evaluation" / "evaluation.json").read_text())["models"]
    assert list(models) == ["blobs-teacher", "blobs-x4"]
    names = [[case["case"] for case in model["cases"]] for model in models.values()]
    assert names[0] == names[1]


def test_tensorboard_events_can_be_read(run: Path) -> None:
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    (path,) = (run / "tensorboard").iterdir()
    content, place, values = path.read_bytes(), 0, []
    while place < len(content):  # TFRecord: length, its checksum, the record, its checksum
        (length,) = struct.unpack_from("<Q", content, place)
        event = event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
        values += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        place += 16 + length
    history = last_state(run)["history"]
    assert len(values) == len({(step, tag) for step, tag, _ in values})
    totals = [value for _, tag, value in values if tag == "total"]
    assert totals == pytest.approx([row["total"] for row in history])
    assert (3, DICE) in {(step, tag) for step, tag, _ in values}


def test_without_tensorboard_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    journal = Journal(tmp_path)
    journal.epochs([{"epoch": 1, "total": 0.5}], 2)
    journal.close()
    assert not Events.available()
    assert "tensorboardX is not installed" in (tmp_path / "log.txt").read_text()
    assert (tmp_path / "log.csv").is_file()
    assert not (tmp_path / "tensorboard").exists()


def test_a_configuration_can_be_used_again(run: Path, tmp_path: Path) -> None:
    again = ["--config", str(run / "config.json"), "--output", str(tmp_path / "again"), "--validation-cases", "1"]
    assert main(again) == 0
    assert same_result(run, tmp_path / "again")
    first, second = (json.loads((folder / "config.json").read_text()) for folder in (run, tmp_path / "again"))
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {"output", "validationCases"}


@pytest.mark.parametrize(
    ("content", "message"), [('{"epoch": 3}', "'epoch', which is no parameter"), ("[]", "not a JSON object")]
)
def test_a_wrong_configuration_is_refused(content: str, message: str, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "config.json").write_text(content)
    assert main(["--config", str(tmp_path / "config.json")]) == 2
    assert message in capsys.readouterr().err


def test_changed_data_are_refused_unless_told(run: Path, dataset: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    changed = Path(shutil.copytree(dataset, tmp_path / dataset.name))
    training = json.loads((run / "split.json").read_text())["train"]
    image = str(changed / "imagesTr" / f"{training[0]}_0000.nii.gz")
    sitk.WriteImage(sitk.ReadImage(image) + 1, image)
    arguments = ["--config", str(run / "config.json"), "--dataset", str(changed), "--output", str(folder)]
    assert main([*arguments, "--resume"]) == 2
    assert f"data, {training[0]} was" in capsys.readouterr().err
    assert status(folder) == status(run)
    made_with = json.loads((folder / "environment.json").read_text())
    made_with["versions"]["torch"] = "1.0"
    (folder / "environment.json").write_text(json.dumps(made_with))
    assert main([*arguments, "--resume-anyway"]) == 0
    assert "another environment: versions, torch was '1.0'" in (folder / "log.txt").read_text()
    assert f"Goes on with other settings than the checkpoint's: data, {training[0]} was" in capsys.readouterr().out


def test_one_process_at_a_time_trains_in_a_folder(
    run: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(run, tmp_path / "run"))
    monkeypatch.setattr(run_lock, "_SECONDS", 0.0)
    arguments = ["--config", str(run / "config.json"), "--output", str(folder), "--resume"]
    with FileLock(folder / run_lock.LOCK):
        assert main(arguments) == 2
    assert "Another process is training in" in capsys.readouterr().err
    assert status(folder) == status(run)
    assert main(arguments) == 0


@pytest.mark.parametrize("options", [["--patience", "2"], ["--ship", "best"]])
def test_choices_that_need_validation_say_so(
    options: list[str], dataset: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments = ["--dataset", str(dataset), "--output", str(tmp_path / "run"), "--validate-every", "0", *options]
    assert main([*arguments, *SHORT]) == 2
    assert "--validate-every" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_killed_in_preprocessing_in_a_checkpoint_and_in_the_evaluation(
    run: Path, distil: list[str], tmp_path: Path
) -> None:
    """As Slicer's Cancel does; the result is bit for bit that of the run that nobody killed."""
    arguments = [*distil, "--output", str(tmp_path / "run"), "--checkpoint-minutes", "0"]
    assert kill_at(arguments, tmp_path / "run", preprocessing)
    assert kill_at([*arguments, "--resume"], tmp_path / "run", checkpoint_is_being_written)
    assert kill_at([*arguments, "--resume"], tmp_path / "run", evaluating)
    finish([*arguments, "--resume"])
    assert same_result(run, tmp_path / "run")
    assert not [path.name for path in tmp_path.rglob(".*")], "nothing half written is left"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no polite request to a process without a window")
def test_a_polite_stop_writes_a_checkpoint_and_says_so(distil: list[str], tmp_path: Path) -> None:
    arguments = [*distil, "--output", str(tmp_path / "run"), "--steps-per-epoch", "1000", "--validate-every", "1"]
    process = start(arguments)
    until = time.monotonic() + 120
    while ((state := status(tmp_path / "run")) is None or state["step"] < 1) and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130, output
    assert "the checkpoint is written. Go on with --resume." in output
    state = status(tmp_path / "run")
    assert state is not None
    assert state["state"] == "stopped"
    assert last_state(tmp_path / "run")["step"] > 0


def test_a_full_disk_ends_the_run_cleanly(
    distil: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    save = Checkpoints.save

    def full_from_the_second_on(self: Checkpoints, step: int, state: dict[str, object]) -> None:
        if step > 2:
            raise OutputError("The checkpoint could not be written: No space left on device.")
        save(self, step, state)

    monkeypatch.setattr(Checkpoints, "save", full_from_the_second_on)
    assert main([*distil, "--output", str(tmp_path / "run")]) == 2
    assert "No space left" in capsys.readouterr().err
    state = status(tmp_path / "run")
    assert state is not None
    assert state["state"] == "failed"
    assert "No space left" in state["error"]
    assert last_state(tmp_path / "run")["step"] == 2


def test_files_that_cannot_be_written_do_not_end_a_run(tmp_path: Path, capsys: Capture) -> None:
    for name in ("log.csv", "curves.png", "status.json", "log.txt"):
        (tmp_path / name).mkdir()
    journal = Journal(tmp_path)
    journal.line("something")
    for _ in range(2):
        journal.epochs([{"epoch": 1, "total": 0.5}], 1)
    journal.close()
    said = capsys.readouterr().out
    assert said.count("The run goes on") == 4
    assert all(f"{name} could not be written" in said for name in ("log.csv", "curves.png", "status.json", "log.txt"))


def test_the_best_epoch_is_the_first_of_equals_and_nan_is_the_worst() -> None:
    dice = [float("nan"), 0.4, 0.4, 0.3]
    history = [{"epoch": float(n), DICE: value} for n, value in enumerate(dice, 1)]
    assert best_epoch(history) == 2
    assert validations_since(history) == 2
    assert best_epoch([{"epoch": 1.0, "total": 0.3}]) is None


def test_curves_show_what_there_is(tmp_path: Path) -> None:
    draw_curves([], tmp_path / "none.png")
    draw_curves([{"epoch": 1.0, "total": float("nan"), "segmentation": 0.4, "reco/fg": 0.0}], tmp_path / "one.png")
    sizes = [(tmp_path / name).stat().st_size for name in ("none.png", "one.png")]
    assert sizes[0] < sizes[1]
