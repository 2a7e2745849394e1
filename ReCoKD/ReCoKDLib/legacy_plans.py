"""Plans of earlier nnU-Net v2 releases, brought to the present form.

Until 2.3 a configuration described its network by the arguments of a U-Net (``UNet_class_name``,
``UNet_base_num_features`` ...) and what no plan varied was fixed in the code: instance normalisation, leaky ReLU,
biases. Many published models, TotalSegmentator's among them, are of that age.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .backbones.nnunet_networks import PlainConvUNet, ResidualEncoderUNet
from .errors import PlanError

_UNETS = {unet.name: unet for unet in (PlainConvUNet(), ResidualEncoderUNet())}


def with_architecture(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the ``architecture`` that plans have since 2.3, reconstructed where it is missing.

    Args:
        configuration: Of a ``plans.json``, inheritance resolved.

    Raises:
        PlanError: The network was of an unknown class.
        KeyError: An entry is missing.
    """
    if "architecture" in configuration:
        architecture = dict(configuration["architecture"])
        class_name = str(architecture["network_class_name"])
        # The classes moved between modules of their library; nnU-Net too goes by the last part then.
        short = class_name.rpartition(".")[2]
        if class_name.startswith("dynamic_network_architectures.") and short in _UNETS:
            architecture["network_class_name"] = _UNETS[short].class_name
        return {**configuration, "architecture": architecture}
    name = configuration["UNet_class_name"]
    if name not in _UNETS:
        raise PlanError(f"The plan's network class {name!r} is not known. Known: {', '.join(_UNETS)}.")
    unet = _UNETS[name]
    encoder = configuration["n_conv_per_stage_encoder"]
    first, largest = int(configuration["UNet_base_num_features"]), int(configuration["unet_max_num_features"])
    architecture = {
        "network_class_name": unet.class_name,
        "arch_kwargs": unet.planned(
            [min(first * 2**stage, largest) for stage in range(len(encoder))],
            configuration["pool_op_kernel_sizes"],
            configuration["conv_kernel_sizes"],
            encoder,
            configuration["n_conv_per_stage_decoder"],
        ),
        "_kw_requires_import": list(unet.imports),
    }
    return {**configuration, "architecture": architecture}


def intensity_properties(plans: Mapping[str, Any]) -> Mapping[str, Mapping[str, float]]:
    """The foreground's intensities by channel, under the present name or the first releases'."""
    for key in ("foreground_intensity_properties_per_channel", "foreground_intensity_properties_by_modality"):
        if plans.get(key):
            found: Mapping[str, Mapping[str, float]] = plans[key]
            return found
    return {}
