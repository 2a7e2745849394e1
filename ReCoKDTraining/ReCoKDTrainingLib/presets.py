"""nnU-Net v2's planners by name: what distinguishes the default one and the residual encoders M, L and XL.

Isensee et al., "nnU-Net Revisited", MICCAI 2024 (arXiv 2404.09556), for the latter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .topology import Topology


@dataclass(frozen=True)
class Preset:
    """A planner.

    Attributes:
        backbone: Name of the network class that it plans.
        plans_name: What nnU-Net calls its plans.
        memory_gb: GPU memory that it is meant for.
        reference_values: Feature map values of a network that trains with two patches a step in ``memory_gb``, as
            nnU-Net measured.
        share_of_dataset: The part of the dataset's voxels that one step may see at most, against overfitting.
    """

    backbone: str
    plans_name: str
    memory_gb: float
    reference_values: int
    share_of_dataset: float


PRESETS: Mapping[str, Preset] = {
    "default": Preset("PlainConvUNet", "nnUNetPlans", 8, 560_000_000, 0.05),
    "resenc-m": Preset("ResidualEncoderUNet", "nnUNetResEncUNetMPlans", 8, 680_000_000, 1),
    "resenc-l": Preset("ResidualEncoderUNet", "nnUNetResEncUNetLPlans", 24, 2_100_000_000, 1),
    "resenc-xl": Preset("ResidualEncoderUNet", "nnUNetResEncUNetXLPlans", 40, 3_600_000_000, 1),
}


@dataclass(frozen=True)
class Budget:
    """What a network with two patches a step may take.

    Attributes:
        preset: The planner.
        heads: Of the network.
        memory_gb: GPU memory that a training step may take.
    """

    preset: Preset
    heads: int
    memory_gb: float

    @property
    def values(self) -> float:
        """Feature map values that fit."""
        return self.preset.reference_values * (self.memory_gb / self.preset.memory_gb)

    def cost(self, topology: Topology) -> int:
        """Feature map values of the preset's network for one patch."""
        return topology.feature_map_values(self.heads, self.preset.backbone)
