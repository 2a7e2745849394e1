"""The trainer for nnU-Net itself: nnU-Net finds it, trains by it, continues it and runs what it made."""

from __future__ import annotations

import copy
import json
import os
import pickle
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.multiprocessing.spawn import spawn

from nnunet_training import (
    CONFIGURATION,
    WIDE,
    environment,
    fixed_batch,
    make_teacher,
    one_of_two_trainers,
    prepare,
    read_dataset,
    run_command,
    steps_of_a_trainer,
)
from ReCoKDLib.cli import main
from ReCoKDLib.errors import InputError, OutputError, PackageError, PlanError, ReCoKDError
from ReCoKDLib.image_io import read_volume
from ReCoKDLib.networks import check_weights
from ReCoKDLib.package import ModelPackage
from ReCoKDLib.plan import Plan
from ReCoKDLib.prediction import Predictor
from ReCoKDLib.volume import Volume
from ReCoKDTrainingLib import nnunet_trainer
from ReCoKDTrainingLib.cli import find_description
from ReCoKDTrainingLib.command_line import make_parser
from ReCoKDTrainingLib.nnunet_settings import DistillationVariables, NnunetTask, student_plans
from ReCoKDTrainingLib.parsing import parse_losses
from ReCoKDTrainingLib.processes import average_gradients, share_parameters
from torchvision_import import declare_torchvision_operators

pytest.importorskip("nnunetv2")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")

NAME = "nnUNetTrainerReCoKD"
RESULTS = f"{NAME}__nnUNetPlans__{CONFIGURATION}"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TEACHER", "TEACHER_FOLD", "WIDTH", "LOSSES", "LOSS_OPTIONS", "RAMP", "EPOCHS"):
        monkeypatch.delenv(f"RECOKD_{name}", raising=False)


@pytest.fixture(scope="module")
def trainer_class() -> Iterator[Any]:
    """As nnU-Net's own search finds it, by name, in the folder that the variable holds."""
    declare_torchvision_operators()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("nnUNet_extTrainer", next(iter(nnunet_trainer.__path__)))
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

        yield recursive_find_trainer_class_by_name(NAME)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two labels."""
    return prepare(tmp_path_factory.mktemp("nnU-Net, größer"))


@pytest.fixture(scope="module")
def regions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Overlapping regions and an ignore label."""
    return prepare(tmp_path_factory.mktemp("regions"), regions=True, ignore=True)


@pytest.fixture(scope="module")
def teacher(data: Path) -> Path:
    return make_teacher(data, data / "teacher.recokd.zip")


def make(trainer_class: Any, folder: Path, patch: pytest.MonkeyPatch, teacher: Path, **ours: str) -> Any:
    """A trainer that does two iterations an epoch."""
    for name, value in environment(folder, teacher, **ours).items():
        patch.setenv(name, value)
    plans, description = read_dataset(folder)
    trainer = trainer_class(plans, CONFIGURATION, 0, description, torch.device("cpu"))
    trainer.num_iterations_per_epoch = trainer.num_val_iterations_per_epoch = 2
    return trainer


class Trained:
    """A whole training of two epochs, and what there was before it."""

    def __init__(self, trainer_class: Any, folder: Path, teacher: Path, patch: pytest.MonkeyPatch) -> None:
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - what nnU-Net draws from
        self.trainer = make(trainer_class, folder, patch, teacher, RECOKD_EPOCHS="2", nnUNet_results=str(folder / "r"))
        self.trainer.initialize()
        self.before = {key: value.clone() for key, value in self.trainer.distiller.state_dict().items()}
        self.trainer.run_training()
        self.results = folder / "r" / "Dataset901_Blobs" / RESULTS
        self.checkpoint = self.results / "fold_0" / "checkpoint_final.pth"

    def content(self) -> dict[str, Any]:
        content: dict[str, Any] = torch.load(self.checkpoint, weights_only=False)
        return content


@pytest.fixture(scope="module")
def trained(trainer_class: Any, data: Path, teacher: Path) -> Iterator[Trained]:
    with pytest.MonkeyPatch.context() as patch:
        yield Trained(trainer_class, data, teacher, patch)


