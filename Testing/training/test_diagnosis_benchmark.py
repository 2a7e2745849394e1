"""The tools that tell why a student learns what it learns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import figures
from averaged_teacher import train_on
from diagnosis import directions, errors, features, follow, structures
from diagnosis_errors import Census, border_distance, error_table
from diagnosis_measures import (
    agreements,
    drawn_labels,
    drawn_structures,
    gradients_by_stage,
    least_unexplained,
    linear_cka,
    movements,
    similarities,
    told_apart,
    unexplained,
    unexplained_by_rank,
)
from distillation_cases import block_labels, network, plain_labels
from distillation_costs import pulls
from distillation_runs import DeclaredRun, Setting
from distillation_training import train
from ReCoKDLib.errors import ReCoKDError
from ReCoKDLib.package import ModelPackage
from ReCoKDTrainingLib.distiller import Distiller, WeightedLoss
from ReCoKDTrainingLib.losses import NetworkOutputs, SegmentationLoss, build_loss
from ReCoKDTrainingLib.progress import Progress


@pytest.fixture(scope="module")
def setting(raw_dataset: Path, teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Setting:
    folder = tmp_path_factory.mktemp("diagnosis")
    names = [f"blobs_{number:03d}" for number in range(6)]
    (folder / "split.json").write_text(json.dumps({"train": names[:4], "val": names[4:]}))
    return Setting(
        raw_dataset, folder / "split.json", teacher, folder / "runs", steps_per_epoch=1, batch_size=1, device="cpu"
    )


def distiller(width: int = 8) -> Distiller:
    torch.manual_seed(0)
    teacher, student = network([8, 12, 16]), network([width, 6, 8])
    loss = build_loss(
        "reco", teacher_channels=[8, 12, 16], student_channels=[width, 6, 8], label_set=plain_labels(2), options={}
    )
    return Distiller(student, teacher, SegmentationLoss(plain_labels(2), 2), {"reco": WeightedLoss(loss, 0.5)})


def test_cka_sees_neither_rotation_nor_scale_but_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 6, generator=generator)
    rotation, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    assert linear_cka(x, 3 * x @ rotation + 2) == pytest.approx(1)
    assert linear_cka(x, torch.randn(500, 6, generator=generator)) < 0.1
    assert linear_cka(x, torch.zeros(500, 2)) == 0


def test_a_student_that_is_its_teacher_is_wholly_similar() -> None:
    same = network([8, 12, 16])
    twin = network([8, 12, 16])
    twin.load_state_dict(same.state_dict())
    loss = build_loss("fitnet", teacher_channels=[8, 12, 16], student_channels=[8, 12, 16], label_set=plain_labels(2))
    pair = Distiller(twin, same, SegmentationLoss(plain_labels(2), 2), {"fitnet": WeightedLoss(loss, 1)})
    images = torch.randn(2, 1, 8, 8, 8)
    assert similarities(pair, images) == pytest.approx([1, 1, 1])
    assert unexplained(pair, images) == {"0": 0, "1": 0, "2": 0}
    assert max(least_unexplained(pair, images).values()) < 1e-6
    other = distiller()
    assert max(similarities(other, images)) < 0.999
    best, present = least_unexplained(other, images), unexplained(other, images)
    assert set(best) == {"0", "1", "2"}
    assert all(0 < best[key] < present[key] for key in present if key != "0")  # equal widths have no connector
    ranks = unexplained_by_rank(other, images)
    assert ranks["0"] == 0  # as many channels as the teacher
    assert all(0 < ranks[key] < best[key] for key in ("1", "2"))


def test_no_student_leaves_less_than_its_channels_must() -> None:
    """A narrow student whose features are the teacher's first principal components leaves just that."""
    pair, images = distiller(), torch.randn(2, 1, 8, 8, 8)
    assert pair.teacher is not None
    theirs = pair.teacher_recorder.run(pair.teacher, images, True).features[1]
    flat = theirs.movedim(1, -1).flatten(0, -2)
    centred = (flat - flat.mean(0)).double()
    components = torch.linalg.svd(centred, full_matrices=False).Vh[:6]
    left = (centred - centred @ components.T @ components).square().sum() / centred.square().sum()
    assert unexplained_by_rank(pair, images)["1"] == pytest.approx(float(left), rel=1e-6)


