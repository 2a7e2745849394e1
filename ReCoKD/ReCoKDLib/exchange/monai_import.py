"""From a MONAI bundle to a model package.

Read are ``network_def``, ``preprocessing``, ``inferer`` and ``postprocessing`` of the configuration, the metadata and
the weights; nothing of a bundle is run (see :mod:`.monai_config`). The package turns and resamples to the very
positions that the bundle does, gives the network the same intensities, and brings probabilities back the same way:
where one tile suffices, they are MONAI's. Three differences remain. Tiles are ReCoKD's own: half a patch apart at
most and blended by a Gaussian. And on oblique images MONAI, whose test for the first corner fails there by rounding,
aligns the centres of the grids instead of their first voxels, a shift of less than a voxel that goes into the
geometry. And where a bundle normalises by its non-zero voxels after resampling, MONAI's interpolation leaves 1e-14
for some zeros, which it takes for non-zero.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from ..backbones import BACKBONES
from ..card import INTENDED_USE, Card, ChannelInfo, Licences, TrainingRecord
from ..errors import DatasetError, InputError, PackageError
from ..files import sha256
from ..labels import LabelSet
from ..package import require_package_place, write_package
from ..package_files import METADATA, model_name
from ..plan import WHOLE_IMAGE, Architecture, Float3, Plan
from ..resampling import FROM_FIRST_VOXEL
from .checkpoints import read_checkpoint, unwrapped
from .heads import reordered_heads
from .monai_config import BundleFiles, Configuration
from .monai_transforms import Preprocessing, component, read_postprocessing, read_preprocessing, read_roi

if TYPE_CHECKING:
    import torch

_CONFIGURATIONS = tuple(f"configs/inference.{suffix}" for suffix in ("json", "yaml", "yml"))
_WEIGHTS = (".safetensors", ".pt", ".pth")
_NETWORKS = ("UNet", "SegResNet", "DynUNet")
_STATE_KEYS = ("model", "state_dict", "network", "net")
_MODALITIES = {"CT": "CT", "MR": "MR", "MRI": "MR", "PT": "PT", "PET": "PT", "US": "US"}
_LICENCES = {"apache license": "Apache-2.0", "mit license": "MIT", "bsd 3-clause": "BSD-3-Clause"}


@dataclass(frozen=True)
class Network:
    """A bundle's ``network_def``.

    Attributes:
        architecture: Class and arguments.
        channels: Of its input.
        heads: Outputs.
    """

    architecture: Architecture
    channels: int
    heads: int


@dataclass(frozen=True)
class MonaiImport:
    """What was written.

    Attributes:
        path: The package.
        left_out: What the bundle does and the package does not, in words.
    """

    path: Path
    left_out: tuple[str, ...]


def import_monai(
    bundle: Path,
    output: Path,
    *,
    config: str | None = None,
    weights: str | None = None,
    region_order: Sequence[str] | None = None,
    spacing: Float3 | None = None,
    overwrite: bool = False,
) -> MonaiImport:
    """Make a teacher's package of a bundle.

    Args:
        bundle: Its folder or zip file.
        output: The package: a folder, or a file that ends in ``.zip``.
        config: The configuration in the bundle; None for ``configs/inference.json`` (or ``.yaml``, ``.yml``).
        weights: The weights in the bundle; None for the only ones in ``models``, or ``model.*`` among several.
        region_order: For sigmoid outputs: all their names, the outermost region first. In the label map each is
            painted over those before it.
        spacing: Voxel size (x, y, z) of the training images, mm; only for a bundle that does not resample.
        overwrite: Replace an existing package.

    Raises:
        InputError: It is not a bundle, lacks a file, or needs ``region_order`` or ``spacing``.
        PackageError: It does what has no counterpart here, or would have to be run; or its weights are damaged or
            hold more than plain data.
        PlanError: The network cannot be built, or the weights do not fit it.
        DatasetError: Its labels are not told, or are no labels of a segmentation.
        MissingDependencyError: A YAML configuration without PyYAML.
        OutputError: The package exists or cannot be written.
    """
    require_package_place(output, overwrite)
    with BundleFiles(bundle) as files:
        metadata = files.mapping(METADATA)
        name = config or next((known for known in _CONFIGURATIONS if known in files.names), _CONFIGURATIONS[0])
        configuration = Configuration(files.mapping(name), name)
        network = read_network(configuration)
        preprocessing = read_preprocessing(configuration, network.channels)
        has_regions, left_out = read_postprocessing(configuration)
        names = _head_names(metadata, network.heads)
        label_set, order = _labels(names, has_regions, region_order)
        plan = _plan(network, preprocessing, read_roi(configuration), spacing, str(metadata.get("name") or bundle.stem))
        file = weights or _weights_file(files)
        with files.as_file(file) as path:
            state = _state(path, file)
            checksum = sha256(path)
        if order != sorted(order):
            state = reordered_heads(network.architecture, state, order, network.channels)
        left_out = [*preprocessing.left_out, *left_out]
        card = Card(
            name=model_name(output),
            role="teacher",
            channels=_channels(metadata, network.channels),
            description=" ".join(
                part
                for part in (
                    str(metadata.get("description") or metadata.get("name") or "").strip().rstrip(".") + ".",
                    f"Imported from the MONAI bundle {bundle.name} {metadata.get('version', '')}".strip() + ".",
                    f"The bundle's {', '.join(left_out)} is not done here." if left_out else "",
                )
                if part not in ("", ".")
            ),
            orientation=preprocessing.orientation,
            training=TrainingRecord(
                dataset=str(metadata.get("data_source") or ""),
                versions={
                    package: str(metadata[f"{key}_version"])
                    for package, key in (("monai", "monai"), ("torch", "pytorch"), ("numpy", "numpy"))
                    if metadata.get(f"{key}_version")
                },
                options={
                    "bundle": str(metadata.get("name") or bundle.name),
                    "bundle_version": str(metadata.get("version", "")),
                    "configuration": name,
                    "weights": file,
                    "weights_sha256": checksum,
                    "left_out": left_out,
                },
            ),
            metrics={"stated_by_the_bundle": metadata["eval_metrics"]} if metadata.get("eval_metrics") else {},
            licences=_licences(files, metadata),
            intended_use=" ".join(filter(None, (INTENDED_USE, str(metadata.get("intended_use") or "")))),
        )
    path = write_package(output, card, plan, label_set, [state], overwrite)
    return MonaiImport(path, tuple(left_out))


def read_network(configuration: Configuration) -> Network:
    """Read ``network_def``.

    Raises:
        PackageError: It is missing, a class of the bundle's own or an unknown one, or holds more than plain values.
        PlanError: It has an argument that is not known.
    """
    key = "network_def" if "network_def" in configuration else "network"
    if key not in configuration:
        raise PackageError("The bundle has no part 'network_def', so its network is not known. Choose with --config.")
    found = component(configuration, f"@{key}", key)
    if found.target not in _NETWORKS:
        raise PackageError(
            f"The bundle's network is {found.target!r}. Only {', '.join(_NETWORKS)} can be imported from bundles."
        )
    arguments: dict[str, Any] = configuration.value(dict(found.arguments), key)
    _require_no_targets(arguments, key)
    default = {"SegResNet": (3, 1, 2)}.get(found.target, (None, None, None))
    taken = [arguments.pop(k, d) for k, d in zip(("spatial_dims", "in_channels", "out_channels"), default, strict=True)]
    if taken[0] != 3:
        raise PackageError(f"The bundle's network has spatial_dims = {taken[0]!r}; only 3D ones can be imported.")
    if not all(isinstance(n, int) and n > 0 for n in taken[1:]):
        raise PackageError(f"The bundle's network has no plain in_channels and out_channels: {taken[1:]!r}.")
    backbone = BACKBONES[found.target]
    architecture = Architecture(backbone.class_name, arguments, ())
    backbone.check(arguments)
    return Network(architecture, taken[1], taken[2])


def _require_no_targets(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        if "_target_" in value:
            raise PackageError(f"{where} of the bundle holds {value['_target_']!r}; only plain values are understood.")
        for key, item in value.items():
            _require_no_targets(item, f"{where}#{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _require_no_targets(item, f"{where}#{index}")


def _plan(
    network: Network, preprocessing: Preprocessing, roi: tuple[int, int, int], spacing: Float3 | None, dataset: str
) -> Plan:
    if preprocessing.spacing is None and spacing is None:
        raise InputError(
            "The bundle does not resample, so it works only on images of the voxel size that it was trained with. "
            "Say that size in mm with --spacing, such as --spacing 1,1,1 (see the bundle's docs)."
        )
    if preprocessing.spacing is not None and spacing is not None:
        raise InputError(f"The bundle tells its voxel size, {preprocessing.spacing} mm. Leave --spacing out.")
    chosen = preprocessing.spacing or spacing
    assert chosen is not None
    common = {"order_z": 0, "force_separate_z": False, "function": FROM_FIRST_VOXEL}
    return Plan(
        dataset_name=dataset,
        configuration="3d_fullres",
        spacing=chosen,
        patch_size=roi,
        batch_size=2,
        batch_dice=False,
        normalization_schemes=(preprocessing.scheme,) * network.channels,
        use_mask_for_norm=(preprocessing.masked,) * network.channels,
        # MONAI's arrays are (x, y, z), the image's (i, j, k)
        transpose_forward=(2, 1, 0),
        transpose_backward=(2, 1, 0),
        intensity_properties=(preprocessing.intensities,) * network.channels,
        architecture=network.architecture,
        resampling={
            "data": {"is_seg": False, "order": preprocessing.order, **common},
            "seg": {"is_seg": True, "order": 1, **common},
            "probabilities": {"is_seg": False, "order": 1, **common},
        },
        median_shape=(float(roi[0]), float(roi[1]), float(roi[2])),
        original_median_spacing=chosen,
        preprocessor=WHOLE_IMAGE,
    )


def _only(metadata: Mapping[str, Any], side: str, usual: str) -> Mapping[str, Any]:
    """The description of the network's one input or output, empty where there is none."""
    formats = metadata.get("network_data_format")
    entries = formats.get(side) if isinstance(formats, Mapping) else None
    if not isinstance(entries, Mapping) or not entries:
        return {}
    entry = entries.get(usual, next(iter(entries.values())))
    return entry if isinstance(entry, Mapping) else {}


