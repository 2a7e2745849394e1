"""How often a U-Net pools for a given patch, and what that costs: nnU-Net v2's rules (Isensee et al.
2021)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from ReCoKDLib.plan import Architecture, Float3, Int3

MIN_EDGE = 4  # voxels of the deepest feature map along each axis
BASE_FEATURES = 32
MAX_FEATURES = 320


@dataclass(frozen=True)
class Topology:
    """The shape of a U-Net, all but its heads.

    Attributes:
        patch_size: Voxels along the plan's axes, divisible by the strides.
        strides: Of each encoder stage; the first is (1, 1, 1).
        kernel_sizes: Of each encoder stage.
    """

    patch_size: Int3
    strides: tuple[Int3, ...]
    kernel_sizes: tuple[Int3, ...]

    @property
    def stages(self) -> int:
        """Resolution stages, the bottleneck counted."""
        return len(self.strides)

    @property
    def divisor(self) -> Int3:
        """What the patch size must be divisible by along each axis."""
        return cast(Int3, tuple(math.prod(stride[axis] for stride in self.strides) for axis in range(3)))

    @property
    def features(self) -> tuple[int, ...]:
        """Channels of each stage: 32, doubled at each, 320 at most."""
        return tuple(min(MAX_FEATURES, BASE_FEATURES << stage) for stage in range(self.stages))

    def architecture(self, backbone: str) -> Architecture:
        """The full-size network of a backbone with these stages.

        Raises:
            PlanError: It has no such network.
        """
        return Architecture.for_topology(backbone, self.features, self.strides, self.kernel_sizes)

    def feature_map_values(self, heads: int, backbone: str = "PlainConvUNet") -> int:
        """How many numbers the outputs of all convolutions hold for one patch; the memory of training follows
        it.

        Counted are, as in nnU-Net's estimate, the convolutions of each encoder stage (of a residual block two; one
        more in each stage's first skip, or in the stem) and, for each decoder stage, the transposed convolution, its
        other convolutions, and the head at full resolution.

        Args:
            heads: Outputs of the network.
            backbone: Name of one of nnU-Net's network classes.
        """
        kwargs = self.architecture(backbone).arch_kwargs
        blocks = kwargs.get("n_blocks_per_stage")
        encoder = kwargs["n_conv_per_stage"] if blocks is None else [2 * n + 1 for n in blocks]
        decoder = [*(1 + n for n in kwargs["n_conv_per_stage_decoder"]), 0]
        size = list(self.patch_size)
        total = heads * math.prod(size)
        for stage, (stride, features) in enumerate(zip(self.strides, self.features, strict=True)):
            size = [n // s for n, s in zip(size, stride, strict=True)]
            total += (encoder[stage] + decoder[stage]) * features * math.prod(size)
        return total


def topology_for(spacing: Float3, patch_size: Sequence[float]) -> Topology:
    """The pooling for a patch of about ``patch_size`` voxels of ``spacing`` mm.

    An axis is halved as long as at least :data:`MIN_EDGE` voxels remain, finer axes first until all are
    within a factor of two. The patch size is rounded up to what the strides divide.
    """
    size = [float(n) for n in patch_size]
    resolution = [float(s) for s in spacing]
    strides: list[Int3] = [(1, 1, 1)]
    while large := [axis for axis in range(3) if size[axis] >= 2 * MIN_EDGE]:
        finest = min(resolution[axis] for axis in large)
        pooled = [axis for axis in large if resolution[axis] / finest < 2]
        if len(pooled) == 1 and size[pooled[0]] < 3 * MIN_EDGE:
            break
        strides.append(cast(Int3, tuple(2 if axis in pooled else 1 for axis in range(3))))
        for axis in pooled:
            resolution[axis] *= 2
            size[axis] = math.ceil(size[axis] / 2)
    kernels = kernels_for(spacing, strides)
    divisor = Topology((1, 1, 1), tuple(strides), kernels).divisor
    rounded = tuple(math.ceil(n / d) * d for n, d in zip(patch_size, divisor, strict=True))
    return Topology(cast(Int3, rounded), tuple(strides), kernels)


def kernels_for(spacing: Float3, strides: Sequence[Int3]) -> tuple[Int3, ...]:
    """The kernel of each stage: it spans an axis once that is within a factor of two of the finest; all, at last."""
    resolution = [float(s) for s in spacing]
    kernel = [1, 1, 1]
    kernels: list[Int3] = []
    for stride in strides[1:]:
        for axis in range(3):
            if resolution[axis] / min(resolution) < 2:
                kernel[axis] = 3
        kernels.append((kernel[0], kernel[1], kernel[2]))
        resolution = [r * s for r, s in zip(resolution, stride, strict=True)]
    return (*kernels, (3, 3, 3))


def topology_within(spacing: Float3, patch_size: Int3) -> Topology:
    """The pooling for exactly this patch: as :func:`topology_for`, as far as the patch can be halved."""
    left = list(patch_size)
    strides: list[Int3] = [(1, 1, 1)]
    for wanted in topology_for(spacing, patch_size).strides[1:]:
        stride = cast(Int3, tuple(s if n % s == 0 else 1 for n, s in zip(left, wanted, strict=True)))
        if stride == (1, 1, 1):
            break
        strides.append(stride)
        left = [n // s for n, s in zip(left, stride, strict=True)]
    return Topology(patch_size, tuple(strides), kernels_for(spacing, strides))
