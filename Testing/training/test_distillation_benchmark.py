"""The comparison of methods: every row is trained alike, runs survive a kill, and the table says what was measured."""

from __future__ import annotations

import csv
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock
from scipy import stats

import distillation
from distillation import case_dice, learning, main, markdown, table_rows, train_all, write_tables
from distillation_costs import table
from distillation_runs import DECLARED, METHODS, RESULT, DeclaredRun, Setting, results, run_settings
from distillation_training import SharedPatches, SharedTeacher, groups, share_patches, share_teacher, train
from figures import draw_learning
from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.package import ModelPackage
from ReCoKDTrainingLib.datasets import NnunetRawDataset
from ReCoKDTrainingLib.evaluation import CaseResult, EvaluationResult
from ReCoKDTrainingLib.losses import available_losses
from ReCoKDTrainingLib.progress import Progress
from ReCoKDTrainingLib.runs import prepare_run
from ReCoKDTrainingLib.scores import SegmentScore


@pytest.fixture
def setting(raw_dataset: Path, teacher: Path, tmp_path: Path) -> Setting:
    names = [f"blobs_{number:03d}" for number in range(6)]
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"train": names[:4], "val": names[4:]}))
    return Setting(raw_dataset, split, teacher, tmp_path / "runs", steps_per_epoch=1, batch_size=1, device="cpu")


class Silent(Progress):
    """Keeps what is said, and may be interrupted by it."""

    def __init__(self, stop_at: str = "") -> None:
        super().__init__("bar")
        self.said: list[str] = []
        self.stop_at = stop_at

    def say(self, text: str) -> None:
        self.said.append(text)
        if self.stop_at and self.stop_at in text:
            raise KeyboardInterrupt


def read_result(setting: Setting, run: DeclaredRun) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((setting.folder / run.name / RESULT).read_text())
    return content


def test_the_list_holds_what_the_issue_asks_for() -> None:
    names = [run.name for run in DECLARED]
    assert len(set(names)) == len(names)
    for method in ("plain", "logits", "reco"):
        seeds = [r.seed for r in DECLARED if (r.method, r.width, r.steps, r.labelled) == (method, 3, 3000, None)]
        assert seeds == [0, 1, 2]
        assert sum((run.method, run.width, run.labelled) == (method, 2, None) for run in DECLARED) == 1
        nobody = {0} if method == "logits" else set()
        assert {run.labelled for run in DECLARED if run.method == method} == {None, 10, 20, 40} | nobody
    used = {name for run in DECLARED for name in METHODS[run.method].losses}
    assert set(available_losses()) == used


def test_rows_differ_in_losses_and_start_alone(setting: Setting) -> None:
    plain = run_settings(DeclaredRun("plain", steps=2), setting)
    for name, method in METHODS.items():
        other = run_settings(DeclaredRun(name, steps=2), setting)
        different = {f.name for f in fields(plain) if getattr(plain, f.name) != getattr(other, f.name)}
        assert different <= {"losses", "loss_options", "ramp", "connectors", "output", "initial"}
        assert other.initial == (setting.teacher if method.from_teacher else None)


def test_steps_are_whole_epochs(setting: Setting) -> None:
    with pytest.raises(ReCoKDError, match="250 steps are no multiple of 100"):
        run_settings(DeclaredRun("plain", steps=250), replace(setting, steps_per_epoch=100))


def test_few_labels_are_the_first_of_the_split(setting: Setting) -> None:
    setting.folder.mkdir()
    few = run_settings(DeclaredRun("plain", steps=1, labelled=2), setting).data
    split = json.loads((few.split or Path()).read_text())
    assert split == {"train": ["blobs_000", "blobs_001"], "val": ["blobs_004", "blobs_005"]}
    taught = run_settings(DeclaredRun("reco", steps=1, labelled=2), setting).data
    assert taught.split == setting.split
    (dataset,) = taught.datasets
    labelled = {case.identifier for case in NnunetRawDataset(dataset).cases if case.labelled}
    assert labelled == {"blobs_000", "blobs_001", "blobs_004", "blobs_005"}


