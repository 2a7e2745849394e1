"""One description of a network and its preprocessing: an nnU-Net v2 plan with one 3D configuration.

The fields are those of nnU-Net's ``plans.json`` (Isensee et al., Nature Methods 18, 203-211, 2021), so that a
plan made by nnU-Net is read as it is and ours are read by nnU-Net. Teacher, student, training and inference all
go by the same object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from .backbones import BACKBONES, Backbone, backbone_of, triple
from .errors import PlanError
from .legacy_plans import intensity_properties, with_architecture

Int3 = tuple[int, int, int]
Float3 = tuple[float, float, float]

NORMALIZATION_SCHEMES = (
    "ZScoreNormalization",
    "CTNormalization",
    "NoNormalization",
    "RescaleTo01Normalization",
    "RGBTo01Normalization",
)
DEFAULT_PREPROCESSOR = "DefaultPreprocessor"
WHOLE_IMAGE = "WholeImagePreprocessor"  # as MONAI's bundles do it; nnU-Net refuses the name
_CT_PROPERTIES = frozenset({"mean", "std", "percentile_00_5", "percentile_99_5"})
_DEFAULT_RESAMPLING = "resample_data_or_seg_to_shape"
# nnU-Net finds any function in its folder by name; these are those that its planners write and its code can call, and
# the last is MONAI's way, whose name nnU-Net refuses.
RESAMPLING_FUNCTIONS = (
    *(_DEFAULT_RESAMPLING, "resample_torch_fornnunet", "no_resampling_hack"),
    "resample_from_first_voxel",
)
_LABEL_MANAGER = "LabelManager"
# What may stand where nnU-Net's JSON names a Python object; a name from outside is never imported.
_IMPORTABLE = frozenset(
    {
        "torch.nn.modules.conv.Conv3d",
        "torch.nn.modules.instancenorm.InstanceNorm3d",
        "torch.nn.modules.batchnorm.BatchNorm3d",
        "torch.nn.modules.dropout.Dropout3d",
        "torch.nn.LeakyReLU",
        "torch.nn.modules.activation.LeakyReLU",
        "torch.nn.ReLU",
        "torch.nn.modules.activation.ReLU",
    }
)


@dataclass(frozen=True)
class Architecture:
    """A network class and its arguments, as in a plan's ``architecture``.

    Attributes:
        network_class_name: Dotted name; see :mod:`ReCoKDLib.backbones` for those that can be built.
        arch_kwargs: Its arguments as JSON values; classes stand as dotted names.
        requires_import: The keys of ``arch_kwargs`` whose values are such names.
    """

    network_class_name: str
    arch_kwargs: Mapping[str, Any]
    requires_import: tuple[str, ...]

    @classmethod
    def for_topology(
        cls, backbone: str, features: Sequence[int], strides: Sequence[Int3], kernel_sizes: Sequence[Int3]
    ) -> Architecture:
        """The full-size network of a backbone (its name in :data:`.backbones.BACKBONES`) with these stages.

        Raises:
            PlanError: There is no such backbone, or it has no such network.
        """
        if backbone not in BACKBONES:
            raise PlanError(f"There is no backbone {backbone!r}. There are: {', '.join(BACKBONES)}.")
        entry = BACKBONES[backbone]
        return cls(entry.class_name, entry.for_topology(features, strides, kernel_sizes), entry.imports)

    @property
    def backbone(self) -> Backbone:
        """What is known of the network class.

        Raises:
            PlanError: Nothing is.
        """
        return backbone_of(self.network_class_name)

    @property
    def features_per_stage(self) -> tuple[int, ...]:
        """Channels of each encoder stage, full resolution first, bottleneck last."""
        return self.backbone.features(self.arch_kwargs)

    @property
    def strides(self) -> tuple[Int3, ...]:
        """Stride of each encoder stage along the plan's axes."""
        return self.backbone.strides(self.arch_kwargs)

    @property
    def stage_paths(self) -> tuple[str, ...]:
        """The modules whose outputs are the encoder stages' features."""
        return self.backbone.stage_paths(self.arch_kwargs)

    @property
    def ends_in_activation(self) -> bool:
        """Whether an encoder stage's output has gone through norm and activation."""
        return self.backbone.ends_in_activation(self.arch_kwargs)

    @property
    def outputs(self) -> int:
        """How many outputs the network has under deep supervision."""
        return self.backbone.outputs(self.arch_kwargs)

    def with_width(self, t: int, minimum: int = 4) -> Architecture:
        """The same network with max(minimum, C / 2^t) channels in each stage (ReCo-KD's student, section 'Student')."""
        if t not in range(4):
            raise PlanError(f"The width exponent t must be 0, 1, 2 or 3; it is {t}.")
        return self if t == 0 else replace(self, arch_kwargs=self.backbone.narrowed(self.arch_kwargs, t, minimum))


