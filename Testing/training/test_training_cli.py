"""``recokd-training`` from its .xml to a model package, as a shell and as Slicer start it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.package import ModelPackage, write_package
from ReCoKDLib.provenance import ClickRecord, Provenance, provenance_json
from ReCoKDLib.segment import segment
from ReCoKDTrainingLib.cli import find_description, main
from ReCoKDTrainingLib.command_line import make_parser
from ReCoKDTrainingLib.datasets import NnunetRawDataset, read_split

SHORT = ["--epochs", "2", "--steps-per-epoch", "2", "--batch-size", "2", "--workers", "0", "--device", "cpu"]

Capture = pytest.CaptureFixture[str]

DISTIL = ["--task", "distill", "--dataset", "{data}", "--output", "{tmp}/out"]


def test_every_parameter_of_the_xml_is_an_argument() -> None:
    description = find_description()
    parser = make_parser(description)
    names = [
        parameter.findtext("name")
        for parameters in ElementTree.parse(description).getroot().iter("parameters")
        for parameter in parameters
        if parameter.find("longflag") is not None
    ]
    assert len(names) > 20
    assert set(names) <= vars(parser.parse_args([])).keys()
    arguments = parser.parse_args(
        ["--width", "3", "--resume", "--learning-rate", "0.5", "--model", "a", "--model", "b"]
    )
    assert (arguments.width, arguments.resume, arguments.learningRate) == (3, True, 0.5)
    assert arguments.models == [Path("a"), Path("b")]
    assert (arguments.task, arguments.epochs, arguments.teacher) == ("distill", 1000, None)


def test_a_clinician_sees_six_parameters_each_of_which_is_explained() -> None:
    groups = list(ElementTree.parse(find_description()).getroot().iter("parameters"))
    shown = [p for group in groups if group.get("advanced") != "true" for p in group if p.find("name") is not None]
    assert [p.findtext("name") for p in shown] == ["task", "dataset", "output", "teacher", "epochs", "resume"]
    for parameter in (p for group in groups for p in group if p.find("name") is not None):
        name = parameter.findtext("name")
        assert parameter.findtext("label"), name
        assert len(parameter.findtext("description") or "") > 10, name
        if parameter.tag not in ("file", "directory"):
            assert parameter.find("default") is not None, name
        if parameter.tag in ("integer", "double") and parameter.findtext("channel") != "output":
            assert parameter.find("constraints/minimum") is not None, name
            assert parameter.find("constraints/maximum") is not None, name


@pytest.mark.parametrize(
    "wrong", [["--width", "5"], ["--epochs", "0"], ["--epochs", "x"], ["--task", "guess"], ["--ramp", "2"]]
)
def test_values_outside_the_xmls_bounds_are_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_parser(find_description()).parse_args(wrong)
    assert wrong[0] in capsys.readouterr().err


def test_slicers_parser_finds_nothing_missing(caplog: pytest.LogCaptureFixture) -> None:
    module = pytest.importorskip("ctk_cli").CLIModule(str(find_description()))
    assert module.title == "ReCoKD Training"
    assert not caplog.records
    # What the Slicer Execution Model calls simple return types (asked for with --returnparameterfile) are outputs whose
    # flag, without its hyphens, is none; ctk-cli does not know them, and wants a flag.
    returned = [p for group in module for p in group if p.channel == "output" and not p.longflag]
    assert [p.name for p in returned] == ["package", "report", "meanDice"]
    assert [p.flag.lstrip("-") for p in returned] == ["", "", ""]


def test_xml_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--xml"])
    assert stop.value.code == 0
    assert ElementTree.fromstring(capsys.readouterr().out.encode()).tag == "executable"


def test_a_teacher_is_trained_packaged_and_measured(teacher: Path, raw_dataset: Path) -> None:
    package = ModelPackage.open(teacher)
    assert package.card.role == "teacher"
    assert package.card.training.steps == 4
    assert package.card.training.cases == 5
    assert package.card.metrics["cases"] == 1
    assert {"anterior", "posterior"} <= package.card.metrics["segments"].keys()
    assert (teacher.parent / "evaluation" / "evaluation.json").is_file()
    case = read_volume(raw_dataset / "imagesTr" / "blobs_000_0000.nii.gz")
    assert segment(case, package, device="cpu").labels.same_grid(case)


def test_a_student_is_distilled_and_its_card_tells_how(teacher: Path, raw_dataset: Path, tmp_path: Path) -> None:
    raw_dataset = Path(shutil.copytree(raw_dataset, tmp_path / raw_dataset.name))
    corrected = Provenance.now("blobs-x4", "00ff", (ClickRecord("anterior", True, (0.0, 0.0, 0.0)),))
    confirmed = Provenance.now("blobs-x4", "00ff")
    by_case = {f"blobs_{n:03d}": corrected if n % 2 else confirmed for n in range(6)}
    (raw_dataset / "provenance.json").write_text(json.dumps(provenance_json(by_case)))
    options = json.dumps({"reco": {"masks": "area", "until": 0.5}})
    arguments = ["--task", "distill", "--dataset", str(raw_dataset), "--teacher", str(teacher), "--width", "2"]
    arguments += ["--losses", "reco=0.5,logits", "--loss-options", options, "--dtype", "float16", "--seed", "3"]
    arguments += ["--model-version", "1.1.0"]
    assert main([*arguments, "--output", str(tmp_path / "run"), *SHORT]) == 0
    package = ModelPackage.open(tmp_path / "run" / "blobs-x4.recokd.zip")
    teacher_package = ModelPackage.open(teacher)
    assert package.card.role == "student"
    assert package.plan == teacher_package.plan.with_width(2)
    assert package.card.training.losses["reco"] == {"eta": 0.5, "masks": "area", "until": 0.5}
    assert package.card.training.losses["logits"] == {"eta": 1.0}
    assert package.card.training.teacher_checksum == teacher_package.checksum
    trained_on = read_split(NnunetRawDataset(raw_dataset), None).training
    clicked = sum(case.identifier in ("blobs_001", "blobs_003", "blobs_005") for case in trained_on)
    assert package.card.training.options["cases corrected by clicks"] == clicked
    assert (package.card.training.width, package.card.training.seed, package.card.dtype) == (2, 3, "float16")
    assert package.card.version == "1.1.0"
    state = package.weights(0)
    assert not [key for key in state if "connector" in key or "losses" in key]


def test_slicer_starts_the_script_and_reads_its_progress(raw_dataset: Path, tmp_path: Path, repository: Path) -> None:
    script = repository / "ReCoKDTraining" / "ReCoKDTraining.py"
    assert script.read_bytes()[:2] == b"#!"
    arguments = [
        "--task",
        "distill",
        "--dataset",
        str(raw_dataset),
        "--output",
        str(tmp_path / "ä b"),
        "--width",
        "3",
        *SHORT,
    ]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"SLICER_HOME": "/slicer"}
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "<filter-progress>1.0000</filter-progress>" in done.stdout
    overall = [float(value) for value in re.findall(r"<filter-progress>([\d.]+)<", done.stdout)]
    assert overall == sorted(overall), "the bar of the whole task never goes back"
    assert "<filter-stage-progress>1.0000</filter-stage-progress>" in done.stdout
    assert re.search(r"<filter-comment>Training: loss [\d.]+, gradient [\d.]+", done.stdout)
    assert "<filter-end>" in done.stdout
    # Slicer logs anything here as an error; what a busy machine may make libraries say there is not ours.
    assert "Traceback" not in done.stderr
    assert "it/s" not in done.stderr, done.stderr
    assert "<filter" not in done.stderr, done.stderr
    assert (tmp_path / "ä b" / "blobs-x8-plain.recokd.zip").is_file()


def test_a_finished_run_is_packaged_again_without_training(teacher: Path, raw_dataset: Path) -> None:
    before = ModelPackage.open(teacher).weights(0)
    log = (teacher.parent / "log.csv").read_bytes()
    arguments = ["--task", "teacher", "--dataset", str(raw_dataset), "--output", str(teacher.parent), *SHORT]
    assert main([*arguments, "--resume"]) == 0
    after = ModelPackage.open(teacher).weights(0)
    assert all((before[key] == after[key]).all() for key in before)
    assert (teacher.parent / "log.csv").read_bytes() == log


def test_evaluate_puts_models_side_by_side(teacher: Path, raw_dataset: Path, tmp_path: Path, capsys: Capture) -> None:
    """Two versions of one model too."""
    package = ModelPackage.open(teacher)
    card, newer = package.card, tmp_path / "newer.recokd.zip"
    write_package(newer, replace(card, version="1.1.0"), package.plan, package.label_set, [package.weights(0)])
    arguments = ["--task", "evaluate", "--dataset", str(raw_dataset), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--model", str(teacher), "--model", str(newer), "--device", "cpu"]) == 0
    values = json.loads((tmp_path / "out" / "evaluation.json").read_text(encoding="utf-8"))["models"]
    assert list(values) == [f"{card.name} 1.0.0", f"{card.name} 1.1.0"]
    for model in values.values():
        measured = model["summary"]["segments"]["anterior"]["dice"]["mean"]
        assert measured == card.metrics["segments"]["anterior"]["dice"]["mean"]
    assert (tmp_path / "out" / "evaluation.png").stat().st_size > 10_000
    assert main([*arguments[:-1], str(tmp_path / "twice"), *["--model", str(teacher)] * 2, "--device", "cpu"]) == 2
    assert f"Two of the models are called {card.name} 1.0.0" in capsys.readouterr().err


def test_evaluate_measures_all_models_on_the_same_cases(teacher: Path, raw_dataset: Path, tmp_path: Path) -> None:
    """Cases that know but one class are trained on, though they are whole for a model of that class."""
    part = Path(shutil.copytree(raw_dataset, tmp_path / "part"))
    description = json.loads((part / "dataset.json").read_text())
    description["labels"] = {"background": 0, "anterior": 1, "rest": 2}
    (part / "dataset.json").write_text(json.dumps(description))
    one_class = ["--task", "teacher", "--dataset", str(raw_dataset), "--labels", "anterior", "--name", "one", *SHORT]
    assert main([*one_class, "--output", str(tmp_path / "one")]) == 0
    (package,) = (tmp_path / "one").glob("*.recokd.zip")
    arguments = ["--task", "evaluate", "--dataset", str(raw_dataset), "--dataset", str(part), "--labels"]
    arguments += ["anterior,posterior", "--device", "cpu"]
    measured = []
    for number, model in enumerate((teacher, package)):
        assert main([*arguments, "--model", str(model), "--output", str(tmp_path / f"{number}")]) == 0
        models = json.loads((tmp_path / f"{number}" / "evaluation.json").read_text(encoding="utf-8"))["models"]
        measured += [[case["case"] for case in values["cases"]] for values in models.values()]
    assert measured[0] == measured[1]
    assert all(name.startswith("Dataset901_Blobs") for name in measured[0])


def test_evaluate_looks_for_older_reports_first(raw_dataset: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "evaluation.csv").write_text("mine")
    arguments = ["--task", "evaluate", "--dataset", str(raw_dataset), "--output", str(tmp_path)]
    assert main([*arguments, "--model", "there is none"]) == 2
    assert "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "teacher"], "--dataset is missing"),
        (["--task", "teacher", "--dataset", "{tmp}", "--output", "{tmp}/out"], "Give a folder with a dataset.json"),
        (["--task", "teacher", "--dataset", "{data}", "--output", "{data}"], "is not empty"),
        ([*DISTIL, "--resume"], "nothing to resume"),
        (["--task", "teacher", *DISTIL[2:], "--teacher", "{teacher}"], "--teacher is for students"),
        (["--task", "evaluate", "--dataset", "{data}", "--output", "{tmp}/out"], "--model is missing"),
        ([*DISTIL, "--teacher", "{tmp}/none.zip"], "There is no model package"),
        ([*DISTIL, "--teacher", "{teacher}", "--losses", "magic"], "no distillation loss named 'magic'"),
        ([*DISTIL, "--teacher", "{teacher}", "--losses", "reco=x"], "is not NAME=WEIGHT"),
        ([*DISTIL, "--teacher", "{teacher}", "--loss-options", "[1]"], "not a JSON object"),
        ([*DISTIL, "--teacher", "{teacher}", "--loss-options", '{{"logits": {{"until": "x"}}}}'], "is no number: 'x'"),
        ([*DISTIL, "--teacher", "{teacher}", "--loss-options", '{{"logits": {{"until": 0}}}}'], "larger than 0"),
        ([*DISTIL, "--teacher", "{teacher}", "--loss-options", '{{"reco": {{}}}}'], "but the losses are logits. Add"),
        ([*DISTIL, "--teacher", "{teacher}", "--plan", "x"], "uses its teacher's plan"),
        ([*DISTIL, "--name", "my student"], "my student"),
        ([*DISTIL, "--model-version", "new one"], "version cannot be 'new one'"),
        ([*DISTIL, "--teacher", "{teacher}", "--losses", "reco=nan"], "eta must be a number"),
    ],
)
def test_mistakes_are_said_in_words(
    arguments: list[str],
    message: str,
    raw_dataset: Path,
    teacher: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [a.format(tmp=tmp_path, data=raw_dataset, teacher=teacher) for a in arguments]
    assert main([*filled, *SHORT]) == 2
    error = capsys.readouterr().err
    assert error.startswith("recokd-training: ")
    assert message in error
    assert "Traceback" not in error
    assert not list(tmp_path.rglob("*.*")), "a run that cannot begin leaves no files"


def test_a_teacher_with_other_labels_is_refused(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from raw_dataset import make_raw_dataset

    folder = make_raw_dataset(tmp_path / "regions", regions=True)
    arguments = ["--dataset", str(folder), "--output", str(tmp_path / "out"), "--teacher", str(teacher)]
    assert main([*arguments, *SHORT]) == 2
    assert "has the labels" in capsys.readouterr().err


def test_resuming_with_other_settings_leaves_the_run_as_it_is(
    raw_dataset: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments = ["--task", "distill", "--dataset", str(raw_dataset), "--output", str(tmp_path / "run"), *SHORT]
    assert main([*arguments, "--width", "2"]) == 0
    plan = (tmp_path / "run" / "plan.json").read_bytes()
    assert main([*arguments, "--width", "3", "--resume"]) == 2
    assert "made with other settings: plan, " in capsys.readouterr().err
    assert (tmp_path / "run" / "plan.json").read_bytes() == plan


def test_resuming_with_swapped_classes_is_refused(raw_dataset: Path, tmp_path: Path, capsys: Capture) -> None:
    changed = Path(shutil.copytree(raw_dataset, tmp_path / raw_dataset.name))
    arguments = ["--task", "distill", "--dataset", str(changed), "--output", str(tmp_path / "run"), *SHORT]
    assert main(arguments) == 0
    description = json.loads((changed / "dataset.json").read_text())
    labels = description["labels"]
    labels["anterior"], labels["posterior"] = labels["posterior"], labels["anterior"]
    (changed / "dataset.json").write_text(json.dumps(description))
    assert main([*arguments, "--resume"]) == 2
    assert "classes, labels, anterior was 1 and is 2" in capsys.readouterr().err


def test_a_run_killed_before_its_first_checkpoint_can_be_resumed(raw_dataset: Path, tmp_path: Path) -> None:
    arguments = ["--task", "distill", "--dataset", str(raw_dataset), "--output", str(tmp_path / "run"), *SHORT]
    assert main(arguments) == 0
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "blobs-x4-plain.recokd.zip").unlink()
    assert main([*arguments, "--resume"]) == 0
    assert (tmp_path / "run" / "blobs-x4-plain.recokd.zip").is_file()


def test_training_goes_on_from_given_weights(teacher: Path, raw_dataset: Path, tmp_path: Path) -> None:
    arguments = ["--task", "teacher", "--dataset", str(raw_dataset), "--output", str(tmp_path / "run"), *SHORT]
    assert main([*arguments, "--initial", str(teacher), "--learning-rate", "0.000001", "--mirror-axes", "2"]) == 0
    package, first = (ModelPackage.open(p) for p in (tmp_path / "run" / "blobs-teacher.recokd.zip", teacher))
    moved = [(a - first.weights(0)[key]).abs().max().item() for key, a in package.weights(0).items()]
    assert 0 < max(moved) < 1e-3
    assert package.card.mirror_axes == (2,)
    assert package.card.training.options["initial weights"] == f"blobs-teacher {first.checksum}"


def test_a_student_starts_with_channels_of_its_teacher(teacher: Path, raw_dataset: Path, tmp_path: Path) -> None:
    arguments = ["--task", "distill", "--dataset", str(raw_dataset), "--output", str(tmp_path / "run"), *SHORT]
    arguments += ["--teacher", str(teacher), "--initial", str(teacher), "--width", "1", "--learning-rate", "0.000001"]
    assert main(arguments) == 0
    package, first = (ModelPackage.open(p) for p in (tmp_path / "run" / "blobs-x2.recokd.zip", teacher))
    student, wide = package.weights(0), first.weights(0)
    for key in ("encoder.stages.1.0.convs.1.conv.weight", "decoder.seg_layers.0.weight"):
        outputs = slice(None) if key.startswith("decoder.seg") else slice(None, None, 2)
        assert (student[key] - wide[key][outputs, ::2]).abs().max() < 1e-3
    assert package.card.training.options["initial weights"] == f"channels of blobs-teacher {first.checksum}"


def test_mirror_axes_in_words() -> None:
    from ReCoKDTrainingLib.parsing import parse_mirror_axes

    assert parse_mirror_axes("2, 0") == (0, 2)
    assert parse_mirror_axes("none") == ()
    with pytest.raises(ReCoKDError, match="not among 0, 1 and 2"):
        parse_mirror_axes("3")
