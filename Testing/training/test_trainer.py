"""The training loop: it learns, it resumes exactly, and it stops cleanly."""

from __future__ import annotations

import csv
import errno
import json
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from plans import small_plan
from ReCoKDLib.errors import Cancelled, ReCoKDError
from ReCoKDLib.networks import build_network
from ReCoKDTrainingLib import trainer as trainer_module
from ReCoKDTrainingLib.cache import CachedCase, preprocess_cases
from ReCoKDTrainingLib.checkpoints import Checkpoints
from ReCoKDTrainingLib.datasets import NnunetRawDataset
from ReCoKDTrainingLib.distiller import Distiller, WeightedLoss
from ReCoKDTrainingLib.history import LOG, Row
from ReCoKDTrainingLib.journal import STATUS, Journal
from ReCoKDTrainingLib.losses import SegmentationLoss, build_loss
from ReCoKDTrainingLib.optimisation import is_out_of_memory
from ReCoKDTrainingLib.progress import Progress
from ReCoKDTrainingLib.recorders import EncoderDecoderRecorder
from ReCoKDTrainingLib.resuming import differences, require_same
from ReCoKDTrainingLib.sampling import PatchDataset
from ReCoKDTrainingLib.schedule import Schedule
from ReCoKDTrainingLib.stopwatch import PARTS, logged_split
from ReCoKDTrainingLib.trainer import Trainer
from ReCoKDTrainingLib.validation import DICE, Validation, spread_out

PLAN = small_plan(patch_size=(16, 16, 16), features=(8, 16, 16))


@pytest.fixture(scope="module")
def dataset(raw_dataset: Path) -> NnunetRawDataset:
    return NnunetRawDataset(raw_dataset)


@pytest.fixture(scope="module")
def cached(dataset: NnunetRawDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[CachedCase, ...]:
    return preprocess_cases(dataset.cases, PLAN, dataset.label_set, tmp_path_factory.mktemp("cache"))


def make(
    dataset: NnunetRawDataset,
    cached: tuple[CachedCase, ...],
    folder: Path,
    schedule: Schedule,
    *,
    distil: bool = True,
    on_device: bool = False,
) -> Trainer:
    folder.mkdir(exist_ok=True)
    torch.manual_seed(schedule.seed)
    teacher = build_network(PLAN.architecture, 1, 3)
    student = build_network(PLAN.with_width(1).architecture, 1, 3, deep_supervision=True)
    recorder = EncoderDecoderRecorder()
    losses = {
        "reco": WeightedLoss(
            build_loss(
                "reco",
                teacher_channels=recorder.channels(teacher),
                student_channels=recorder.channels(student),
                label_set=dataset.label_set,
            ),
            0.1,
        )
    }
    distiller = Distiller(
        student, teacher if distil else None, SegmentationLoss(dataset.label_set, 2), losses if distil else None
    )
    patches = PatchDataset(cached, PLAN, dataset.label_set, schedule.seed, schedule.samples, on_device=on_device)
    return Trainer(
        schedule,
        distiller,
        patches,
        folder,
        device=torch.device("cpu"),
        settings={"data": "blobs"},
        workers=0,
        progress=Progress("bar"),
    )


def test_learning_rate_is_nnunets() -> None:
    schedule = Schedule(epochs=1000)
    assert schedule.rate(0) == 0.01
    assert schedule.rate(500) == pytest.approx(0.01 * 0.5**0.9)
    assert schedule.rate(999) == pytest.approx(0.01 * 0.001**0.9)


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"learning_rate": 0.0}, {"batch_size": -1}])
def test_senseless_schedules_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ReCoKDError, match="must be larger than 0"):
        Schedule(**wrong)  # type: ignore[arg-type]


def test_it_learns(dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path) -> None:
    trainer = make(dataset, cached, tmp_path / "run", Schedule(epochs=6, steps_per_epoch=12, seed=1), distil=False)
    trainer.run()
    losses = [row["segmentation"] for row in trainer.history]
    assert losses[-1] < 0.6 * losses[0]
    assert trainer.finished