def _names(entry: Mapping[str, Any], count: int) -> list[str]:
    """The names of channels 0, 1, ...; empty unless there is one for each."""
    named = entry.get("channel_def") or entry.get("label_def")
    if not isinstance(named, Mapping):
        return []
    names = {str(key): str(value).strip() for key, value in named.items()}
    return [names[str(n)] for n in range(count)] if names.keys() == {str(n) for n in range(count)} else []


def _head_names(metadata: Mapping[str, Any], heads: int) -> list[str]:
    names = _names(_only(metadata, "outputs", "pred"), heads)
    if not names or not all(names) or len({name.casefold() for name in names}) < heads:
        raise DatasetError(
            f"The bundle does not tell what the {heads} outputs of its network are. Name them in a copy of its "
            f"{METADATA}: network_data_format, outputs, pred, channel_def, such as "
            '{"0": "background", "1": "spleen"}.'
        )
    return names


def _labels(names: Sequence[str], has_regions: bool, order: Sequence[str] | None) -> tuple[LabelSet, list[int]]:
    """What the heads mean, and which of the bundle's outputs each of ours is."""
    if not has_regions:
        if order is not None:
            raise InputError("The bundle's labels do not overlap (softmax). Leave --region-order out.")
        if len(names) < 2 or names[0].casefold() != "background":
            raise DatasetError(
                f"The first output of a network with softmax must be called 'background'; the bundle's is called "
                f"{names[0]!r}. If it is the background, call it so in a copy of its {METADATA}."
            )
        labels: dict[str, Any] = {"background": 0, **{name: value for value, name in enumerate(names) if value}}
        return LabelSet.from_dataset_json({"labels": labels}), list(range(len(names)))
    if order is None and len(names) > 1:
        raise InputError(
            "The bundle's outputs are regions that may overlap (sigmoid). Say in which order they are painted into "
            "one label map, the outermost first: --region-order with these names in the right order: "
            f'"{",".join(names)}".'
        )
    known = {name.casefold(): index for index, name in enumerate(names)}
    asked = [name.strip().casefold() for name in (order or names)]
    if sorted(asked) != sorted(known):
        raise InputError(f'--region-order must name each of the bundle\'s regions once: "{",".join(names)}".')
    positions = [known[name] for name in asked]
    count = len(names)
    regions = {names[position]: list(range(value, count + 1)) for value, position in enumerate(positions, 1)}
    label_set = LabelSet.from_dataset_json(
        {"labels": {"background": 0, **regions}, "regions_class_order": list(range(1, count + 1))}
    )
    return replace(label_set, has_regions=True), positions