@dataclass(frozen=True)
class Plan:
    """How a case is prepared, cut in patches and run through a network.

    Axes are those of the preprocessed array: the image's (k, j, i) after ``transpose_forward``.

    Attributes:
        dataset_name: Name of the dataset that the plan was made for.
        configuration: ``3d_fullres`` or ``3d_lowres``.
        spacing: Target voxel size, mm.
        patch_size: Voxels the network sees at once.
        batch_size: Patches a training step.
        batch_dice: Whether the Dice loss pools the batch.
        normalization_schemes: nnU-Net's scheme for each input channel.
        use_mask_for_norm: For each channel: normalise inside the non-zero region only.
        transpose_forward: Axis order before preprocessing.
        transpose_backward: Its inverse.
        intensity_properties: For each channel: mean, std, percentile_00_5, percentile_99_5 ... of the training
            foreground (empty where unknown).
        architecture: The network.
        resampling: Keyword arguments (order, order_z, force_separate_z) for "data", "seg" and "probabilities", with
            "function" for those of :data:`RESAMPLING_FUNCTIONS` that are not the default.
        median_shape: Median shape of the training cases in voxels at ``spacing``.
        original_median_spacing: Median spacing of the training cases, mm.
        preprocessor: ``DefaultPreprocessor``, nnU-Net's, or ``WholeImagePreprocessor``; see
            :func:`.preprocessing.preprocess`.
    """

    dataset_name: str
    configuration: str
    spacing: Float3
    patch_size: Int3
    batch_size: int
    batch_dice: bool
    normalization_schemes: tuple[str, ...]
    use_mask_for_norm: tuple[bool, ...]
    transpose_forward: Int3
    transpose_backward: Int3
    intensity_properties: tuple[Mapping[str, float], ...]
    architecture: Architecture
    resampling: Mapping[str, Mapping[str, Any]]
    median_shape: Float3
    original_median_spacing: Float3
    plans_name: str = "nnUNetPlans"
    preprocessor: str = DEFAULT_PREPROCESSOR

    def __post_init__(self) -> None:
        if sorted(self.transpose_forward) != [0, 1, 2] or any(
            self.transpose_backward[axis] != position for position, axis in enumerate(self.transpose_forward)
        ):
            raise PlanError(
                f"The plan's axis orders {self.transpose_forward} and {self.transpose_backward} are not inverse "
                "to each other. Restore plans.json."
            )
        if min(self.spacing) <= 0 or min(self.patch_size) <= 0 or self.batch_size < 1:
            raise PlanError("The plan's spacing, patch size and batch size must be positive. Restore plans.json.")
        if len(self.use_mask_for_norm) != self.channels or len(self.intensity_properties) != self.channels:
            raise PlanError("The plan names a different number of channels in different places. Restore plans.json.")
        for channel, scheme in enumerate(self.normalization_schemes):
            if scheme not in NORMALIZATION_SCHEMES:
                raise PlanError(
                    f"The plan normalises channel {channel} by {scheme!r}, which is not known here. "
                    f"Known: {', '.join(NORMALIZATION_SCHEMES)}."
                )
            if scheme == "CTNormalization" and not self.intensity_properties[channel].keys() >= _CT_PROPERTIES:
                raise PlanError(
                    f"The plan normalises channel {channel} as CT but lacks its intensities "
                    f"({', '.join(sorted(_CT_PROPERTIES))}). Restore plans.json."
                )
        if len(self.architecture.features_per_stage) != len(self.architecture.strides):
            raise PlanError("The plan's network has another number of widths than of strides. Restore plans.json.")
        for axis in range(3):
            total = 1
            for stride in self.architecture.strides:
                total *= stride[axis]
            if self.patch_size[axis] % total:
                raise PlanError(
                    f"The plan's patch size {self.patch_size} cannot be divided by the network's strides "
                    f"({total} along axis {axis}). Restore plans.json."
                )

    @property
    def channels(self) -> int:
        """Number of input channels."""
        return len(self.normalization_schemes)

    def with_width(self, t: int, minimum: int = 4) -> Plan:
        """The plan of the student with C' = max(minimum, C / 2^t) channels; all else is the teacher's."""
        return replace(self, architecture=self.architecture.with_width(t, minimum))

    @classmethod
    def from_nnunet(cls, plans: Mapping[str, Any], configuration: str = "3d_fullres") -> Plan:
        """Read one 3D configuration of nnU-Net v2's ``plans.json``.

        Raises:
            PlanError: It is not a v2 plan, lacks the configuration, or describes what is not supported
                (2D, a cascade, an unknown resampling or network).
        """
        if "configurations" not in plans:
            raise PlanError(
                "This is not a plan of nnU-Net v2 (it has no 'configurations'). Plans of v1 must be redone."
            )
        try:
            return cls._from_configuration(plans, configuration, _inherited(plans["configurations"], configuration))
        except KeyError as error:
            raise PlanError(f"The plan lacks {error}. Restore plans.json.") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise PlanError(f"The plan is malformed ({error}). Restore plans.json.") from error

    @classmethod
    def _from_configuration(cls, plans: Mapping[str, Any], configuration: str, chosen: Mapping[str, Any]) -> Plan:
        chosen = with_architecture(chosen)
        for what, named, known in (
            ("prepares images", chosen.get("preprocessor_name"), (DEFAULT_PREPROCESSOR, WHOLE_IMAGE)),
            ("reads labels", plans.get("label_manager"), (_LABEL_MANAGER,)),
        ):
            if named not in (None, *known):
                raise PlanError(f"The plan {what} by {named!r}, somebody's own code; only {known[0]!r} is known here.")
        architecture = Architecture(
            str(chosen["architecture"]["network_class_name"]),
            dict(chosen["architecture"]["arch_kwargs"]),
            tuple(chosen["architecture"]["_kw_requires_import"]),
        )
        architecture.backbone.check(architecture.arch_kwargs)
        for key in architecture.requires_import:
            value = architecture.arch_kwargs.get(key)
            if value is not None and value not in _IMPORTABLE:
                raise PlanError(
                    f"The plan's network uses {key} = {value!r}, which is not on the list of known classes."
                )
        resampling = {}
        for what in ("data", "seg", "probabilities"):
            function = chosen[f"resampling_fn_{what}"]
            if function not in RESAMPLING_FUNCTIONS:
                raise PlanError(
                    f"The plan resamples by {function!r}, which is not known here. "
                    f"Known: {', '.join(RESAMPLING_FUNCTIONS)}."
                )
            resampling[what] = dict(chosen[f"resampling_fn_{what}_kwargs"])
            if function != _DEFAULT_RESAMPLING:
                resampling[what]["function"] = function
        schemes = tuple(str(scheme) for scheme in chosen["normalization_schemes"])
        properties = intensity_properties(plans)
        spacing = triple(chosen["spacing"], float, "spacing")
        return cls(
            dataset_name=str(plans.get("dataset_name", "")),
            plans_name=str(plans.get("plans_name", "nnUNetPlans")),
            preprocessor=str(chosen.get("preprocessor_name") or DEFAULT_PREPROCESSOR),
            configuration=configuration,
            spacing=spacing,
            patch_size=triple(chosen["patch_size"], int, "patch size"),
            batch_size=int(chosen["batch_size"]),
            batch_dice=bool(chosen.get("batch_dice", False)),
            normalization_schemes=schemes,
            use_mask_for_norm=tuple(bool(use) for use in chosen["use_mask_for_norm"]),
            transpose_forward=triple(plans["transpose_forward"], int, "axis order"),
            transpose_backward=triple(plans["transpose_backward"], int, "axis order"),
            intensity_properties=tuple(
                {str(k): float(v) for k, v in properties.get(str(channel), {}).items()}
                for channel in range(len(schemes))
            ),
            architecture=architecture,
            resampling=resampling,
            median_shape=triple(
                chosen.get("median_image_size_in_voxels", chosen["patch_size"]), float, "median image size"
            ),
            original_median_spacing=triple(
                plans.get("original_median_spacing_after_transp", spacing), float, "median spacing"
            ),
        )

    def to_nnunet(self) -> dict[str, Any]:
        """The plan as the contents of an nnU-Net v2 ``plans.json`` with this one configuration."""
        configuration: dict[str, Any] = {
            "data_identifier": f"{self.plans_name}_{self.configuration}",
            "preprocessor_name": self.preprocessor,
            "batch_size": self.batch_size,
            "patch_size": list(self.patch_size),
            "median_image_size_in_voxels": list(self.median_shape),
            "spacing": list(self.spacing),
            "normalization_schemes": list(self.normalization_schemes),
            "use_mask_for_norm": list(self.use_mask_for_norm),
            "architecture": {
                "network_class_name": self.architecture.network_class_name,
                "arch_kwargs": dict(self.architecture.arch_kwargs),
                "_kw_requires_import": list(self.architecture.requires_import),
            },
            "batch_dice": self.batch_dice,
        }
        for what, options in self.resampling.items():
            configuration[f"resampling_fn_{what}"] = options.get("function", _DEFAULT_RESAMPLING)
            configuration[f"resampling_fn_{what}_kwargs"] = {k: v for k, v in options.items() if k != "function"}
        return {
            "dataset_name": self.dataset_name,
            "plans_name": self.plans_name,
            "original_median_spacing_after_transp": list(self.original_median_spacing),
            "original_median_shape_after_transp": [round(n) for n in self.median_shape],
            "image_reader_writer": "SimpleITKIO",
            "transpose_forward": list(self.transpose_forward),
            "transpose_backward": list(self.transpose_backward),
            "configurations": {self.configuration: configuration},
            "experiment_planner_used": "ExperimentPlanner",
            "label_manager": _LABEL_MANAGER,
            "foreground_intensity_properties_per_channel": {
                str(channel): dict(values) for channel, values in enumerate(self.intensity_properties)
            },
        }


def _inherited(configurations: Mapping[str, Any], configuration: str) -> dict[str, Any]:
    """One configuration with what it inherits from others."""
    if configuration not in configurations:
        raise PlanError(f"The plan has no configuration {configuration!r}. It has: {', '.join(configurations)}.")
    chosen = dict(configurations[configuration])
    seen = {configuration}
    while parent := chosen.pop("inherits_from", None):
        if parent in seen or parent not in configurations:
            raise PlanError(f"The plan's configuration {configuration!r} inherits from {parent!r} wrongly.")
        seen.add(parent)
        chosen = {**configurations[parent], **chosen}
    if chosen.get("previous_stage"):
        raise PlanError("This configuration is the second stage of a cascade, which is not supported. Use 3d_fullres.")
    return chosen


DEFAULT_RESAMPLING: Mapping[str, Mapping[str, Any]] = {
    "data": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "seg": {"is_seg": True, "order": 1, "order_z": 0, "force_separate_z": None},
    "probabilities": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
}


def in_plan_axes(values: Sequence[float], plan: Plan) -> Float3:
    """Three values along (k, j, i) in the plan's axis order."""
    return cast(Float3, tuple(values[axis] for axis in plan.transpose_forward))