def test_nnunet_finds_the_trainer(trainer_class: Any) -> None:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    assert issubclass(trainer_class, nnUNetTrainer)
    assert trainer_class.__name__ == NAME
    assert trainer_class.__module__ == NAME  # imported by its bare name, as nnU-Net does


def test_the_folder_for_nnunet_holds_the_trainer_and_nothing_else() -> None:
    """nnU-Net imports all that is there, and puts the folder first on the path while it does."""
    (folder,) = nnunet_trainer.__path__
    assert [module.name for module in pkgutil.iter_modules([folder])] == [NAME]


def test_the_folder_is_printed_without_nnunet(tmp_path: Path) -> None:
    code = "import sys, ReCoKDTrainingLib.nnunet_trainer as t; print(t.__path__[0]); print('nnunetv2' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    place, loaded = run.stdout.splitlines()
    assert (Path(place) / f"{NAME}.py").is_file()
    assert loaded == "False"


def test_student_and_adapters_learn_and_the_teacher_stays(trained: Trained) -> None:
    after = trained.trainer.distiller.state_dict()
    moved = {key for key, value in after.items() if not torch.equal(value, trained.before[key])}
    trainable = {name for name, p in trained.trainer.distiller.named_parameters() if p.requires_grad}
    adapters = {name for name in trainable if not name.startswith("student.")}
    assert any(name.startswith("connectors.") for name in adapters)
    assert any(name.startswith("losses.reco.student_blocks.") for name in adapters)
    assert adapters <= moved
    assert not any(key.startswith("teacher.") for key in moved)
    assert not any(p.requires_grad for p in trained.trainer.distiller.teacher.parameters())
    optimised = {id(p) for group in trained.trainer.optimizer.param_groups for p in group["params"]}
    assert optimised == {id(p) for p in trained.trainer.distiller.trained_parameters()}


def test_the_log_tells_the_terms(trained: Trained) -> None:
    (log,) = (trained.results / "fold_0").glob("training_log_*.txt")
    text = log.read_text(encoding="utf-8")
    assert "ReCo-KD: teacher teacher, {'width': 1" in text
    assert text.count("segmentation ") == 2
    assert all(f"reco/{term} " in text for term in ("fg", "bg", "att", "ctx"))
    logged = trained.trainer.logger.get_value("train_losses", step=None)
    assert len(logged) == 2
    assert np.isfinite(logged).all()


