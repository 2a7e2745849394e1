"""Several processes under torchrun train what one does, and what befalls one of them ends well for all."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from joined_trainers import PLAN, STEPS, make_trainer, one_of_two
from ReCoKDLib.errors import ReCoKDError
from ReCoKDTrainingLib.agreement import State, agree, from_first
from ReCoKDTrainingLib.cache import CachedCase, preprocess_cases
from ReCoKDTrainingLib.cli import main
from ReCoKDTrainingLib.datasets import NnunetRawDataset
from ReCoKDTrainingLib.processes import own_device, own_samples, share_of_batch
from ReCoKDTrainingLib.torchrun import Place, place

SHORT = ["--epochs", "2", "--steps-per-epoch", "2", "--workers", "0", "--device", "cpu", "--precision", "off"]


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TORCHRUN += ["-m", "ReCoKDTrainingLib"]


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*TORCHRUN, *arguments], capture_output=True, text=True, check=False, timeout=500)


def curve(run: Path) -> list[dict[str, float]]:
    """The log without what depends on the machine, and on rounding alone."""
    with (run / "log.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    left_out = ("seconds", "gradient norm")
    return [{k: float(v) for k, v in row.items() if not k.startswith(left_out)} for row in rows]


def same_curve(one: Path, two: Path) -> bool:
    """Whether all losses and counts agree to 1e-4."""
    ours, theirs = curve(one), curve(two)
    return len(ours) == len(theirs) and all(
        a.keys() == b.keys() and all(b[name] == pytest.approx(a[name], rel=1e-4, abs=1e-4) for name in a)
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.fixture(scope="module")
def arguments(raw_dataset: Path, teacher: Path) -> list[str]:
    """Of a distillation with ReCo-KD and logits, but its output."""
    data = ["--dataset", str(raw_dataset), "--batch-size", "2", *SHORT]
    distil = ["--task", "distill", "--teacher", str(teacher), "--width", "2", "--losses", "reco=1,logits=1"]
    return [*distil, *data, "--ramp", "0", "--validate-every", "1"]


@pytest.fixture(scope="module")
def alone(arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    assert main([*arguments, "--output", str(folder)]) == 0
    return folder


def test_two_processes_give_the_loss_curve_of_one(arguments: list[str], alone: Path, tmp_path: Path) -> None:
    done = torchrun(*arguments, "--output", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr
    assert same_curve(alone, tmp_path / "run")
    assert done.stdout.count("The model is in") == 1
    assert {path.name for path in (tmp_path / "run").iterdir()} == {path.name for path in alone.iterdir()}


def test_a_run_of_one_process_goes_on_with_two(arguments: list[str], alone: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(alone, tmp_path / "run"))
    (folder / "checkpoints" / "step-00000004.pt").unlink()
    (folder / "log.csv").unlink()
    done = torchrun(*arguments, "--output", str(folder), "--resume")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Goes on after step 2 of 4.") == 1
    assert same_curve(alone, folder)


def test_what_all_processes_find_wrong_is_said_by_the_first(arguments: list[str], tmp_path: Path) -> None:
    done = torchrun(*arguments, "--batch-size", "3", "--output", str(tmp_path / "run"))
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("recokd-training")]
    assert sorted(said) == [
        "recokd-training (process 0): A batch of 3 patches can't be divided evenly among 2 processes. Choose "
        "--batch-size so that it can, such as 4.",
        "recokd-training (process 1): Process 0 of this training failed, so this one ends.",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="no polite signals")
def test_a_process_that_torchrun_terminates_says_its_error_first() -> None:
    """The others may have ended, and torchrun noticed, before one gets to the end of what it has to say."""
    code = f"""
import os, signal, sys
from ReCoKDTrainingLib import cli
complain = cli._complain
def late(text):
    os.kill(os.getpid(), signal.SIGTERM)
    complain(text)
