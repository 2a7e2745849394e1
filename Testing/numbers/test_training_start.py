"""Starting a training as a process, what it says, and what it leaves behind for the panel."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ReCoKDLib.errors import InputError
from ReCoKDLib.files import write_json
from ReCoKDLib.training_files import Curves, Status, read_check, read_curves, read_scores, read_status
from ReCoKDLib.training_start import (
    TrainingChoice,
    cases_folder,
    check_arguments,
    ended_with,
    find_script,
    require_free,
    resume_arguments,
    train_arguments,
    understand,
)
from ReCoKDLib.watched import STOP, command
from ReCoKDLib.worker import HELLO

POLITE = """
import signal, sys, time
asked = []
signal.signal(signal.SIGTERM, lambda number, frame: asked.append(number))
print("begins", *sys.argv[1:], flush=True)
while not asked:
    time.sleep(0.01)
print("checkpoint written", flush=True)
sys.exit(130)
"""


def watched(tmp_path: Path, script: str = POLITE) -> subprocess.Popen[bytes]:
    path = tmp_path / "Skript, größer.py"
    path.write_text(textwrap.dedent(script), encoding="utf-8")
    process = subprocess.Popen(
        command(sys.executable, path, ["--name", "größer"]), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(HELLO)
    process.stdin.flush()
    assert f'"pid": {process.pid}' in process.stdout.readline().decode()
    return process


@pytest.mark.parametrize("request_to_stop", [STOP, b""], ids=["asked", "the other program died"])
def test_a_watched_script_ends_politely(tmp_path: Path, request_to_stop: bytes) -> None:
    process = watched(tmp_path)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline().decode().strip() == "begins --name größer"
    if request_to_stop:
        process.stdin.write(request_to_stop)
        process.stdin.flush()
    else:
        process.stdin.close()
    assert process.wait(20) == 130
    assert process.stdout.read().decode().strip() == "checkpoint written"


def test_a_script_that_has_not_begun_ends_at_once(tmp_path: Path) -> None:
    process = watched(tmp_path, "import time; time.sleep(60)")
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(20) == 3


def test_arguments_are_those_of_the_description(tmp_path: Path, repository: Path) -> None:
    from ReCoKDTrainingLib.command_line import parse_arguments

    xml = repository / "ReCoKDTraining" / "ReCoKDTraining.xml"
    choice = TrainingChoice(
        (tmp_path / "a", tmp_path / "b"), tmp_path / "run", tmp_path / "t.zip", 3, 40, 7, True, ("T1", "T2"), "cpu"
    )
    given = parse_arguments(xml, train_arguments(choice))
    assert (given.task, given.dataset, given.output) == ("distill", [tmp_path / "a", tmp_path / "b"], tmp_path / "run")
    assert (given.teacher, given.width, given.epochs, given.stepsPerEpoch) == (tmp_path / "t.zip", 3, 40, 7)
    assert (given.skipBad, given.channels, given.device, given.validateEvery) == (True, "T1,T2", "cpu", 2)
    given = parse_arguments(xml, check_arguments(TrainingChoice((tmp_path,), tmp_path / "check")))
    assert (given.task, given.teacher, given.skipBad, given.progress) == ("check", None, False, "slicer")
    with pytest.raises(InputError, match="no run"):
        resume_arguments(tmp_path)
    write_json(tmp_path / "config.json", {"epochs": 9, "output": "elsewhere"})
    given = parse_arguments(xml, resume_arguments(tmp_path))
    assert (given.epochs, given.output, given.resume) == (9, tmp_path, True)


def test_the_script_is_found(repository: Path, tmp_path: Path) -> None:
    assert find_script() == repository / "ReCoKDTraining" / "ReCoKDTraining.py"
    own = tmp_path / "ReCoKDTraining.py"
    own.touch()
    assert find_script([tmp_path / "no.py", own]) == own


def test_a_run_folder_must_be_free(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    require_free(folder)
    folder.mkdir()
    require_free(folder)
    cases_folder(folder).mkdir()
    with pytest.raises(InputError, match="run-cases"):
        require_free(folder)
    (folder / "file").touch()
    with pytest.raises(InputError, match="not empty"):
        require_free(folder)


def test_what_lines_mean() -> None:
    assert understand("<filter-progress>0.2500</filter-progress>").fraction == 0.25
    assert understand("<filter-progress>soon</filter-progress>").fraction is None
    assert understand("epoch 1/2").text == "epoch 1/2"
    silent = understand("<filter-start><filter-name>ReCoKDTraining</filter-name></filter-start>")
    assert (silent.fraction, silent.text) == (None, "")
    lines = ["epoch 1/2", "recokd-training: The disk is full.", "Make room."]
    assert str(ended_with(2, lines)) == "The disk is full.\nMake room."
    assert "epoch 1/2" in str(ended_with(-1, lines))


def test_a_folder_without_a_run_says_nothing(tmp_path: Path) -> None:
    assert read_status(tmp_path) == Status()
    assert read_curves(tmp_path) == Curves()
    assert read_scores(tmp_path, "any") == ()
    for text in ("[]", "{"):
        (tmp_path / "status.json").write_text(text)
        assert read_status(tmp_path) == Status()


def test_curves_have_gaps_where_nothing_was_measured(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "epoch,segmentation,total,validation/Dice\n1,0.5,9,\n2,0.25,8,nan\n3,0.125,7,0.8\n"
    )
    assert read_curves(tmp_path) == Curves(((1, 0.5), (2, 0.25), (3, 0.125)), ((3, 0.8),))
    # Where nothing is annotated there is no loss of the segmentation.
    (tmp_path / "log.csv").write_text("epoch,total\n1,9\n")
    assert read_curves(tmp_path) == Curves(((1, 9.0),))


def test_the_worst_comes_first(tmp_path: Path) -> None:
    def finding(message: str, spoils: bool) -> dict[str, object]:
        return {"kind": "kind", "message": message, "spoils": spoils}

    def case(name: str, *findings: dict[str, object]) -> dict[str, object]:
        place = {"found_in": f"/{name}.nrrd", "images": [f"/{name}.nrrd"], "segmentation": None}
        return {"case": name, **place, "findings": findings}

    cases = [case("a"), case("b", finding("odd", False)), case("c", finding("odd", False), finding("bad", True))]
    write_json(tmp_path / "check.json", {"findings": [], "cases": cases})
    table = read_check(tmp_path)
    assert [(row.case, row.message) for row in table.rows] == [("c", "bad"), ("b", "odd"), ("c", "odd"), ("a", "")]
    assert (table.cases, table.bad, table.spoiled) == (3, 1, False)
    assert table.rows[0].images == (Path("/c.nrrd"),)
    assert table.rows[0].found_in == "/c.nrrd"
    write_json(tmp_path / "check.json", {"findings": [finding("teacher", True)], "cases": []}, overwrite=True)
    assert read_check(tmp_path).spoiled
    write_json(tmp_path / "check.json", {"cases": [{}]}, overwrite=True)
    with pytest.raises(InputError, match="Check the cases again"):
        read_check(tmp_path)