def test_the_checkpoint_is_a_plain_students(trained: Trained) -> None:
    plans = json.loads((trained.results / "plans.json").read_text(encoding="utf-8"))
    student = Plan.from_nnunet(plans, CONFIGURATION)
    assert student.architecture.features_per_stage == tuple(c // 2 for c in WIDE)
    content = trained.content()
    assert content["trainer_name"] == "nnUNetTrainer"
    assert content["recokd"]["trainer"] == NAME
    network = trained.trainer.network
    assert list(content["network_weights"]) == list(network.state_dict())
    check_weights(network, content["network_weights"])
    assert content["recokd"]["adapters"].keys() == trained.trainer.distiller.adapter_state().keys()
    assert [p.name for p in trained.checkpoint.parent.glob("*.pth")].count("checkpoint_final.pth") == 1
    assert not [p for p in trained.checkpoint.parent.iterdir() if "tmp" in p.name.lower() or p.name.startswith(".")]


def predicted(results: Path, volume: Volume) -> Any:
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    predictor = nnUNetPredictor(perform_everything_on_device=False, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(results), None, "checkpoint_final.pth")
    return predictor.predict_single_npy_array(volume.array.astype(np.float32), {"spacing": list(volume.spacing)})


def test_nnunets_predictor_runs_the_student_and_so_do_we(
    trained: Trained, two_blobs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Without any of our variables, and without our trainer's folder."""
    for name in ("TEACHER", "WIDTH", "RAMP", "EPOCHS"):
        monkeypatch.delenv(f"RECOKD_{name}", raising=False)
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)
    image, _ = two_blobs()
    theirs = predicted(trained.results, image)
    assert len(np.unique(theirs)) > 1
    assert main(["import", "nnunet", str(trained.results), "--output", str(tmp_path / "student.zip")]) == 0
    capsys.readouterr()
    package = ModelPackage.open(tmp_path / "student.zip")
    assert package.plan.architecture.features_per_stage == tuple(c // 2 for c in WIDE)
    ours = Predictor.from_package(package, "cpu", True).predict(image).labels.array[0]
    assert (ours == theirs).mean() > 0.99  # nnU-Net adds up in float16


def test_a_network_of_ones_own_is_found_by_the_trainers_name(
    trainer_class: Any, data: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class WithNetwork(trainer_class):  # type: ignore[misc]
        @staticmethod
        def build_network_architecture(plans_manager: Any, *arguments: Any, **options: Any) -> Any:
            return trainer_class.build_network_architecture(plans_manager, *arguments, **options)

    trainer = make(WithNetwork, data, monkeypatch, teacher, nnUNet_results=str(tmp_path))
    trainer.initialize()
    trainer.save_checkpoint(str(tmp_path / "checkpoint.pth"))
    assert torch.load(tmp_path / "checkpoint.pth", weights_only=False)["trainer_name"] == "WithNetwork"


def test_a_training_goes_on_where_it_stopped(
    trained: Trained, trainer_class: Any, data: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(99)
    again = make(trainer_class, data, monkeypatch, teacher, RECOKD_EPOCHS="2", nnUNet_results=str(data / "r"))
    again.load_checkpoint(str(trained.checkpoint))
    assert again.current_epoch == 2
    first, second = trained.trainer.distiller.state_dict(), again.distiller.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    for trainer in (trained.trainer, again):
        trainer.current_epoch = 1
    batch = fixed_batch(again.label_set)
    for a, b in zip(
        trained.trainer.optimizer.state_dict()["state"].values(),
        again.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        torch.testing.assert_close(a["momentum_buffer"], b["momentum_buffer"], rtol=0, atol=0)
    assert np.isfinite(again.train_step(batch)["loss"])


@pytest.mark.parametrize(
    ("changed", "what"),
    [({"RECOKD_WIDTH": "0"}, "width was 1 and is 0"), ({"RECOKD_LOSSES": "logits"}, "losses was"), ({}, "teacher was")],
)
def test_a_checkpoint_of_other_settings_is_refused(
    trained: Trained,
    trainer_class: Any,
    data: Path,
    teacher: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    changed: dict[str, str],
    what: str,
) -> None:
    used = teacher if changed else make_teacher(data, tmp_path / "other.zip", seed=1)
    variables = {"RECOKD_EPOCHS": "2", "nnUNet_results": str(tmp_path), **changed}
    with pytest.raises(PackageError, match=what):
        make(trainer_class, data, monkeypatch, used, **variables).load_checkpoint(str(trained.checkpoint))


def test_folds_of_another_width_are_not_mixed(
    trained: Trained, trainer_class: Any, data: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make(trainer_class, data, monkeypatch, teacher, RECOKD_WIDTH="2", nnUNet_results=str(data / "r"))
    before = (trained.results / "plans.json").read_bytes()
    with pytest.raises(OutputError, match=r"holds a student with \(4, 8, 8\) channels; this one has \(4, 4, 4\)"):
        other.run_training()
    assert (trained.results / "plans.json").read_bytes() == before


def test_a_results_folder_is_a_teacher_too(
    trained: Trained, trainer_class: Any, data: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Here the teacher has the student's network, so features need no connectors. It's read where it lies."""
    before = sorted(trained.results.rglob("*"))
    trainer = make(trainer_class, data, monkeypatch, trained.results, nnUNet_results=str(tmp_path))
    trainer.initialize()
    weights = trained.content()["network_weights"]
    held = trainer.distiller.teacher.state_dict()
    assert all(torch.equal(held[key], weights[key]) for key in held)
    assert np.isfinite(trainer.train_step(fixed_batch(trainer.label_set))["loss"])
    assert sorted(trained.results.rglob("*")) == before


def test_targets_are_labels_and_ours_are_downsampled_as_nnunets(
    trainer_class: Any, data: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same augmented label map through nnU-Net's own deep supervision and loss, and through ours."""
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform

    trainer = make(trainer_class, data, monkeypatch, teacher, RECOKD_LOSSES="reco=0", nnUNet_results=str(tmp_path))
    trainer.initialize()
    batches, _ = trainer.get_dataloaders()
    pickle.loads(pickle.dumps(batches.data_loader))  # as a process for augmentation gets it on Windows and macOS
    batch = next(batches)
    target = batch["target"]
    assert isinstance(target, torch.Tensor)
    assert target.shape == (2, 1, 16, 16, 16)
    assert set(np.unique(target.numpy())) == {0, 1, 2}
    scales = DownsampleSegForDSTransform(trainer._get_deep_supervision_scales())
    targets = [scales(segmentation=case)["segmentation"] for case in target]
    trainer.network.train()
    with torch.no_grad():
        theirs = trainer.loss(
            trainer.network(batch["data"]), [torch.stack(level) for level in zip(*targets, strict=True)]
        )
        ours = trainer.distiller.training_loss(batch["data"], target.long(), 1.0).total
    torch.testing.assert_close(ours - 1, theirs, rtol=0, atol=1e-6)


def test_regions_and_an_ignore_label_train(trainer_class: Any, regions: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    teacher = make_teacher(regions, regions / "teacher.zip")
    trainer = make(trainer_class, regions, monkeypatch, teacher, RECOKD_EPOCHS="1")
    seen: set[int] = set()
    step = trainer.train_step

    def watched(batch: dict[str, Any]) -> Any:
        seen.update(np.unique(batch["target"].numpy()).tolist())
        return step(batch)

    trainer.train_step = watched
    trainer.run_training()
    assert seen == {0, 1, 2, 3}  # 3 is ignored
    assert np.isfinite(trainer.logger.get_value("train_losses", step=None)).all()
    assert len(trainer.logger.get_value("dice_per_class_or_region", step=-1)) == 2
    (checkpoint,) = (regions / "results").rglob("checkpoint_final.pth")
    heads = torch.load(checkpoint, weights_only=False)["network_weights"]["decoder.seg_layers.0.weight"]
    assert heads.shape[0] == 2


def test_without_distillation_a_step_is_nnunets(
    trainer_class: Any, data: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform

    states = []
    for step in (trainer_class.train_step, trainer_class.__mro__[1].train_step):
        torch.manual_seed(7)
        trainer = make(trainer_class, data, monkeypatch, teacher, RECOKD_LOSSES="reco=0", nnUNet_results=str(tmp_path))
        trainer.initialize()
        batch: dict[str, Any] = fixed_batch(trainer.label_set)
        if step is not trainer_class.train_step:
            scales = DownsampleSegForDSTransform(trainer._get_deep_supervision_scales())
            cases = [scales(segmentation=case)["segmentation"] for case in batch["target"]]
            batch["target"] = [torch.stack(level) for level in zip(*cases, strict=True)]
        losses = [float(step(trainer, batch)["loss"]) for _ in range(3)]
        states.append((losses, trainer.network.state_dict()))
    assert states[0][0] == pytest.approx(states[1][0], abs=1e-5)
    torch.testing.assert_close(states[0][1], states[1][1], rtol=1e-4, atol=1e-6)


def test_gradients_are_scaled_and_clipped_as_one(
    trainer_class: Any, data: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As on a GPU: a scaler changes nothing, and where gradients overflow the step is left out."""
    torch.manual_seed(5)
    trainer = make(trainer_class, data, monkeypatch, teacher, nnUNet_results=str(tmp_path))
    trainer.initialize()
    start = {key: value.clone() for key, value in trainer.distiller.state_dict().items()}
    optimiser = copy.deepcopy(trainer.optimizer.state_dict())
    plain = steps_of_a_trainer(trainer, slice(None))["parameters"]
    for scale, expected in ((2.0**10, plain), (float("inf"), {name: start[name] for name in plain})):
        trainer.distiller.load_state_dict(start)
        trainer.optimizer.load_state_dict(optimiser)
        trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=scale, backoff_factor=1.0 - 1e-6)
        scaled = steps_of_a_trainer(trainer, slice(None))["parameters"]
        torch.testing.assert_close(scaled, expected, rtol=1e-5, atol=1e-6)


SHORT = """
import torch
from ReCoKDTrainingLib.nnunet_trainer.nnUNetTrainerReCoKD import nnUNetTrainerReCoKD

class ShortTrainer(nnUNetTrainerReCoKD):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_iterations_per_epoch = self.num_val_iterations_per_epoch = 20
        torch.set_num_threads(1)
"""


@pytest.mark.slow
def test_nnunets_own_commands_train_and_predict(data: Path, teacher: Path, tmp_path: Path) -> None:
    """nnUNetv2_train with a trainer made of ours, then nnUNetv2_predict where nobody knows of either."""
    (tmp_path / "trainers").mkdir()
    (tmp_path / "trainers" / "short_trainer.py").write_text(SHORT, encoding="utf-8")
    variables = environment(data, teacher, RECOKD_EPOCHS="1", nnUNet_results=str(tmp_path / "results"))
    folders = (*nnunet_trainer.__path__, str(tmp_path / "trainers"))
    run = run_command(
        "nnunetv2.run.run_training:run_training_entry",
        *("901", CONFIGURATION, "0", "-device", "cpu", "-tr", "ShortTrainer"),
        **variables,
        nnUNet_extTrainer=os.pathsep.join(folders),
    )
    assert run.returncode == 0, run.stderr
    assert "Mean Validation Dice" in run.stdout
    images, output = data / "raw" / "Dataset901_Blobs" / "imagesTr", tmp_path / "predicted"
    run = run_command(
        "nnunetv2.inference.predict_from_raw_data:predict_entry_point",
        *("-i", str(images), "-o", str(output), "-d", "901", "-c", CONFIGURATION, "-f", "0"),
        *("-tr", "ShortTrainer", "-device", "cpu", "-npp", "1", "-nps", "1"),
        **{name: value for name, value in variables.items() if name.startswith("nnUNet_")},
    )
    assert run.returncode == 0, run.stderr
    validation = next((tmp_path / "results").rglob("validation"))
    for case in ("blobs_002", "blobs_003"):
        found, known = (read_volume(folder / f"{case}.nii.gz").array for folder in (output, validation))
        assert len(np.unique(known)) > 1
        assert (found == known).mean() > 0.999


# -- several processes --------------------------------------------------------------------------------------


def test_two_processes_train_what_one_does(
    trainer_class: Any, data: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """nnU-Net's distributed trainer over gloo, one case each, against one process with both cases."""
    variables = environment(data, teacher, nnUNet_results=str(tmp_path / "results"))
    spawn(one_of_two_trainers, args=(str(data), str(tmp_path), variables), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (torch.load(tmp_path / f"rank_{rank}.pt") for rank in (0, 1))
    for what in ("start", "gradients", "parameters"):
        assert first[what].keys() == second[what].keys()
        torch.testing.assert_close(first[what], second[what], rtol=0, atol=0)

    whole = make(trainer_class, data, monkeypatch, teacher, nnUNet_results=str(tmp_path / "whole"))
    whole.initialize()
    whole.distiller.load_state_dict(first["start"])
    expected = steps_of_a_trainer(whole, slice(None))
    largest = 0.0
    for name, gradient in first["gradients"].items():
        other = expected["gradients"][name]
        other = torch.zeros_like(gradient) if other is None else other  # the head that no loss reaches
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5, msg=name)
        largest = max(largest, float((gradient - other).abs().max()))
    print(f"Largest difference of a gradient of one process and of two: {largest:.1e}")
    assert all(first["gradients"][name].any() for name in first["gradients"] if name.startswith("connectors"))
    torch.testing.assert_close(first["parameters"], expected["parameters"], rtol=1e-4, atol=1e-5)
    unmoved = {n for n, value in first["parameters"].items() if torch.equal(value, first["start"][n])}
    assert unmoved <= {"student.decoder.seg_layers.0.bias"}  # no loss reaches it, and decay leaves a 0 as it is


def test_gradients_of_one_process_are_left_alone() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    average_gradients([parameter])
    share_parameters([parameter])
    assert parameter.grad is None


# -- what is refused ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "RECOKD_TEACHER is not set. Set it to the teacher"),
        ({"RECOKD_TEACHER": " "}, "RECOKD_TEACHER is not set"),
        ({"RECOKD_WIDTH": "4"}, "RECOKD_WIDTH must be a whole number from 0 to 3; it is '4'"),
        ({"RECOKD_WIDTH": "wide"}, "RECOKD_WIDTH must be a whole number"),
        ({"RECOKD_RAMP": "1.5"}, "RECOKD_RAMP must be a number from 0 to 1; it is '1.5'"),
        ({"RECOKD_RAMP": "nan"}, "RECOKD_RAMP must be a number"),
        ({"RECOKD_EPOCHS": "0"}, "RECOKD_EPOCHS must be a whole number of 1 or more"),
        ({"RECOKD_LOSSES": "reco=much"}, "not NAME=WEIGHT"),
        ({"RECOKD_LOSS_OPTIONS": "{"}, "not a JSON object"),
        ({"RECOKD_LOSS": "reco"}, "RECOKD_LOSS is not a variable of nnUNetTrainerReCoKD; RECOKD_LOSSES is"),
    ],
)
def test_wrong_variables_are_refused(given: dict[str, str], message: str) -> None:
    environment = {"RECOKD_TEACHER": "teacher.zip", **given} if given else {}
    with pytest.raises(ReCoKDError, match=message):
        DistillationVariables.from_environment(environment)


def test_variables_have_defaults() -> None:
    variables = DistillationVariables.from_environment({"RECOKD_TEACHER": "t", "RECOKD_STUDENTS": "elsewhere"})
    assert variables == DistillationVariables(Path("t"), None, 2, {"logits": 3.0}, {}, 0.6, 1000)
    # those of the command too
    command = make_parser(find_description()).parse_args([])
    assert variables.losses == parse_losses(command.losses)
    assert (variables.width, variables.ramp) == (command.width, command.ramp)


def test_teachers_that_do_not_fit_are_refused(
    trainer_class: Any, data: Path, teacher: Path, regions: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refused(path: Path, error: type[ReCoKDError], message: str, **ours: str) -> None:
        with pytest.raises(error, match=message):
            make(trainer_class, data, monkeypatch, path, nnUNet_results=str(tmp_path / "none"), **ours)

    refused(tmp_path / "nowhere.zip", InputError, "nowhere.zip, which does not exist")
    refused(data / "raw", InputError, "is not a results folder of nnU-Net v2")
    other = make_teacher(regions, tmp_path / "regions.zip")
    refused(other, PackageError, "does not know anterior")
    coarse = make_teacher(data, tmp_path / "coarse.zip", spacing=[1.0, 1.0, 2.0])
    refused(coarse, PackageError, r"prepared otherwise: spacing is \(1.0, 1.0, 2.0\) there")
    plain = make_teacher(data, tmp_path / "plain.zip", normalization_schemes=["NoNormalization"])
    refused(plain, PackageError, "prepared otherwise: normalisation is")
    assert not (tmp_path / "none").exists()  # nothing was begun


def test_a_fold_that_a_results_folder_lacks_is_refused(
    trained: Trained, trainer_class: Any, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="has no fold 3. It has: 0.*the fold RECOKD_TEACHER_FOLD"):
        make(trainer_class, data, monkeypatch, trained.results, RECOKD_TEACHER_FOLD="3")


def test_only_the_students_widths_change_in_the_plans(data: Path) -> None:
    plans, description = read_dataset(data)
    original = json.dumps(plans)
    changed = student_plans(plans, CONFIGURATION, 1)
    assert json.dumps(plans) == original
    arguments = changed["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
    assert arguments["features_per_stage"] == [4, 8, 8]
    arguments["features_per_stage"] = list(WIDE)
    assert changed == json.loads(original)
    with pytest.raises(PlanError):
        student_plans(plans, "2d", 1)
    assert NnunetTask.from_dataset_json("x", description).channel_names == ("MRI",)
