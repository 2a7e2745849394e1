"""Importing nnU-Net's results."""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from packages import TWO_WIDE, small_weights
from plans import of_2022, plans_json, small_plan
from ReCoKDLib.cli import main
from ReCoKDLib.errors import DatasetError, InputError, OutputError, PackageError, PlanError
from ReCoKDLib.exchange.nnunet_import import import_nnunet
from ReCoKDLib.exchange.nnunet_results import find_results_folder
from ReCoKDLib.networks import build_network
from ReCoKDLib.package import ModelPackage

FOLDER = "nnUNetTrainer__nnUNetPlans__3d_fullres"
DATASET = {
    "name": "Blobs",
    "licence": "CC0-1.0",
    "channel_names": {"0": "T1w"},
    "labels": {"background": 0, "anterior": 1, "posterior": 2},
    "numTraining": 6,
    "file_ending": ".nii.gz",
}
Results = Callable[..., Path]


class Attack:
    """Unpickled, it would make a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """A factory of results folders as nnU-Net writes them, with a network of two stages."""

    def make(
        name: str = FOLDER,
        *,
        dataset: dict[str, Any] | None = None,
        plans: dict[str, Any] | None = None,
        fold: str = "0",
        file: str = "checkpoint_final.pth",
        **content: Any,
    ) -> Path:
        folder = tmp_path / "Dataset901_Blobs" / name
        (folder / f"fold_{fold}").mkdir(parents=True, exist_ok=True)
        plans = plans or plans_json(features=TWO_WIDE)
        (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
        (folder / "dataset.json").write_text(json.dumps(dataset or DATASET), encoding="utf-8")
        checkpoint = {
            "network_weights": small_weights(small_plan(features=TWO_WIDE)),
            "optimizer_state": torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1).state_dict(),
            "grad_scaler_state": None,
            # what nnU-Net's logger holds: NumPy's numbers
            "logging": {"mean_fg_dice": [np.float64(0.5), np.float32(0.6)], "epochs": [np.int64(3)]},
            "_best_ema": np.float64(0.55),
            "current_epoch": 1000,
            "init_args": {"configuration": "3d_fullres", "fold": 0},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": (0, 2),
            **content,
        }
        torch.save(checkpoint, folder / f"fold_{fold}" / file)
        return folder

    return make


@pytest.mark.parametrize("given", ["results folder", "parent"])
def test_one_fold_becomes_a_teacher(results: Results, tmp_path: Path, given: str) -> None:
    folder = results()
    path = import_nnunet(
        folder if given == "results folder" else folder.parent, tmp_path / "Lehrer für alle.recokd.zip"
    )
    package = ModelPackage.open(path)
    package.verify()
    card = package.card
    assert (card.name, card.role, card.orientation, card.folds) == ("Lehrer-f-r-alle", "teacher", None, 1)
    assert card.mirror_axes == (0, 2)
    assert [(c.name, c.modality, c.intensity) for c in card.channels] == [("T1w", "MR", None)]
    assert card.training.cases == 6
    assert card.training.options["epochs"] == 1000
    assert card.licences.weights == "as the training data: CC0-1.0"
    assert package.plan == small_plan(features=TWO_WIDE)
    expected = small_weights(package.plan)
    assert all(torch.equal(tensor, expected[key]) for key, tensor in package.weights().items())


def test_numpys_numbers_under_both_of_their_names(results: Results, tmp_path: Path) -> None:
    """NumPy 1 pickles them from numpy.core, NumPy 2 from numpy._core."""
    file = results() / "fold_0" / "checkpoint_final.pth"
    data = file.read_bytes()
    other = "numpy._core.multiarray" if b"numpy.core.multiarray" in data else "numpy.core.multiarray"
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(file) as archive:
        archive.extractall(unpacked)
        names = archive.namelist()
    with zipfile.ZipFile(file, "w") as archive:
        for name in names:
            content = (unpacked / name).read_bytes()
            for known in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
                if known in content:
                    content = content.replace(known, other.encode())
                    break
            archive.writestr(name, content)
    assert ModelPackage.open(import_nnunet(file.parents[1], tmp_path / "p")).card.role == "teacher"


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "module._orig_mod."])
def test_names_of_compiled_and_distributed_networks_are_known(results: Results, tmp_path: Path, prefix: str) -> None:
    weights = small_weights(small_plan(features=TWO_WIDE))
    folder = results(network_weights={prefix + key: tensor for key, tensor in weights.items()})
    ModelPackage.open(import_nnunet(folder, tmp_path / "p")).verify()


def test_fold_and_checkpoint_are_chosen(results: Results, tmp_path: Path) -> None:
    results(fold="all", file="checkpoint_best.pth", current_epoch=7)
    folder = results(current_epoch=9)
    path = import_nnunet(folder, tmp_path / "p", folds=["all"], checkpoint="best")
    assert ModelPackage.open(path).card.training.options["epochs"] == 7
    with pytest.raises(InputError, match=r"has no fold 3\. It has: 0, all\. Choose with --folds"):
        import_nnunet(folder, tmp_path / "q", folds=["3"])
    with pytest.raises(InputError, match=r"no checkpoint_best\.pth\. It has: checkpoint_final\.pth"):
        import_nnunet(folder, tmp_path / "q", folds=["0"], checkpoint="best")


def test_without_a_choice_every_numbered_fold_that_is_ready_is_taken(results: Results, tmp_path: Path) -> None:
    """As nnU-Net finds them by itself: not fold_all, and not one whose training goes on."""
    for seed, fold in enumerate(("10", "2", "all", "0")):
        weights = small_weights(small_plan(features=TWO_WIDE), seed)
        folder = results(fold=fold, network_weights=weights)
    results(fold="3", file="checkpoint_best.pth")
    package = ModelPackage.open(import_nnunet(folder, tmp_path / "p"))
    package.verify()
    assert package.card.folds == 3
    assert package.card.training.options["folds"] == ["0", "2", "10"]
    for number, seed in enumerate((3, 1, 0)):
        expected = small_weights(package.plan, seed)
        assert all(torch.equal(tensor, expected[key]) for key, tensor in package.weights(number).items())


def test_folds_are_chosen_on_the_command_line(
    results: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for fold in ("0", "1", "2", "all"):
        folder = results(fold=fold)

    def imported(*options: str) -> list[str]:
        out = tmp_path / "-".join(("p", *options))
        assert main(["import", "nnunet", str(folder), "--output", str(out), *options]) == 0
        options_recorded = ModelPackage.open(out).card.training.options
        return [str(fold) for fold in options_recorded["folds"]]

    assert imported("--folds", "2, 0,2") == ["2", "0"]
    assert "2 folds of" in capsys.readouterr().out
    assert imported("--folds", "all") == ["all"]
    assert imported() == ["0", "1", "2"]
    with pytest.raises(SystemExit):
        imported("--folds", "0,../1")
    assert "names no folds; give numbers such as 0,1,2, or all" in capsys.readouterr().err


def test_missing_folds_are_listed(results: Results, tmp_path: Path) -> None:
    folder = results(fold="all")
    results(fold="1", file="checkpoint_latest.pth")
    (folder / "fold_4").mkdir()
    with pytest.raises(
        InputError,
        match=r"No numbered fold .* has checkpoint_final\.pth\. It has fold 1: checkpoint_latest\.pth; fold 4: "
        r"no checkpoint; fold all: checkpoint_final\.pth\. Choose with --folds",
    ):
        import_nnunet(folder, tmp_path / "p")


def test_folds_of_two_trainings_are_refused(results: Results, tmp_path: Path) -> None:
    results(fold="0")
    folder = results(fold="1", init_args={"configuration": "3d_lowres"})
    with pytest.raises(PlanError, match="was trained as 3d_fullres, .* as 3d_lowres"):
        import_nnunet(folder, tmp_path / "p")
    folder = results(fold="1", network_weights=small_weights(small_plan(features=(8, 8))))
    with pytest.raises(
        PlanError, match=r"do not fit the plan: encoder\.stages\.0\.0\.convs\.0\.conv\.weight has shape"
    ):
        import_nnunet(folder, tmp_path / "p")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"labels": {"background": 0, "posterior": 1, "anterior": 2}}, "labels"),
        ({"labels": {"background": 0, "posterior": 2, "anterior": 1}}, "labels"),  # only the order differs
        ({"channel_names": {"0": "CT"}}, "channel_names"),
    ],
)
def test_names_that_are_not_those_of_the_training_are_refused(
    results: Results, tmp_path: Path, changes: dict[str, Any], what: str
) -> None:
    trained = {"configuration": "3d_fullres", "dataset_json": DATASET}
    import_nnunet(results(init_args=trained), tmp_path / "same")
    with pytest.raises(DatasetError, match=f"The {what} in dataset.json are .* Restore the dataset.json of that"):
        import_nnunet(results(dataset={**DATASET, **changes}, init_args=trained), tmp_path / "p")


def test_nnunets_own_validation_is_kept(results: Results, tmp_path: Path) -> None:
    folder = results()
    (folder / "fold_0" / "validation").mkdir()
    summary = {"mean": {"1": {"Dice": 0.9}, "2": {"Dice": 0.8}}}
    (folder / "fold_0" / "validation" / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    metrics = ModelPackage.open(import_nnunet(folder, tmp_path / "p")).card.metrics
    assert metrics == {"dice_of_nnunet_validation": {"anterior": 0.9, "posterior": 0.8}}
    results(fold="1")
    (folder / "fold_1" / "validation").mkdir()
    summary = {"mean": {"1": {"Dice": 0.5}, "2": {"Dice": 0.6}}}
    (folder / "fold_1" / "validation" / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    metrics = ModelPackage.open(import_nnunet(folder, tmp_path / "q")).card.metrics
    assert metrics["dice_of_nnunet_validation"] == pytest.approx({"anterior": 0.7, "posterior": 0.7})


def test_ct_is_told_by_its_normalisation(results: Results, tmp_path: Path) -> None:
    plans = plans_json(features=TWO_WIDE, schemes=("CTNormalization",))
    folder = results(plans=plans, dataset={**DATASET, "channel_names": {"0": "venous phase"}})
    (channel,) = ModelPackage.open(import_nnunet(folder, tmp_path / "p")).card.channels
    assert (channel.name, channel.modality, channel.unit) == ("venous phase", "CT", "HU")


@pytest.mark.parametrize("where", ["logging", "network_weights", "my_own"])
def test_a_checkpoint_that_would_run_code_is_not_read(results: Results, tmp_path: Path, where: str) -> None:
    folder = results(**{where: {"x": Attack(tmp_path / "trace")}})
    with pytest.raises(
        PackageError, match=r"holds an object \(posix\.mkdir|nt\.mkdir\).* could run any program.* not read"
    ):
        import_nnunet(folder, tmp_path / "p")
    assert not (tmp_path / "trace").exists()
    assert not (tmp_path / "p").exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", ["torch before 1.6", "plain pickle"])
def test_other_forms_of_pickles_run_nothing_either(results: Results, tmp_path: Path, form: str) -> None:
    file = results() / "fold_0" / "checkpoint_final.pth"
    content = {"network_weights": {"x": Attack(tmp_path / "trace")}}
    if form == "plain pickle":
        file.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=False)
    with pytest.raises(PackageError, match="It was not read|is damaged"):
        import_nnunet(file.parents[1], tmp_path / "p")
    assert not (tmp_path / "trace").exists()
    if form == "plain pickle":  # the attack is one
        pickle.loads(file.read_bytes())
        assert (tmp_path / "trace").exists()


def test_a_damaged_checkpoint_is_named(results: Results, tmp_path: Path) -> None:
    file = results() / "fold_0" / "checkpoint_final.pth"
    data = file.read_bytes()
    for damaged in (b"", b"hello", data[: len(data) // 2]):
        file.write_bytes(damaged)
        with pytest.raises(PackageError, match=r"checkpoint .*checkpoint_final\.pth is damaged"):
            import_nnunet(file.parents[1], tmp_path / "p")


def test_a_checkpoint_of_something_else_is_refused(results: Results, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no 'network_weights'"):
        import_nnunet(results(network_weights=None), tmp_path / "p")
    weights = small_weights(small_plan(features=(8, 8)))
    with pytest.raises(PlanError, match="do not fit the plan"):
        import_nnunet(results(network_weights=weights), tmp_path / "p")


def test_what_is_no_results_folder_is_refused(results: Results, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        find_results_folder(tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"lacks plans\.json or dataset\.json"):
        find_results_folder(tmp_path)
    first, second = results("nnUNetTrainer__nnUNetPlans__3d_fullres"), results("nnUNetTrainer__nnUNetPlans__3d_lowres")
    with pytest.raises(InputError, match=f"several results folders: {first.name}, {second.name}"):
        find_results_folder(first.parent)
    with pytest.raises(InputError, match=f"several results folders: {first.parent.name}/{first.name}, "):
        find_results_folder(tmp_path)
    (first / "plans.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match="is not what nnU-Net writes"):
        import_nnunet(first, tmp_path / "p")
    (first / "plans.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="not readable as JSON"):
        import_nnunet(first, tmp_path / "p")


def test_other_configurations_are_refused(results: Results, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match="holds a 2D network; only 3D ones can be imported"):
        import_nnunet(results(init_args={"configuration": "2d"}), tmp_path / "p")
    cascade = plans_json(features=TWO_WIDE)
    cascade["configurations"]["3d_cascade_fullres"] = {"inherits_from": "3d_fullres", "previous_stage": "3d_lowres"}
    with pytest.raises(PlanError, match="second stage of a cascade, which is not supported. Use 3d_fullres"):
        import_nnunet(results(plans=cascade, init_args={"configuration": "3d_cascade_fullres"}), tmp_path / "p")
    two = results(dataset={**DATASET, "channel_names": {"0": "T1w", "1": "T2w"}})
    with pytest.raises(DatasetError, match=r"names 2 channel\(s\), the plan has 1"):
        import_nnunet(two, tmp_path / "p")


def test_results_of_nnunet_1_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "nnUNetTrainerV2__nnUNetPlansv2.1"
    (folder / "fold_0").mkdir(parents=True)
    (folder / "fold_0" / "model_final_checkpoint.model").touch()
    with pytest.raises(InputError, match="holds results of nnU-Net v1, which are not read. Train .* with v2"):
        find_results_folder(folder)
    (folder / "plans.pkl").touch()
    with pytest.raises(InputError, match="nnU-Net v1"):
        find_results_folder(tmp_path)


@pytest.mark.parametrize("legacy", [False, True])
def test_an_unknown_network_is_named(results: Results, tmp_path: Path, legacy: bool) -> None:
    plans = plans_json(features=TWO_WIDE)
    plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "umamba.UMambaBot"
    with pytest.raises(PlanError, match="UMambaBot' is not known. Known: .*PlainConvUNet.*ResidualEncoderUNet"):
        import_nnunet(results(plans=of_2022(plans) if legacy else plans), tmp_path / "p")


@pytest.mark.parametrize(
    ("reader", "told", "expected"),
    [
        ("SimpleITKIO", None, None),
        ("SimpleITKIO", "LPS", "LPS"),
        ("NibabelIOWithReorient", None, "RAS"),
        ("SimpleITKIOWithReorient", "RAS", "RAS"),
        ("TheirIO", "LAS", "LAS"),
    ],
)
def test_the_orientation_is_the_readers(
    results: Results, tmp_path: Path, reader: str, told: str | None, expected: str | None
) -> None:
    folder = results(plans={**plans_json(features=TWO_WIDE), "image_reader_writer": reader})
    assert ModelPackage.open(import_nnunet(folder, tmp_path / "p", orientation=told)).card.orientation == expected


def test_readers_that_contradict_or_are_unknown_are_refused(results: Results, tmp_path: Path) -> None:
    folder = results(plans={**plans_json(features=TWO_WIDE), "image_reader_writer": "NibabelIOWithReorient"})
    with pytest.raises(PlanError, match="brings images to RAS, not to LPS"):
        import_nnunet(folder, tmp_path / "p", orientation="LPS")
    folder = results(plans={**plans_json(features=TWO_WIDE), "image_reader_writer": "TheirIO"})
    with pytest.raises(PlanError, match="'TheirIO', somebody's own code.*--orientation RAS"):
        import_nnunet(folder, tmp_path / "p")


@pytest.mark.usefixtures("nnunet")
@pytest.mark.filterwarnings("ignore")
def test_a_checkpoint_of_nnunets_own_trainer_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Optimiser, logged NumPy numbers, device, plans: written by its own code after a step of training."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    plans = plans_json(features=TWO_WIDE)
    device = torch.device("cpu")
    trainer = nnUNetTrainer({**plans, "continue_training": False}, "3d_fullres", 0, dict(DATASET), device)
    trainer.network = build_network(small_plan(features=TWO_WIDE).architecture, 1, 3, deep_supervision=True)
    trainer.optimizer, _ = trainer.configure_optimizers()
    trainer.network(torch.rand(1, 1, 16, 16, 16))[0].mean().backward()
    trainer.optimizer.step()
    trainer.grad_scaler = torch.amp.GradScaler("cpu")
    trainer.logger.log("mean_fg_dice", np.mean(np.array([0.2, 0.4], np.float32)), 0)
    trainer.logger.log("dice_per_class_or_region", [np.float64(0.2), np.float64(0.4)], 0)
    trainer._best_ema, trainer.inference_allowed_mirroring_axes = np.float64(0.3), (0, 1, 2)
    folder = Path(trainer.output_folder).parent
    trainer.save_checkpoint(str(folder / "fold_0" / "checkpoint_final.pth"))
    (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    (folder / "dataset.json").write_text(json.dumps(DATASET), encoding="utf-8")
    package = ModelPackage.open(import_nnunet(folder, tmp_path / "p"))
    assert package.card.description.startswith("nnUNetTrainer on Dataset901_Blobs")
    assert all(torch.equal(trainer.network.state_dict()[key], tensor) for key, tensor in package.weights().items())


def test_an_existing_model_is_kept(results: Results, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    with pytest.raises(OutputError, match="exists already"):
        import_nnunet(results(), tmp_path / "p")


def test_the_shared_teacher_is_read(shared_data: Path, tmp_path: Path) -> None:
    package = ModelPackage.open(import_nnunet(shared_data / "teacher_hippocampus", tmp_path / "teacher.recokd.zip"))
    package.verify()
    assert package.card.parameters == 5_603_177
    assert [s.name for s in package.label_set.segments] == ["Anterior", "Posterior"]
    assert "SCT^5366008^Hippocampus~SCT^255549009^Anterior" in package.label_set.segments[0].terminology
    assert package.card.mirror_axes == (0, 1, 2)


def test_the_orientation_of_the_training_images_can_be_told(results: Results, tmp_path: Path) -> None:
    model = import_nnunet(results(), tmp_path / "turned.recokd.zip", orientation="LPS")
    assert ModelPackage.open(model).card.orientation == "LPS"
    with pytest.raises(PackageError, match="axis codes such as 'RAS'"):
        import_nnunet(results(), tmp_path / "wrong.recokd.zip", orientation="XYZ")