def test_a_run_that_was_stopped_goes_on_to_the_same_end(setting: Setting, tmp_path: Path) -> None:
    run = DeclaredRun("mgd", steps=2)
    with pytest.raises(KeyboardInterrupt):
        train([run], setting, Silent(stop_at="epoch 1/2"))
    assert results(setting.folder) == {}
    assert train([run], setting, Silent()) == 0
    whole = replace(setting, folder=tmp_path / "others")
    assert train([run], whole, Silent()) == 0
    resumed, once = read_result(setting, run), read_result(whole, run)
    assert [row["total"] for row in resumed["history"]] == [row["total"] for row in once["history"]]
    assert case_dice(resumed).tolist() == case_dice(once).tolist()
    assert resumed["flops"] > 1000 * resumed["parameters"] > 0
    assert resumed["seconds_per_step"] > 0
    assert resumed["processor_seconds_per_step"] > 0
    before = (setting.folder / run.name / RESULT).stat().st_mtime_ns
    assert train([run], setting, Silent()) == 0
    assert (setting.folder / run.name / RESULT).stat().st_mtime_ns == before


def test_a_run_that_another_process_is_at_is_left_to_it(setting: Setting) -> None:
    setting.folder.mkdir()
    run = DeclaredRun("plain", steps=1)
    progress = Silent()
    with FileLock(setting.folder / f"{run.name}.lock"):
        assert train([run], setting, progress) == 0
    assert progress.said == ["x8-plain-1-s0: another process is at it"]
    assert not (setting.folder / run.name).exists()


TOGETHER = [DeclaredRun(method, steps=3) for method in ("plain", "reco", "logits")] + [DeclaredRun("reco", 2, steps=3)]