class _Given:
    """A recorder of features and logits that are given, for cases that are numbered by their first voxel."""

    decoder = True

    def __init__(self, *features: Tensor, logits: Sequence[Tensor] = ()) -> None:
        self.features = features
        self.logits = logits

    def run(self, network: nn.Module, images: Tensor, with_logits: bool) -> NetworkOutputs:
        cases = images[:, 0, 0, 0, 0].long()
        return NetworkOutputs(tuple(of[cases] for of in self.features), tuple(of[cases] for of in self.logits))


def test_structures_are_told_apart_where_the_features_differ() -> None:
    torch.manual_seed(0)
    labels = block_labels()[:1].long().repeat(6, 1, 1, 1, 1)
    images = torch.arange(6.0).reshape(6, 1, 1, 1, 1).expand(labels.shape)
    noise = torch.randn(6, 3, *labels.shape[2:])
    second = labels == 2
    clear, half = noise.clone(), nn.functional.avg_pool3d(noise, 2)
    clear[:, 1:2] = 5 * second + 7.0
    swapped = clear.clone()
    swapped[3:, 1:2] = 12 - 5 * second[3:].float()  # in the cases that it is measured on
    recorder: Any = _Given(clear, half, swapped)
    seen, random, wrong = told_apart(distiller(), recorder, images, labels)
    assert (seen, wrong) == (1, 0)
    assert 0.3 < random < 0.7
    missed = labels.masked_fill(second & (torch.arange(6).reshape(6, 1, 1, 1, 1) < 3), 1)
    assert told_apart(distiller(), recorder, images, missed)[0] == 0.5
    with pytest.raises(ReCoKDError, match="give two or more"):
        told_apart(distiller(), recorder, images[:1], labels[:1])


def test_structures_are_counted_as_they_are_drawn() -> None:
    labels = torch.zeros(3, 1, 4, 4, 4, dtype=torch.long)
    labels[0, :, 1:3, :, :2] = 1
    labels[1, :, :, :2] = 1
    labels[2, :, 0, 0, 0] = 2
    guess = labels.clone()
    guess[0, :, 1:3, 1, :2] = 2  # cuts the structure in two
    guess[1, :, 3, 3, 3] = 1  # a piece beside it
    images = torch.arange(3.0).reshape(3, 1, 1, 1, 1).expand(labels.shape)
    pair, logits = distiller(), nn.functional.one_hot(guess[:, 0], 3).movedim(-1, 1).float()
    pair.recorder = cast(Any, _Given(logits=[logits, logits.roll(1, 1)]))  # the finest of them counts
    drawn = drawn_labels(pair, images)
    assert torch.equal(drawn, guess)
    one, two = drawn_structures(drawn, labels)
    assert one == pytest.approx(
        {
            "label": 1,
            "dice": (24 / 28 + 64 / 65) / 2,  # the third case has none of it
            "pieces": 2,
            "called 0": 0,
            "called 1": 44 / 48,
            "called 2": 4 / 48,
        }
    )
    assert two == {"label": 2, "dice": 1, "pieces": 1, "called 0": 0, "called 1": 0, "called 2": 1}


def test_directions_agree_with_themselves() -> None:
    torch.manual_seed(0)
    pair, image = distiller(), torch.randn(1, 1, 8, 8, 8)
    images, labels = image.repeat(4, 1, 1, 1, 1), block_labels()[:1].long().repeat(4, 1, 1, 1, 1)
    found = agreements(pair, images, labels, "segmentation")
    assert set(found) == {"segmentation", "reco/fg", "reco/bg", "reco/att", "reco/ctx"}
    assert found["segmentation"] == pytest.approx([1, 1, 1, 1], abs=1e-5)  # both halves are the same case
    assert agreements(pair, images, labels, "reco/att")["reco/att"][:2] == pytest.approx([1, 1], abs=1e-5)
    assert found["reco/att"][2:] == [0, 0]  # neither bottleneck nor decoder
    assert all(p.grad is None for p in pair.parameters())
    with pytest.raises(ReCoKDError, match="two cases or more"):
        agreements(pair, image, labels[:1], "segmentation")
    other = agreements(pair, torch.cat([images[:2], -images[:2]]), labels, "segmentation")
    assert max(other["segmentation"]) < 0.999


