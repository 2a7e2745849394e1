"""The training loop: it learns, it resumes exactly, and it stops cleanly."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch

from plans import small_plan
from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.networks import build_network
from ReCoKDTrainingLib.cache import CachedCase, preprocess_cases
from ReCoKDTrainingLib.datasets import NnunetRawDataset
from ReCoKDTrainingLib.distiller import Distiller, WeightedLoss
from ReCoKDTrainingLib.losses import SegmentationLoss, build_loss
from ReCoKDTrainingLib.progress import Progress
from ReCoKDTrainingLib.recorders import EncoderDecoderRecorder
from ReCoKDTrainingLib.sampling import PatchDataset
from ReCoKDTrainingLib.trainer import CHECKPOINT, LOG, Schedule, Trainer

PLAN = small_plan(patch_size=(16, 16, 16), features=(8, 16, 16))


@pytest.fixture(scope="module")
def dataset(raw_dataset: Path) -> NnunetRawDataset:
    return NnunetRawDataset(raw_dataset)


@pytest.fixture(scope="module")
def cached(dataset: NnunetRawDataset, tmp_path_factory: pytest.TempPathFactory) -> tuple[CachedCase, ...]:
    return preprocess_cases(dataset.cases, PLAN, dataset.label_set, tmp_path_factory.mktemp("cache"))


def make(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], folder: Path, schedule: Schedule, *, distil: bool = True
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
    patches = PatchDataset(cached, PLAN, dataset.label_set, schedule.seed, schedule.samples)
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


def test_resuming_gives_the_same_weights_bit_for_bit(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    schedule = Schedule(epochs=3, steps_per_epoch=3)
    whole = make(dataset, cached, tmp_path / "whole", schedule)
    whole.run()

    class Killed(BaseException):
        pass

    broken = make(dataset, cached, tmp_path / "broken", schedule)
    step = broken._step
    done: list[int] = []

    def killed_in_the_second_epoch(*arguments):  # type: ignore[no-untyped-def]
        if len(done) == 4:
            raise Killed
        done.append(1)
        return step(*arguments)

    broken._step = killed_in_the_second_epoch  # type: ignore[method-assign]
    with pytest.raises(Killed):
        broken.run()
    resumed = make(dataset, cached, tmp_path / "broken", schedule)
    torch.manual_seed(99)  # resuming must not depend on the generators
    resumed.resume()
    assert resumed.epoch == 1
    resumed.run()
    one, two = (trainer.distiller.state_dict() for trainer in (whole, resumed))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert [row["total"] for row in whole.history] == [row["total"] for row in resumed.history]


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
    make(dataset, cached, tmp_path / "run", Schedule(epochs=3, steps_per_epoch=1)).run()
    with (tmp_path / "run" / LOG).open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {"segmentation", "total", "gradient norm/reco", "reco/fg", "reco/ctx"} <= rows[0].keys()
    assert rows[0]["reco/fg"] == ""  # eta is 0 in the first epoch: the teacher is not asked
    assert float(rows[2]["reco/fg"]) > 0


def test_a_checkpoint_of_other_settings_is_refused(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    make(dataset, cached, tmp_path / "run", Schedule(epochs=2, steps_per_epoch=1), distil=False).run()
    other = make(dataset, cached, tmp_path / "run", Schedule(epochs=3, steps_per_epoch=1), distil=False)
    with pytest.raises(ReCoKDError, match="other settings: schedule was .*'epochs': 2.* and is .*'epochs': 3"):
        other.resume()


def test_nothing_to_resume(dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path) -> None:
    trainer = make(dataset, cached, tmp_path / "run", Schedule(epochs=1, steps_per_epoch=1), distil=False)
    with pytest.raises(ReCoKDError, match="nothing to resume.*without --resume"):
        trainer.resume()
    (tmp_path / "run" / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(ReCoKDError, match="not a readable checkpoint"):
        trainer.resume()


def test_a_loss_that_is_not_a_number_stops_and_names_its_term(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path
) -> None:
    trainer = make(dataset, cached, tmp_path / "run", Schedule(epochs=2, steps_per_epoch=1), distil=False)
    trainer.run()
    good = (tmp_path / "run" / CHECKPOINT).read_bytes()
    trainer.epoch = 1
    with torch.no_grad():
        next(trainer.distiller.student.parameters()).fill_(float("nan"))
    with pytest.raises(ReCoKDError, match="not a number any more.*epoch 2, step 1; segmentation, total"):
        trainer.run()
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == good


def test_a_full_disk_keeps_the_last_checkpoint(
    dataset: NnunetRawDataset, cached: tuple[CachedCase, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(dataset, cached, tmp_path / "run", Schedule(epochs=2, steps_per_epoch=1), distil=False)
    trainer.save()
    good = (tmp_path / "run" / CHECKPOINT).read_bytes()

    def full(state: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(ReCoKDError, match="could not be written.*--resume"):
        trainer.save()
    assert (tmp_path / "run" / CHECKPOINT).read_bytes() == good
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [CHECKPOINT, LOG]
