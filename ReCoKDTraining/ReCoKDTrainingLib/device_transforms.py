"""batchgeneratorsv2's transforms for images on any device.

As they come, they build grids, kernels and label maps on the CPU, whatever the device of the image.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.intensity.gaussian_noise import GaussianNoiseTransform
from batchgeneratorsv2.transforms.spatial.spatial import SpatialTransform
from torch import Tensor
from torch.nn import functional

_SCALE = 1000.0  # as there: of scores that are compared in float16


class AnyDevice(BasicTransform):  # type: ignore[misc]
    """A transform whose parameters are drawn on the CPU, and which computes where the image lies."""

    def __init__(self, transform: BasicTransform) -> None:
        super().__init__()
        self.transform = transform

    def __call__(self, **data: Any) -> Any:
        """As the transform's."""
        image = data["image"]
        stand_in = torch.zeros((), dtype=image.dtype).expand(image.shape)  # parameters depend on its shape alone
        parameters = self.transform.get_parameters(**{**data, "image": stand_in})
        with torch.device(image.device):
            return self.transform.apply(data, **parameters)


class AnyDeviceNoise(GaussianNoiseTransform):  # type: ignore[misc]
    """Noise that is drawn on the image's device, by that device's generator."""

    def _apply_to_image(self, img: Tensor, **params: Any) -> Tensor:
        noisy: Tensor = super()._apply_to_image(img, **{**params, "apply_idx": params["apply_idx"].to(img.device)})
        return noisy


class AnyDeviceSpatial(SpatialTransform):  # type: ignore[misc]
    """Rotation and zoom about the middle (no elastic deformation), with a grid that is made on the image's device.

    The labels are chosen as the library does: the largest of the interpolated indicators, the nearest voxel's where
    several are equally large.
    """

    def _get_base_grid_clone(self) -> Tensor:
        """A single point: the grid is made in :meth:`apply`."""
        return torch.zeros((*(1 for _ in self.patch_size), len(self.patch_size)))

    def apply(self, data_dict: dict[str, Any], **params: Any) -> Any:
        """Rotate and zoom image and segmentation, or cut out their middle where neither was drawn."""
        if params["affine"] is not None:
            params["grid"] = self._grid(params["affine"], data_dict["image"])
        return super().apply(data_dict, **params)

    def _grid(self, affine: Any, image: Tensor) -> Tensor:
        """For ``grid_sample``, from a matrix on (row, column) vectors of voxels about the middle."""
        relative = affine * np.asarray(self.patch_size)[None, :] / np.asarray(image.shape[1:])[:, None]
        # grid_sample counts axes from the last one on
        theta = np.concatenate((relative[::-1, ::-1], np.zeros((len(relative), 1))), axis=1)
        return functional.affine_grid(
            torch.tensor(theta, dtype=torch.float32, device=image.device)[None],
            [1, 1, *self.patch_size],
            align_corners=False,
        )[0]

    def _apply_to_segmentation(self, segmentation: Tensor, **params: Any) -> Tensor:
        if params["affine"] is None:
            cut: Tensor = super()._apply_to_segmentation(segmentation, **params)
            return cut
        grid = params["grid"][None]
        outside = torch.full((1,), self.padding_value_seg, dtype=segmentation.dtype, device=segmentation.device)
        nearest = self._sampled(segmentation - outside, grid, "nearest").to(segmentation.dtype) + outside
        best = score_of_nearest = torch.full_like(nearest, -1, dtype=torch.float16)
        result = nearest
        for value in torch.unique(torch.cat((segmentation.flatten(), outside))):
            # Beyond the image lies the value of what is outside, where grid_sample only knows 0.
            beyond = (value == outside).float() * _SCALE
            indicator = (segmentation == value).float() * _SCALE
            score = (self._sampled(indicator - beyond, grid, "bilinear") + beyond).half()
            result = torch.where(score > best, value, result)
            score_of_nearest = torch.where(nearest == value, score, score_of_nearest)
            best = torch.maximum(best, score)
        return torch.where(torch.eq(score_of_nearest, best), nearest, result)

    @staticmethod
    def _sampled(channels: Tensor, grid: Tensor, mode: str) -> Tensor:
        return functional.grid_sample(channels[None].float(), grid, mode, "zeros", align_corners=False)[0]