def test_gradients_are_those_of_each_term_at_full_eta() -> None:
    pair, images, labels = distiller(), torch.randn(2, 1, 8, 8, 8), block_labels().long()
    norms = gradients_by_stage(pair, images, labels)
    assert set(norms) == {"segmentation", "reco/fg", "reco/bg", "reco/att", "reco/ctx"}
    assert norms["segmentation"][2] > 0
    assert norms["reco/fg"][1] > 0
    assert norms["reco/fg"][2] == 0  # the bottleneck is left out
    weight = pair.recorder.shared_weight(pair.student, 1)
    pair.losses.eval()
    _, terms = pair.terms(images, labels, 1.0)
    (slope,) = torch.autograd.grad(terms["reco"]["att"], weight)
    assert norms["reco/att"][1] == pytest.approx(0.5 * float(slope.norm()), rel=1e-4)
    assert all(p.grad is None for p in pair.parameters())


def test_a_loss_pulls_with_all_of_its_terms_on_all_of_the_encoder() -> None:
    pair, images, labels = distiller(), torch.randn(2, 1, 8, 8, 8), block_labels().long()
    norms = pulls(pair, images, labels)
    assert set(norms) == {"segmentation", "reco"}
    pair.losses.eval()
    report = pair.training_loss(images, labels, None)
    weights = list(pair.student.get_submodule("encoder").parameters())
    distillation = report.total - pair.terms(images, labels, None)[0]
    slopes = torch.autograd.grad(distillation, weights, materialize_grads=True, allow_unused=True)
    assert norms["reco"] == pytest.approx(float(torch.cat([slope.flatten() for slope in slopes]).norm()), rel=1e-4)


def test_movements_are_relative_and_by_part() -> None:
    module = nn.ModuleDict({"connectors": nn.ModuleDict({"0": nn.Linear(2, 2), "1": nn.Linear(2, 2)})})
    start = {name: value.clone() for name, value in module.state_dict().items()}
    with torch.no_grad():
        module.get_parameter("connectors.1.weight").mul_(1.5)
    assert movements(module, start) == pytest.approx({"connectors.0": 0, "connectors.1": 0.5})


def test_distance_to_a_border() -> None:
    labels = np.zeros((1, 1, 6), dtype=int)
    labels[..., 3:] = 1
    assert border_distance(labels)[0, 0].tolist() == [3, 2, 1, 1, 2, 3]
    assert np.isinf(border_distance(np.zeros((2, 2, 2)))).all()


def test_errors_are_counted_where_they_are() -> None:
    found = Census(
        label=np.array([0, 0, 1, 1]),
        distance=np.array([4.0, 1.0, 1.0, 2.0]),
        teacher=np.array([True, True, False, True]),
        students={"plain": np.array([True, False, False, True])},
        attention=np.array([0.5, 1.0, 1.0, 1.5]),
        weight=np.array([0.1, 0.2, 0.3, 0.4]),
        case=np.zeros(4, dtype=int),
    )
    table = error_table(found)
    assert set(table) == {"0 to 1 voxels", "1 to 2 voxels", "3 to 5 voxels", "label 0", "label 1"}
    assert table["0 to 1 voxels"] == {
        "voxels": 2,
        "teacher's errors": 1,
        "errors of plain": 2,
        "errors of plain alone": 1,
        "mean attention": 1.0,
        "share of the loss": 0.5,
    }
    assert table["label 1"]["errors of plain alone"] == 0


def test_slices_are_those_where_most_is_annotated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[Any] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: saved.append(figure))
    images = torch.arange(2 * 4 * 5 * 6.0).reshape(2, 1, 4, 5, 6)
    annotated = torch.zeros(images.shape, dtype=torch.long)
    annotated[0, 0, 2, 1:4, 1:5] = 1
    annotated[1, 0, 3, 1:4, 1:3] = 2
    nothing = torch.zeros_like(annotated)
    figures.draw_slices(images, {"annotation": annotated, "student": nothing}, (1, 2, 1), tmp_path / "slices.png")
    panels = saved[0].axes
    assert [panel.get_title() for panel in panels] == ["annotation", "student", "", ""]
    shown = [panel.images[0].get_array() for panel in panels]
    assert all(np.array_equal(panel, images[0, 0, 2]) for panel in shown[:2])
    assert all(np.array_equal(panel, images[1, 0, 3]) for panel in shown[2:])
    assert [len(panel.collections) for panel in panels] == [2, 0, 2, 0]  # tint and outline of what is drawn
    assert [panel.get_aspect() for panel in panels] == [2, 2, 2, 2]