@pytest.mark.parametrize("stop_at", ["", "x8-reco-3-s0: epoch 2/3"])
def test_side_by_side_each_student_becomes_what_it_is_alone(
    setting: Setting, tmp_path: Path, stop_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where one of them was stopped earlier than the others."""
    shared: list[SharedTeacher] = []
    patches: list[SharedPatches] = []

    def remembered(runs: Any) -> SharedTeacher | None:
        made = share_teacher(runs)
        assert made is not None
        shared.append(made)
        return made

    def remembered_patches(runs: Any) -> SharedPatches | None:
        made = share_patches(runs)
        assert made is not None
        patches.append(made)
        return made

    monkeypatch.setattr("distillation_training.share_teacher", remembered)
    monkeypatch.setattr("distillation_training.share_patches", remembered_patches)
    if stop_at:
        with pytest.raises(KeyboardInterrupt):
            train(TOGETHER, setting, Silent(stop_at))
    assert train(TOGETHER, setting, Silent()) == 0
    # Not in the first epoch, whose eta is 0; a checkpoint of one student is an epoch behind the others' then
    assert [teacher.passes for teacher in shared] == ([1, 2] if stop_at else [2])
    # The first patch is made once more, to take the time of a step by itself
    assert [made.made.cache_info().misses for made in patches] == ([2, 2 + 1] if stop_at else [3 + 1])
    monkeypatch.undo()
    alone = replace(setting, folder=tmp_path / "alone")
    for run in TOGETHER:
        assert train([run], alone, Silent()) == 0
        ours, own = (ModelPackage.open(next((where.folder / run.name).glob("*.zip"))) for where in (setting, alone))
        for key, value in own.weights(0).items():
            assert torch.equal(ours.weights(0)[key], value), (run.name, key)


def test_patches_are_shared_by_those_who_train_on_the_same_cases(setting: Setting) -> None:
    setting.folder.mkdir()
    runs = [
        prepare_run(run_settings(DeclaredRun(method, steps=1, labelled=2), setting), Silent())
        for method in ("plain", "logits", "reco")
    ]
    own = runs[0].trainer.patches
    shared = share_patches(runs)
    assert [run.trainer.patches for run in runs] == [own, shared, shared]
    assert (len(own.cases), len(runs[1].trainer.patches.cases)) == (2, 4)


def test_runs_that_see_the_same_patches_are_trained_together(setting: Setting) -> None:
    runs = [DeclaredRun(method, seed=seed) for method in ("plain", "logits", "reco") for seed in (0, 1)]
    runs.append(DeclaredRun("plain", labelled=2))
    (setting.folder / runs[0].name).mkdir(parents=True)
    (setting.folder / runs[0].name / RESULT).write_text("{}")
    made = groups(runs, setting, together=2)
    assert [[run.name for run in group] for group in made] == [
        ["x8-plain-3000-s1", "x8-logits-3000-s1"],
        ["x8-reco-3000-s1"],
        ["x8-logits-3000-s0", "x8-reco-3000-s0"],
        ["x8-plain-3000-2labelled-s0"],
    ]


def test_all_are_trained_and_a_failure_stops_no_other(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [DeclaredRun(method, steps=1) for method in ("plain", "logits", "reco")]
    runs.append(DeclaredRun("reco", steps=1, labelled=2))
    monkeypatch.setitem(METHODS, "logits", type(METHODS["logits"])({"no such loss": 1}))
    monkeypatch.setattr("distillation_runs.DECLARED", runs)
    monkeypatch.setattr(distillation, "DECLARED", runs)
    progress = Silent()
    assert train_all(runs, setting, progress, together=3) == 1
    assert any("x8-logits-1-s0 failed: There is no distillation loss named 'no such loss'" in s for s in progress.said)
    assert set(results(setting.folder)) == {"x8-plain-1-s0", "x8-reco-1-s0", "x8-reco-1-2labelled-s0"}
    capsys.readouterr()
    assert main(["table", "--folder", str(setting.folder)]) == 0
    table = capsys.readouterr().out
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [
        "| teacher",
        "| x1/8 plain, 1 steps",
        "| x1/8 reco, 1 steps",
        "| x1/8 reco, 1 steps, 2 labelled",
    ]


def test_costs_are_measured_for_each_method(setting: Setting, tmp_path: Path) -> None:
    lines = table(["plain", "reco", "emkd"], setting, width=2, repeats=1).splitlines()
    cells = {line.split(" | ")[0].removeprefix("| "): line.split(" | ")[1:] for line in lines[2:]}
    assert set(cells) == {"plain", "reco", "emkd"}
    assert float(cells["plain"][0]) > float(cells["plain"][1]) == 0
    assert float(cells["reco"][0]) > float(cells["reco"][1]) > 0
    assert cells["emkd"][3].startswith("emkd ")
    assert ", logits " in cells["emkd"][3]


# -- the table ---------------------------------------------------------------------------------------------


def made_up(dice: list[float]) -> dict[str, Any]:
    """A result whose cases have these Dice values in both of two segments."""
    cases = tuple(
        CaseResult(f"case {n}", tuple(SegmentScore(s, d, 1.0, 0.9, 1.0, 1.0) for s in ("a", "b")), 0.1)
        for n, d in enumerate(dice)
    )
    return {
        "parameters": 1000,
        "flops": 2e9,
        "seconds_per_step": 0.25,
        "processor_seconds_per_step": 0.2,
        "history": [{"segmentation": loss} for loss in (1.3, 0.65, 0.25, 0.2)],
        "evaluation": EvaluationResult(("a", "b"), cases, 1.0, "cpu").to_dict(),
    }


def test_the_gain_is_paired_over_the_cases_and_the_common_seeds(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    plain = random.uniform(0.7, 0.9, (2, 12))
    gain = random.normal(0.02, 0.01, 12)
    found = {}
    for seed in range(2):
        found[f"x8-plain-3000-s{seed}"] = made_up(plain[seed].tolist())
        found[f"x8-reco-3000-s{seed}"] = made_up((plain[seed] + gain).tolist())
    found["x8-reco-3000-s2"] = made_up([0.1] * 12)  # has no plain student beside it
    first, second = table_rows(found)
    assert (first.name, second.name) == ("x1/8 plain, 3000 steps", "x1/8 reco, 3000 steps")
    assert first.compared == 0
    assert second.seeds == (0, 1, 2)
    assert (second.compared, second.cases, second.better) == (2, 12, int((gain > 0).sum()))
    assert second.gain == pytest.approx(gain.mean())
    assert second.t_test == pytest.approx(stats.ttest_rel(plain.mean(0) + gain, plain.mean(0)).pvalue)
    assert second.wilcoxon == pytest.approx(stats.wilcoxon(plain.mean(0) + gain, plain.mean(0)).pvalue)
    assert first.means["Dice"] == pytest.approx(tuple(plain.mean(1)))
    text = markdown([first, second], None)
    assert f"{100 * gain.mean():+.2f} ± {100 * gain.std(ddof=1):.2f}" in text
    for name, content in found.items():
        (tmp_path / name).mkdir()
        method = METHODS[name.split("-")[1]]
        settings = {"losses": method.losses, "options": method.options}
        (tmp_path / name / RESULT).write_text(json.dumps({**content, **settings}))
    assert write_tables(tmp_path) == text
    with (tmp_path / "table.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert float(rows[1]["gain"]) == pytest.approx(gain.mean())
    row = json.loads((tmp_path / "table.json").read_text())[1]
    assert row["compared"] == 2
    assert row["other"] == "x1/8 plain, 3000 steps"
    assert not (tmp_path / "table.png").exists()  # it shows the teacher, too
    (tmp_path / "teacher").mkdir()
    (tmp_path / "teacher" / RESULT).write_text(json.dumps(made_up([0.9] * 12)))
    assert "gain over reco" in write_tables(tmp_path, "reco")
    assert json.loads((tmp_path / "table.json").read_text())[0]["gain"] == pytest.approx(-gain.mean())
    assert (tmp_path / "table.png").stat().st_size > 5000
    assert (tmp_path / "learning.png").stat().st_size > 5000
    assert not list(tmp_path.glob(".*"))


def test_when_students_learnt_is_read_from_their_losses(tmp_path: Path) -> None:
    late = {**made_up([0.8]), "history": [{"segmentation": loss} for loss in (1.0, 0.3)]}
    found = {
        "x8-plain-3000-s0": made_up([0.7]),
        "x8-reco-3000-s0": late,
        "x8-reco+logits-3000-s0": made_up([0.7]),
        "x8-logits-eta-3-from-teacher-3000-s0": made_up([0.9]),
        "x8-logits-3000-10labelled-s0": made_up([0.9]),
        "x4-plain-3000-s0": made_up([0.9]),
    }
    curves = {(c.name, c.learns_from, c.from_teacher): (c.learnt, round(c.dice, 6)) for c in learning(found)}
    assert curves == {
        ("plain", "labels alone", False): (3, 0.7),
        ("reco", "features", False): (None, 0.8),
        ("", "features and logits", False): (3, 0.7),
        ("logits, eta 3, from teacher", "logits", True): (3, 0.9),
    }
    draw_learning(learning({"x8-reco-3000-s0": late}), tmp_path / "one.png")  # nothing to show on the right


def test_a_result_of_another_method_is_not_taken_for_the_declared_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x8-skd-3000-s0").mkdir()
    content = {**made_up([0.8, 0.7]), "losses": {"skd": 1}, "options": {}}
    (tmp_path / "x8-skd-3000-s0" / RESULT).write_text(json.dumps(content))
    assert main(["table", "--folder", str(tmp_path)]) == 2
    assert "x8-skd-3000-s0 is of another method than 'skd' stands for now" in capsys.readouterr().err
    (tmp_path / "x8-skd-3000-s0" / RESULT).unlink()
    (tmp_path / "x8-plain-from-teacher-3000-s0").mkdir()
    content = {**made_up([0.8, 0.7]), "losses": {}, "options": {}}
    path = tmp_path / "x8-plain-from-teacher-3000-s0" / RESULT
    path.write_text(json.dumps(content))
    assert main(["table", "--folder", str(tmp_path)]) == 2
    path.write_text(json.dumps({**content, "from_teacher": True}))
    assert main(["table", "--folder", str(tmp_path)]) == 0


def test_without_any_label_a_row_is_compared_with_that_of_all() -> None:
    found = {"x8-plain-3000-s0": made_up([0.8, 0.7]), "x8-logits-3000-0labelled-s0": made_up([0.9, 0.7])}
    assert table_rows(found)[1].gain == pytest.approx(0.05)
    found = {"x8-logits-3000-s0": made_up([0.8, 0.7]), "x8-logits-3000-0labelled-s0": made_up([0.9, 0.7])}
    assert [row.compared for row in table_rows(found, "logits")] == [0, 1]


def test_nothing_is_claimed_of_equal_students() -> None:
    dice = [0.8, 0.7, 0.9]
    _, row = table_rows({"x8-plain-3000-s0": made_up(dice), "x8-reco-3000-s0": made_up(dice)})
    assert row.gain == 0
    assert np.isnan(row.wilcoxon)