def _channels(metadata: Mapping[str, Any], count: int) -> tuple[ChannelInfo, ...]:
    entry = _only(metadata, "inputs", "image")
    names = _names(entry, count) or [f"channel {n}" for n in range(count)]
    modality = _MODALITIES.get(str(entry.get("modality", "")).strip().upper(), "")
    unit = "HU" if modality == "CT" or str(entry.get("format", "")).lower() == "hounsfield" else ""
    return tuple(ChannelInfo(name, modality, unit) if modality else ChannelInfo.named(name) for name in names)


def _weights_file(files: BundleFiles) -> str:
    found = sorted(
        name for name in files.names if re.fullmatch(r"models/[^/]+", name) and name.lower().endswith(_WEIGHTS)
    )
    usual = [name for suffix in _WEIGHTS if (name := f"models/model{suffix}") in found]
    if usual:
        return usual[0]
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{files.path} has several weights: {', '.join(found)}. Choose with --weights.")
    raise InputError(
        f"{files.path} has no weights: no models/model.pt, .pth or .safetensors. They may have to be downloaded "
        "first; a TorchScript file (.ts) cannot be imported."
    )


def _state(path: Path, name: str) -> dict[str, torch.Tensor]:
    """A network's state dictionary as float32."""
    import torch

    content: Mapping[str, Any]
    if PurePosixPath(name).suffix.lower() == ".safetensors":
        import safetensors
        import safetensors.torch

        try:
            content = safetensors.torch.load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise PackageError(f"{name} of the bundle is no safetensors file ({error}). Get it again.") from error
    else:
        content = read_checkpoint(path)
    inner: list[Any] = [content[key] for key in _STATE_KEYS if isinstance(content.get(key), Mapping)]
    if inner:
        content = inner[0]
    if not content or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise PackageError(
            f"{name} of the bundle holds no network: neither weights nor one of {', '.join(_STATE_KEYS)} with them. "
            "Choose with --weights."
        )
    return {key: t.float() if t.is_floating_point() else t for key, t in unwrapped(content).items()}


def _licences(files: BundleFiles, metadata: Mapping[str, Any]) -> Licences:
    text = files.text("LICENSE") or files.text("LICENSE.txt") or files.text("docs/license.txt")
    beginning = " ".join(text[:2000].split())
    known = next((name for words, name in _LICENCES.items() if words in beginning.lower()), beginning[:100])
    parts = [str(metadata[key]) for key in ("authors", "copyright", "data_source") if metadata.get(key)]
    if "docs/data_license.txt" in files.names:
        parts.append("The bundle's docs/data_license.txt tells the licence of the training data")
    return Licences(weights=f"{known} (the bundle's LICENSE)" if known else "", attribution=". ".join(parts))