def test_a_run_is_followed_from_its_start(setting: Setting) -> None:
    picture = follow(DeclaredRun("reco", width=2, steps=3), replace(setting, folder=setting.folder / "followed"), 1)
    measured = json.loads((picture.parent / "following.json").read_text())["epochs"]
    assert picture.stat().st_size > 10_000
    assert (picture.parent / "slices.png").stat().st_size > 10_000
    assert [entry["epoch"] for entry in measured] == [0, 1, 2, 3]
    assert set(measured[0]["movements"].values()) == {0}
    assert measured[-1]["movements"]["connectors.0"] > 0
    assert 0 <= min(measured[-1]["cka"]) <= max(measured[-1]["cka"]) <= 1 + 1e-6
    assert [structure["label"] for structure in measured[0]["structures"]] == [1, 2]
    assert len(measured[-1]["told apart"]) == 5  # three stages of the encoder, two of the decoder


def test_errors_of_runs_of_the_comparison(setting: Setting) -> None:
    runs = [DeclaredRun(method, width=2, steps=1) for method in ("plain", "reco")]
    for run in runs:
        with Progress("bar") as progress:
            assert train([run], setting, progress) == 0
    told = directions(runs, setting, cases=2).splitlines()
    assert len(told) == 2 + 1 + 5  # the head; segmentation of plain; segmentation and four terms of reco
    assert told[-1].startswith("| x4-reco-1-s0 | reco/ctx | ")
    lines = features(runs, setting, cases=1).splitlines()
    assert lines[2].startswith("| x4-plain-1-s0 | 1 | 0 | 0.")
    assert "|  |" in lines[2]  # it has no connectors
    assert "|  |" not in lines[-2]
    rows = json.loads((setting.folder / "features.json").read_text())
    assert [row["stage"] for row in rows if row["run"] == "x4-reco-1-s0"] == list(range(len(rows) // 2))
    assert rows[0]["P F_S leaves"] is None
    terms = [row["term"] for row in json.loads((setting.folder / "directions.json").read_text())]
    assert terms == ["segmentation", "segmentation", "reco/fg", "reco/bg", "reco/att", "reco/ctx"]
    assert structures(runs, setting).count("x4-plain-1-s0") == 2
    assert (setting.folder / "structures.png").stat().st_size > 10_000
    drawn = json.loads((setting.folder / "structures.json").read_text())
    for row in drawn:
        assert sum(value for key, value in row.items() if key.startswith("called")) == pytest.approx(1)
    picture = errors(runs, setting)
    table = json.loads((setting.folder / "errors.json").read_text())
    assert picture.stat().st_size > 10_000
    labels = [group for group in table if group.startswith("label")]
    assert sum(table[group]["share of the loss"] for group in labels) == pytest.approx(1, rel=1e-3)
    assert all(table[group]["errors of x4-plain-1-s0"] <= table[group]["voxels"] for group in table)


def test_the_mean_of_a_teachers_last_epochs(setting: Setting, tmp_path: Path) -> None:
    rows = train_on(replace(setting, folder=tmp_path / "averaged"), epochs=2, learning_rate=0.01, seed=1)
    assert [row["epochs"] for row in rows] == [1, 2]
    assert json.loads((tmp_path / "averaged" / "averaged.json").read_text()) == rows
    last = torch.load(tmp_path / "averaged" / "checkpoints" / "step-00000002.pt", weights_only=True)["student"]
    first = torch.load(tmp_path / "averaged" / "checkpoints" / "step-00000001.pt", weights_only=True)["student"]
    for row, states in zip(rows, ([last], [first, last]), strict=True):
        packaged = ModelPackage.open(tmp_path / "averaged" / row["package"]).weights()
        assert 0 <= row["Dice"] <= 1
        for name, value in packaged.items():
            expected = np.mean([state[name].double().numpy() for state in states], axis=0)
            assert np.allclose(value.double().numpy(), expected, rtol=1e-6, atol=1e-9), name