cli._complain = late
sys.exit(cli.main({["--task", "distill", "--output", "nowhere"]!r}))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "RANK": "0"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("recokd-training (process 0): --dataset is missing.")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no polite signals")
def test_torchrun_asked_to_stop_leaves_a_checkpoint_and_no_process(arguments: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    long = [*arguments, "--epochs", "500", "--workers", "1", "--output", str(folder)]
    process = subprocess.Popen([*TORCHRUN, *long], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 300
    while not list(folder.glob("checkpoints/step-*.pt")) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.terminate()
    output, _ = process.communicate(timeout=120)
    assert "forcefully" not in output, output  # torchrun kills whoever has not ended after half a minute
    for rank in (0, 1):
        assert re.search(rf"\(process {rank}\): Stopped after step \d+ of 1000; the checkpoint is written", output)
    step = json.loads((folder / "status.json").read_text())["step"]
    assert (folder / "checkpoints" / f"step-{step:08d}.pt").is_file()


# -- what befalls one of them -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cases(raw_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CachedCase, ...]:
    dataset = NnunetRawDataset(raw_dataset)
    return preprocess_cases(dataset.cases, PLAN, dataset.label_set, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def ends(
    raw_dataset: Path, cases: tuple[CachedCase, ...], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """The folder, and how each of two processes ended in each of the troubles."""
    folder = tmp_path_factory.mktemp("two")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    label_set = NnunetRawDataset(raw_dataset).label_set
    spawn(one_of_two, args=(port, str(folder), cases, label_set), nprocs=2)  # type: ignore[no-untyped-call]
    return folder, [torch.load(folder / f"rank_{rank}.pt") for rank in (0, 1)]


def test_trainers_of_two_processes_are_copies_of_each_other(
    ends: tuple[Path, list[dict[str, Any]]], raw_dataset: Path, cases: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    first, second = (end["none"] for end in ends[1])
    assert first["step"] == second["step"] == STEPS
    trained = [name for name in first["state"] if "pairs" not in name]
    assert all(torch.equal(first["state"][name], second["state"][name]) for name in trained)
    whole = make_trainer(cases, NnunetRawDataset(raw_dataset).label_set, tmp_path / "whole")
    whole.run()
    (expected,) = whole.history
    (found,) = first["history"]
    names = [name for name in expected if "seconds" not in name]
    assert {name: found[name] for name in names} == pytest.approx({n: expected[n] for n in names}, rel=1e-3, abs=1e-5)
    assert found["total"] == pytest.approx(expected["total"], rel=1e-4)


def test_both_divide_their_batches_when_one_has_no_memory(ends: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = (end["memory"] for end in ends[1])
    assert (first["said"], second["said"]) == ("", "")
    assert (first["parts"], second["parts"]) == (2, 2)
    trained = [name for name in first["state"] if "pairs" not in name]
    assert all(torch.equal(first["state"][name], second["state"][name]) for name in trained)
    assert first["history"][0]["total"] == pytest.approx(ends[1][0]["none"]["history"][0]["total"], rel=0.05)


def test_an_error_of_one_ends_both(ends: tuple[Path, list[dict[str, Any]]]) -> None:
    first, second = (end["error"] for end in ends[1])
    assert first["said"] == "OtherProcessError: Process 1 of this training failed, so this one ends."
    assert second["said"] == "ReCoKDError: This one is ill."
    assert first["step"] == second["step"] == 1


def test_a_stop_of_one_is_one_of_both_with_a_checkpoint(ends: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, ended = ends
    for end in ended:
        assert end["stop"]["said"] == "Cancelled: Stopped after step 2 of 3; the checkpoint is written."
    assert [path.name for path in (folder / "stop" / "checkpoints").iterdir()] == ["step-00000002.pt"]


def test_all_compile_the_teacher_or_none(ends: tuple[Path, list[dict[str, Any]]]) -> None:
    for end in (end["compiled"] for end in ends[1]):
        reason = "No compiler was found"
        assert end["told"] == [f"The teacher cannot be compiled in process 1 ({reason}). Training goes on without."]
        assert not end["compiled"]


# -- places -------------------------------------------------------------------------------------------------


def started_by_torchrun(monkeypatch: pytest.MonkeyPatch, rank: str, size: str) -> None:
    values = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    for name, value in (values | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}).items():
        monkeypatch.setenv(name, value)


def test_one_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert place() == Place()
    assert own_samples(4, 9, 2) == range(4, 9)
    assert agree(State.STOP) == (State.STOP,)
    assert from_first(lambda: 3) == 3


def test_samples_are_shared_so_that_all_see_the_stream_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for rank in ("0", "1", "2"):
        started_by_torchrun(monkeypatch, rank, "3")
        assert share_of_batch(6) == 2
        shares.append(list(own_samples(6, 18, 6)))
    assert shares == [[6, 7, 12, 13], [8, 9, 14, 15], [10, 11, 16, 17]]


@pytest.mark.parametrize(("rank", "size"), [("2", "2"), ("-1", "2"), ("x", "2")])
def test_senseless_places_are_refused(monkeypatch: pytest.MonkeyPatch, rank: str, size: str) -> None:
    started_by_torchrun(monkeypatch, rank, size)
    with pytest.raises(ReCoKDError, match="Start several processes with torchrun"):
        place()


def test_processes_do_not_share_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    started_by_torchrun(monkeypatch, "0", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ReCoKDError, match=r"2 processes on a machine with 1 GPU"):
        own_device("auto")
    with pytest.raises(ReCoKDError, match="can't share the device cuda:0"):
        own_device("cuda:0")
    assert own_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("task", ["evaluate", "check", "export"])
def test_other_tasks_are_for_one_process(
    task: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    started_by_torchrun(monkeypatch, "0", "2")
    assert main(["--task", task, "--dataset", str(tmp_path), "--output", str(tmp_path / "out")]) == 2
    assert f"--task {task} is for one process" in capsys.readouterr().err