def test_counters_are_added_up_off_the_device(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MPS has no float64; the meta device gives no values back."""
    trainer = make(dataset, cached, tmp_path / "run", Schedule(epochs=1, steps_per_epoch=1))
    trainer.device = torch.device("meta")
    monkeypatch.setattr(trainer.distiller, "pop_statistics", lambda: {"pairs": 3.0})
    trainer._count()
    assert trainer._counters == {"pairs": 3.0}


class Killed(BaseException):
    pass


def killed_after(trainer: Trainer, steps: int) -> None:
    """Run until so many steps are done, and end there as a kill would: at once."""
    step = trainer.optimisation.step
    done: list[int] = []

    def until_then(*arguments):  # type: ignore[no-untyped-def]
        if len(done) == steps:
            raise Killed
        done.append(1)
        return step(*arguments)

    trainer.optimisation.step = until_then  # type: ignore[method-assign]
    with pytest.raises(Killed):
        trainer.run()


def resumed_from(trainer: Trainer, folder: Path) -> Trainer:
    state = Checkpoints(folder).newest(print)
    assert state is not None
    torch.manual_seed(99)  # resuming must not depend on the generators
    trainer.load(state)
    return trainer


def without_times(history: list[Row]) -> list[Row]:
    return [{name: value for name, value in row.items() if "seconds" not in name} for row in history]


def same_run(one: Trainer, two: Trainer) -> bool:
    ours, theirs = (trainer.distiller.state_dict() for trainer in (one, two))
    return (
        ours.keys() == theirs.keys()
        and all(torch.equal(ours[key], theirs[key]) for key in ours)
        and without_times(one.history) == without_times(two.history)
    )


@pytest.mark.parametrize(("minutes", "kept", "on_device"), [(10.0, 3, False), (0.0, 4, False), (0.0, 4, True)])
def test_resuming_gives_the_same_weights_bit_for_bit(
    minutes: float,
    kept: int,
    on_device: bool,
    dataset: NnunetRawDataset,
    cached: tuple[CachedCase, ...],
    tmp_path: Path,
) -> None:
    schedule = Schedule(epochs=3, steps_per_epoch=3)
    whole = make(dataset, cached, tmp_path / "whole", schedule, on_device=on_device)
    whole.run()
    broken = make(dataset, cached, tmp_path / "broken", schedule, on_device=on_device)
    broken.checkpoint_seconds = 60 * minutes
    killed_after(broken, 4)
    again = make(dataset, cached, tmp_path / "broken", schedule, on_device=on_device)
    resumed = resumed_from(again, tmp_path / "broken")
    assert resumed.step == kept
    resumed.run()
    assert same_run(whole, resumed)


def test_the_last_two_checkpoints_are_kept_and_a_damaged_one_is_passed_over(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    schedule = Schedule(epochs=3, steps_per_epoch=2)
    whole = make(dataset, cached, tmp_path / "run", schedule)
    whole.run()
    newest, before = Checkpoints(tmp_path / "run").paths()
    assert (newest.name, before.name) == ("step-00000006.pt", "step-00000004.pt")
    damaged = bytearray(newest.read_bytes())
    with zipfile.ZipFile(newest) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
        weights = archive.read(largest)
    damaged[damaged.index(weights) + len(weights) // 2] ^= 1  # one bit, which torch.load would not notice
    newest.write_bytes(damaged)
    told: list[str] = []
    state = Checkpoints(tmp_path / "run").newest(told.append)
    assert state is not None
    assert state["step"] == 4
    assert "not a readable checkpoint" in told[0]
    assert "The one before it is taken" in told[0]
    assert [path.name for path in Checkpoints(tmp_path / "run").paths()] == ["step-00000004.pt"], "it takes no place"
    assert newest.with_name("step-00000006.pt.damaged").is_file()
    resumed = make(dataset, cached, tmp_path / "run", schedule)
    resumed.load(state)
    resumed.run()
    assert same_run(whole, resumed)
    for path in Checkpoints(tmp_path / "run").paths():
        path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ReCoKDError, match="None of the checkpoints"):
        Checkpoints(tmp_path / "run").newest(told.append)


def test_workers_change_nothing(dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path) -> None:
    schedule = Schedule(epochs=1, steps_per_epoch=2)
    trainers = [make(dataset, cached, tmp_path / str(n), schedule, distil=False) for n in (0, 1)]
    trainers[1].workers = 1
    for trainer in trainers:
        trainer.run()
    one, two = (trainer.distiller.student_state() for trainer in trainers)
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_log_has_a_row_for_each_epoch(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    trainer = make(dataset, cached, tmp_path / "run", Schedule(epochs=3, steps_per_epoch=1))
    trainer.progress.journal = Journal(tmp_path / "run")
    trainer.run()
    with (tmp_path / "run" / LOG).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {"segmentation", "total", "gradient norm/reco", "reco/fg", "reco/ctx"} <= rows[0].keys()
    assert rows[0]["reco/fg"] == ""  # eta is 0 in the first epoch: the teacher is not asked
    assert float(rows[2]["reco/fg"]) > 0


def test_augmenting_whole_batches_gives_nearly_the_same_patches(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    """The same random numbers; rotation and zoom are rounded in another order."""
    schedule = Schedule(epochs=1, steps_per_epoch=4)
    here, later = (make(dataset, cached, tmp_path, schedule, on_device=on_device) for on_device in (False, True))
    for numbers in ([0, 1, 2], [5, 6, 7]):
        raw, masks = (torch.stack(parts) for parts in zip(*(later.patches[n] for n in numbers), strict=True))
        assert raw.shape[2:] == later.patches.source_size
        images, labels = later._brought(raw, masks, numbers)
        for place, number in enumerate(numbers):
            image, target = here.patches[number]
            assert torch.allclose(images[place], image, atol=1e-4)
            assert torch.equal(labels[place], target.long())


def test_the_split_of_a_step_is_kept_and_told_when_a_part_joins_in(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = make(dataset, cached, tmp_path / "run", Schedule(epochs=4, steps_per_epoch=2))
    trainer.progress.journal = Journal(tmp_path / "run")
    trainer.run()
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("A step takes")]
    assert len(said) == 2, "the teacher is not asked in the first epoch"
    assert "teacher" not in said[0]
    assert all(f"{part} " in said[1] for part in ("data", "teacher", "student", "losses", "backward", "optimiser"))
    row = trainer.history[-1]
    split = logged_split(row)
    assert split.keys() == set(PARTS)
    assert sum(split.values()) >= row["seconds"] / 2 - 1e-6
    assert split["data"] >= row["seconds waiting for data"] / 2
    assert json.loads((tmp_path / "run" / STATUS).read_text())["step_seconds"] == split
    assert not trainer.watch.on


def test_measuring_changes_nothing(
    dataset: NnunetRawDataset,
    cached: tuple[CachedCase, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    schedule = Schedule(epochs=2, steps_per_epoch=2)
    measured, plain = (make(dataset, cached, tmp_path / name, schedule) for name in ("a", "b"))
    measured.run()
    monkeypatch.setattr(trainer_module, "is_measured", lambda step, steps: False)
    plain.run()
    assert same_run(measured, plain)
    assert logged_split(plain.history[-1]) == {}


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).newest(print) is None


def test_a_checkpoint_of_another_network_is_refused(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    schedule = Schedule(epochs=1, steps_per_epoch=1)
    make(dataset, cached, tmp_path / "run", schedule, distil=False).run()
    with pytest.raises(ReCoKDError, match="adapters are of another run"):
        resumed_from(make(dataset, cached, tmp_path / "other", schedule), tmp_path / "run")


def test_differences_of_settings_are_named() -> None:
    saved = {"schedule": {"epochs": 2, "seed": 0}, "cases": ["a", "b"], "data": {"a": "1", "b": "2"}}
    present = {"schedule": {"epochs": 3, "seed": 0}, "cases": ["b", "c"], "data": {"a": "1", "b": "7"}}
    assert differences(saved, present) == [
        "schedule, epochs was 2 and is 3",
        "cases: a is not there any more",
        "cases: c is new",
        "data, b was '2' and is '7'",
    ]
    assert differences({"cases": ["a", "b"]}, {"cases": ["b", "a"]}) == ["cases: the order is another"]
    told: list[str] = []
    with pytest.raises(ReCoKDError, match="epochs was 2 and is 3.*--resume-anyway"):
        require_same(saved, present, False, told.append)
    require_same(saved, saved, False, told.append)
    assert not told
    require_same(saved, present, True, told.append)
    assert "epochs was 2 and is 3" in told[0]


def test_a_loss_that_is_not_a_number_stops_and_names_its_term(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    trainer = make(dataset, cached, tmp_path / "run", Schedule(epochs=2, steps_per_epoch=1), distil=False)
    loss = trainer.distiller.segmentation_loss
    loss.register_forward_hook(lambda module, given, value: value * float("nan") if trainer.step == 1 else value)
    with pytest.raises(ReCoKDError, match="not a number any more.*segmentation, total"):
        trainer.run()
    state = Checkpoints(tmp_path / "run").newest(print)
    assert state is not None
    assert state["step"] == 1
    assert all(torch.isfinite(value).all() for value in state["student"].values())


def test_a_gradient_that_is_not_a_number_changes_no_weight(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    trainer = make(dataset, cached, tmp_path / "run", Schedule(epochs=2, steps_per_epoch=1))
    # sqrt at 0: the value is fine, its gradient is not
    trainer.distiller.segmentation_loss.register_forward_hook(
        lambda module, given, value: value + (value - value).sqrt() if trainer.step == 1 else value
    )
    with pytest.raises(ReCoKDError, match="not a number any more.*gradient of segmentation"):
        trainer.run()
    state = Checkpoints(tmp_path / "run").newest(print)
    assert state is not None
    weights = trainer.distiller.student_state()
    assert all(torch.equal(value, weights[key]) for key, value in state["student"].items())


def test_weights_that_are_not_numbers_are_never_kept(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    trainer = make(dataset, cached, tmp_path / "run", Schedule(epochs=1, steps_per_epoch=1), distil=False)
    with torch.no_grad():
        next(trainer.distiller.student.parameters())[0] = float("inf")
    with pytest.raises(ReCoKDError, match="the weights of student"):
        trainer.save()
    assert not Checkpoints(tmp_path / "run").paths()


def test_a_full_disk_keeps_the_last_checkpoint(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(dataset, cached, tmp_path / "run", Schedule(epochs=2, steps_per_epoch=1), distil=False)
    trainer.save()
    (kept,) = Checkpoints(tmp_path / "run").paths()
    good = kept.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ReCoKDError, match="No space left on device.*--resume"):
        trainer.save()
    assert kept.read_bytes() == good
    assert [path.name for path in kept.parent.iterdir()] == [kept.name]


class FullDevice:
    """A device on which only batches up to a size fit: it raises what CUDA raises, in the middle of the losses."""

    def __init__(self, trainer: Trainer, fits: int) -> None:
        self.sizes: list[int] = []
        self.fits = fits
        trainer.distiller.segmentation_loss.register_forward_hook(self)

    def __call__(self, module: torch.nn.Module, given: tuple[object, Tensor], value: Tensor) -> None:
        self.sizes.append(len(given[1]))
        if len(given[1]) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def test_out_of_memory_halves_the_batch_and_goes_on(
    dataset: NnunetRawDataset,
    cached: tuple[CachedCase, ...],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    schedule = Schedule(epochs=2, steps_per_epoch=2, batch_size=4)
    trainer = make(dataset, cached, tmp_path / "run", schedule)
    device = FullDevice(trainer, fits=2)
    trainer.run()
    assert trainer.finished
    assert device.sizes[:3] == [4, 2, 2]
    assert max(device.sizes[1:]) == 2
    assert "Out of memory" in capsys.readouterr().out
    # the step was begun again, not half done: a run that divides from the start is the same
    divided = make(dataset, cached, tmp_path / "divided", schedule)
    divided.optimisation.parts = 2
    divided.run()
    assert same_run(trainer, divided)
    # and it is kept for a resumed run
    state = Checkpoints(tmp_path / "run").newest(print)
    assert state is not None
    assert state["parts"] == 2


def test_dividing_a_batch_gives_nearly_the_same_step(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    """Dice of each case and cross-entropy are means over cases, so a plain step is the same but for rounding."""
    schedule = Schedule(epochs=1, steps_per_epoch=1, batch_size=4)
    whole, divided = (make(dataset, cached, tmp_path / name, schedule, distil=False) for name in ("a", "b"))
    divided.optimisation.parts = 4
    for trainer in (whole, divided):
        trainer.run()
    assert divided.history[0]["total"] == pytest.approx(whole.history[0]["total"], abs=1e-5)
    ours, theirs = (trainer.distiller.student_state() for trainer in (whole, divided))
    assert all(torch.allclose(ours[key], theirs[key], atol=1e-5) for key in ours)


def test_a_single_patch_that_does_not_fit_is_said(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    trainer = make(dataset, cached, tmp_path / "run", Schedule(epochs=1, steps_per_epoch=1), distil=False)
    FullDevice(trainer, fits=0)
    with pytest.raises(ReCoKDError, match="Not even a batch of one patch fits.*--memory"):
        trainer.run()


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert is_out_of_memory(
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
    )
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_a_stop_that_is_asked_for_comes_after_the_step_with_a_checkpoint(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    schedule = Schedule(epochs=2, steps_per_epoch=3)
    whole = make(dataset, cached, tmp_path / "whole", schedule)
    whole.run()
    trainer = make(dataset, cached, tmp_path / "run", schedule)
    trainer.progress.stop = lambda: trainer.step == 2
    with pytest.raises(Cancelled, match="after step 2 of 6"):
        trainer.run()
    resumed = resumed_from(make(dataset, cached, tmp_path / "run", schedule), tmp_path / "run")
    assert resumed.step == 2
    resumed.run()
    assert same_run(whole, resumed)


class Scripted:
    """In place of a validation's measuring: given Dice values, one after the other."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = list(values)
        self.calls = 0

    def __call__(self, student: object, cancelled: object) -> dict[str, float]:
        self.calls += 1
        return {DICE: self.values[self.calls - 1]}


def validated(trainer: Trainer, dataset: NnunetRawDataset, values: Sequence[float], patience: int = 0) -> Scripted:
    scripted = Scripted(values)
    plan = PLAN.with_width(1)
    trainer.validation = Validation(
        dataset.cases[:1], plan, dataset.label_set, None, torch.device("cpu"), every=1, patience=patience
    )
    object.__setattr__(trainer.validation, "measure", scripted)
    return scripted


def test_the_best_checkpoint_is_kept_and_training_ends_early(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    trainer = make(dataset, cached, tmp_path / "run", Schedule(epochs=9, steps_per_epoch=1), distil=False)
    validated(trainer, dataset, [0.2, 0.5, 0.4, 0.5, 0.9], patience=2)
    trainer.run()
    assert trainer.finished
    assert trainer.stopped_early
    assert trainer.epoch == 4
    best = trainer.checkpoints.best()
    assert (best["epoch"], best[DICE]) == (2, 0.5)
    final = trainer.distiller.student_state()
    assert any(not torch.equal(value, final[key]) for key, value in best["student"].items())


def test_a_kill_in_the_validation_costs_no_training(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    schedule = Schedule(epochs=2, steps_per_epoch=2)
    whole = make(dataset, cached, tmp_path / "whole", schedule)
    validated(whole, dataset, [0.3, 0.6])
    whole.run()
    broken = make(dataset, cached, tmp_path / "run", schedule)
    validated(broken, dataset, [])

    def killed(student: object, cancelled: object) -> dict[str, float]:
        raise Killed

    object.__setattr__(broken.validation, "measure", killed)
    with pytest.raises(Killed):
        broken.run()
    resumed = resumed_from(make(dataset, cached, tmp_path / "run", schedule), tmp_path / "run")
    assert resumed.step == 2
    scripted = validated(resumed, dataset, [0.3, 0.6])
    resumed.run()
    assert scripted.calls == 2
    assert same_run(whole, resumed)


def test_validation_measures_with_the_sliding_window(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    trainer = make(dataset, cached, tmp_path / "run", Schedule(epochs=8, steps_per_epoch=12, seed=1), distil=False)
    plan = PLAN.with_width(1)
    trainer.validation = Validation(dataset.cases[:2], plan, dataset.label_set, None, torch.device("cpu"), every=4)
    before = trainer.distiller.student_state()
    first = trainer.validation.measure(trainer.distiller.student, lambda: False)
    assert all(torch.equal(value, before[key]) for key, value in trainer.distiller.student_state().items())
    trainer.run()
    measured = [row[DICE] for row in trainer.history if DICE in row]
    assert len(measured) == 2
    assert measured[-1] > first[DICE]
    assert {f"{DICE} anterior", f"{DICE} posterior"} <= trainer.history[-1].keys()


def test_a_few_cases_are_taken_from_all_over(dataset: NnunetRawDataset) -> None:
    taken = [case.identifier for case in spread_out(dataset.cases, 3)]
    assert taken == ["blobs_000", "blobs_002", "blobs_004"]
    assert spread_out(dataset.cases, 0) == dataset.cases == spread_out(dataset.cases, 99)
