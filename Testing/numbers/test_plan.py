"""Plans: read as nnU-Net writes them, written as nnU-Net reads them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from plans import changed, of_2022, plans_json, small_plan
from ReCoKDLib.errors import PlanError
from ReCoKDLib.networks import build_network, count_parameters, load_weights
from ReCoKDLib.plan import Plan


def test_round_trip() -> None:
    plan = small_plan(transpose=(2, 0, 1), schemes=("CTNormalization", "ZScoreNormalization"), spacing=(3.0, 0.8, 0.8))
    assert Plan.from_nnunet(plan.to_nnunet()) == plan
    assert plan.channels == 2


def test_nnunet_reads_our_plan() -> None:
    handler = pytest.importorskip("nnunetv2.utilities.plans_handling.plans_handler")
    plan = small_plan(spacing=(3.0, 0.8, 0.8))
    manager = handler.PlansManager(plan.to_nnunet())
    configuration = manager.get_configuration("3d_fullres")
    assert tuple(configuration.patch_size) == plan.patch_size
    assert tuple(configuration.spacing) == plan.spacing
    assert configuration.network_arch_class_name.endswith("PlainConvUNet")
    assert manager.transpose_backward == list(plan.transpose_backward)


def test_a_configuration_may_inherit() -> None:
    source = plans_json()
    source["configurations"]["3d_lowres"] = {"inherits_from": "3d_fullres", "spacing": [2.0, 2.0, 2.0]}
    plan = Plan.from_nnunet(source, "3d_lowres")
    assert plan.spacing == (2.0, 2.0, 2.0)
    assert plan.patch_size == (16, 16, 16)


@pytest.mark.parametrize("residual", [False, True])
def test_a_plan_of_2022_is_the_same_plan(residual: bool) -> None:
    plans = plans_json(features=(8, 16, 32, 32), residual=residual)
    old = of_2022(plans)
    old["foreground_intensity_properties_by_modality"] = old.pop("foreground_intensity_properties_per_channel")
    assert "architecture" not in old["configurations"]["3d_fullres"]
    assert Plan.from_nnunet(old) == Plan.from_nnunet(plans)


def test_nnunet_reconstructs_the_same_network() -> None:
    handler = pytest.importorskip("nnunetv2.utilities.plans_handling.plans_handler")
    old = of_2022(plans_json(features=(8, 16, 32, 32)))
    ours = Plan.from_nnunet(old).architecture
    with pytest.warns(UserWarning, match="old nnU-Net plans format"):
        theirs = handler.PlansManager(old).get_configuration("3d_fullres")
    assert theirs.network_arch_init_kwargs == ours.arch_kwargs
    assert theirs.network_arch_class_name == ours.network_class_name


def test_a_class_that_moved_is_still_found() -> None:
    plans = plans_json(residual=True)
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    architecture["network_class_name"] = "dynamic_network_architectures.architectures.residual_unet.ResidualEncoderUNet"
    assert Plan.from_nnunet(plans) == small_plan(residual=True)


def test_other_resampling_is_kept() -> None:
    options = {"is_seg": False, "force_separate_z": False}
    plans = changed(plans_json(), resampling_fn_data="resample_torch_fornnunet", resampling_fn_data_kwargs=options)
    plan = Plan.from_nnunet(plans)
    assert plan.resampling["data"] == {**options, "function": "resample_torch_fornnunet"}
    assert Plan.from_nnunet(plan.to_nnunet()) == plan
    assert plan.to_nnunet()["configurations"]["3d_fullres"]["resampling_fn_data_kwargs"] == options


def with_class(name: str) -> dict[str, Any]:
    source = plans_json()
    source["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]["conv_op"] = name
    return source


@pytest.mark.parametrize(
    ("source", "configuration", "message"),
    [
        ({"plans_per_stage": {}}, "3d_fullres", "not a plan of nnU-Net v2"),
        (plans_json(), "3d_cascade", "no configuration '3d_cascade'. It has: 2d, 3d_fullres"),
        (changed(plans_json(), previous_stage="3d_lowres"), "3d_fullres", "cascade"),
        (changed(plans_json(), patch_size=[16, 16]), "3d_fullres", "three numbers.*3D configuration"),
        (changed(plans_json(), patch_size=[15, 16, 16]), "3d_fullres", "cannot be divided by the network's strides"),
        (
            changed(plans_json(), normalization_schemes=["MyNormalization"]),
            "3d_fullres",
            "'MyNormalization', which is not known",
        ),
        (changed(plans_json(), resampling_fn_data="resample_my_way"), "3d_fullres", "resamples by 'resample_my_way'"),
        (changed(plans_json(), preprocessor_name="Mine"), "3d_fullres", "prepares images by 'Mine', somebody's own"),
        ({**plans_json(), "label_manager": "Mine"}, "3d_fullres", "reads labels by 'Mine', somebody's own code"),
        (changed(of_2022(plans_json()), UNet_class_name="MyUNet"), "3d_fullres", "'MyUNet' is not known. Known: Plain"),
        (changed(of_2022(plans_json()), pool_op_kernel_sizes=3), "3d_fullres", "malformed"),
        (changed(plans_json(), use_mask_for_norm=[False, False]), "3d_fullres", "different number of channels"),
        (changed(plans_json(), spacing=[0.0, 1.0, 1.0]), "3d_fullres", "must be positive"),
        ({"configurations": None}, "3d_fullres", "malformed"),
        ({"configurations": {"3d_fullres": "large"}}, "3d_fullres", "malformed"),
        ({"configurations": {"3d_fullres": {"inherits_from": ["2d"]}}}, "3d_fullres", "malformed"),
        (with_class("os.system"), "3d_fullres", "'os.system', which is not on the list"),
    ],
)
def test_what_cannot_be_run_is_refused(source: dict[str, Any], configuration: str, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        Plan.from_nnunet(source, configuration)


def test_ct_needs_its_intensities() -> None:
    with pytest.raises(PlanError, match="channel 0 as CT but lacks its intensities"):
        small_plan(schemes=("CTNormalization",), properties={"mean": 3.0})


def test_a_missing_field_is_named() -> None:
    source = plans_json()
    del source["configurations"]["3d_fullres"]["batch_size"]
    with pytest.raises(PlanError, match="lacks 'batch_size'"):
        Plan.from_nnunet(source)


HIPPOCAMPUS = {"features": (32, 64, 128, 256), "patch_size": (40, 56, 40)}
SIX_STAGES = {"features": (32, 64, 128, 256, 320, 320), "patch_size": (64, 160, 160)}


@pytest.mark.parametrize(
    ("kwargs", "counts"),
    [(HIPPOCAMPUS, (5_603_177, 1_402_297, 351_329, 88_213)), (SIX_STAGES, (31_196_399, 7_803_007, 1_952_711, 489_163))],
    ids=["hippocampus", "six stages"],
)
def test_parameter_counts_of_the_widths(kwargs: dict[str, Any], counts: tuple[int, ...]) -> None:
    plan = small_plan(**kwargs)
    for t, count in enumerate(counts):
        network = build_network(plan.with_width(t).architecture, 1, 3, deep_supervision=True)
        assert count_parameters(network) == count


def test_width_has_a_lower_bound_but_never_widens() -> None:
    plan = small_plan(features=(2, 16))
    assert plan.with_width(3).architecture.features_per_stage == (2, 4)
    with pytest.raises(PlanError, match="must be 0, 1, 2 or 3"):
        plan.with_width(4)


def test_residual_encoders_are_built() -> None:
    plan = small_plan(residual=True)
    assert "ResidualEncoderUNet" in type(build_network(plan.architecture, 1, 3)).__name__


def test_an_unknown_network_class_is_named() -> None:
    source = plans_json()
    source["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "my.Net"
    with pytest.raises(PlanError, match=r"'my.Net' is not known. Known: .*PlainConvUNet"):
        build_network(Plan.from_nnunet(source).architecture, 1, 3)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state, key: state.pop(key), "is missing"),
        (lambda state, key: state.update({key: state[key][:1]}), "has shape"),
        (lambda state, key: state.update({"stranger": state[key]}), "stranger is not in"),
    ],
    ids=["missing", "shape", "unexpected"],
)
def test_weights_of_another_plan_are_refused(spoil: Callable[[dict[str, Any], str], Any], message: str) -> None:
    architecture = small_plan().architecture
    state = dict(build_network(architecture, 1, 3).state_dict())
    key = next(k for k in state if k.startswith("decoder.seg_layers"))
    spoil(state, key)
    with pytest.raises(PlanError, match=message):
        load_weights(build_network(architecture, 1, 3), state)
