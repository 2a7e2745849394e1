"""Patches as a function of (seed, sample number), so that a resumed run sees what an uninterrupted one would."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from ReCoKDLib.labels import LabelSet
from ReCoKDLib.plan import Int3, Plan
from ReCoKDLib.preprocessing import OUTSIDE

from .augmentation import source_patch_size, training_transforms
from .cache import CachedCase

KEPT_LOCATIONS = 32  # cases whose voxels to centre on a worker keeps in memory
FOREGROUND_EVERY = 3  # one patch in three is centred on a foreground voxel


@contextmanager
def seeded(seed: Sequence[int]) -> Iterator[None]:
    """Seed NumPy's and torch's global generators, which batchgeneratorsv2 draws from, and put them back after.

    Those of GPUs are seeded too, and not put back: whatever draws from them seeds them first.
    """
    numpy_state = np.random.get_state()  # noqa: NPY002 - the library's generator is this one
    torch_state = torch.random.get_rng_state()
    first, second = np.random.SeedSequence(list(seed)).generate_state(2)
    np.random.seed(int(first))  # noqa: NPY002
    torch.random.manual_seed(int(second))
    try:
        yield
    finally:
        np.random.set_state(numpy_state)  # noqa: NPY002
        torch.random.set_rng_state(torch_state)


def cut(array: npt.NDArray[np.generic], start: Sequence[int], size: Sequence[int], outside: float) -> torch.Tensor:
    """A box of (channel, x, y, z) that may reach over the border, filled with ``outside`` there; a copy."""
    shape = array.shape[1:]
    result = np.full((array.shape[0], *size), outside, dtype=array.dtype)
    inner = [slice(max(s, 0), min(s + n, length)) for s, n, length in zip(start, size, shape, strict=True)]
    if all(box.stop > box.start for box in inner):
        place = tuple(slice(box.start - s, box.stop - s) for box, s in zip(inner, start, strict=True))
        result[(slice(None), *place)] = array[(slice(None), *inner)]
    return torch.from_numpy(result)


def patch_start(
    rng: np.random.Generator,
    shape: Sequence[int],
    source: Sequence[int],
    patch: Sequence[int],
    centre: Sequence[int] | None,
) -> list[int]:
    """First voxel of the source box: around ``centre`` as far as the border allows, or anywhere.

    A box may reach over the border by the margin that the spatial augmentation will cut off again, and images
    smaller than the box lie in its middle (nnU-Net's rule).
    """
    start = []
    for axis in range(3):
        margin = max(source[axis] - patch[axis], source[axis] - shape[axis])
        lowest = -(margin // 2)
        highest = shape[axis] + margin - margin // 2 - source[axis]
        if centre is None:
            start.append(int(rng.integers(lowest, highest + 1)))
        else:
            start.append(min(max(centre[axis] - source[axis] // 2, lowest), highest))
    return start


class PatchDataset(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Augmented patches by number: sample ``n`` is the same whenever and wherever it is asked for.

    Args:
        cases: Preprocessed cases, each as likely as another but for ``unlabelled_weight``.
        plan: Patch size and channels.
        label_set: Classes to centre on.
        seed: Of the run.
        length: Number of samples of the whole run.
        mirror_axes: Axes that augmentation may flip.
        augment: Whether to augment (else the patch is cut without margin).
        on_device: Whether samples come as they were cut, for :meth:`augmented` to augment whole batches on the device.
        unlabelled_weight: How often a case without annotation is drawn, beside one with.
    """

    def __init__(
        self,
        cases: Sequence[CachedCase],
        plan: Plan,
        label_set: LabelSet,
        seed: int,
        length: int,
        mirror_axes: tuple[int, ...] = (0, 1, 2),
        augment: bool = True,
        unlabelled_weight: float = 1.0,
        on_device: bool = False,
    ) -> None:
        self.cases = tuple(cases)
        self.seed = seed
        self.length = length
        self.patch_size: Int3 = plan.patch_size
        self.source_size: Int3 = source_patch_size(plan.patch_size) if augment else plan.patch_size
        self.transforms = training_transforms(plan, mirror_axes, on_device) if augment else None
        self.on_device = on_device
        self.ignore_label = label_set.ignore_label
        weights = np.array([1.0 if case.labelled else unlabelled_weight for case in self.cases])
        # Without weights the draw stays the one that it is in nnU-Net.
        self._shares = None if np.all(weights == weights[0]) else weights / weights.sum()
        self._locations: dict[int, dict[str, npt.NDArray[np.int32]]] = {}

    def __len__(self) -> int:
        return self.length

    def _centre(self, rng: np.random.Generator, case: int, foreground: bool) -> npt.NDArray[np.int32] | None:
        known = self._locations.pop(case, None) or self.cases[case].locations()
        self._locations[case] = known  # the last one used is the last one of the dictionary
        if len(self._locations) > KEPT_LOCATIONS:
            del self._locations[next(iter(self._locations))]
        classes = sorted(name for name in known if name != "annotated")
        if foreground and classes:
            voxels = known[classes[rng.integers(len(classes))]]
        elif self.ignore_label is not None and "annotated" in known:
            voxels = known["annotated"]  # nobody learns from a patch without annotation
        else:
            return None
        chosen: npt.NDArray[np.int32] = voxels[rng.integers(len(voxels))]
        return chosen

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(channel, x, y, z) float32 image and (1, x, y, z) int16 labels of the plan's patch size.

        Of the source's size, with :data:`OUTSIDE` where there is no image, if they are augmented later.
        """
        image, target = self._cut(index)
        return (image, target) if self.on_device else self._augmented(image, target, index)

    @torch.no_grad()
    def augmented(
        self, images: torch.Tensor, targets: torch.Tensor, indices: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch as ``on_device`` gives it, augmented on its device.

        Args:
            images: (B, channel, x, y, z) float32; may be changed.
            targets: (B, 1, x, y, z) int16; may be changed.
            indices: Of the samples.
        """
        made = [self._augmented(*sample) for sample in zip(images, targets, indices, strict=True)]
        patches, labels = zip(*made, strict=True)
        return torch.stack(patches), torch.stack(labels)

    def _drawn(self, index: int) -> tuple[int, np.random.Generator]:
        """The case that a sample is of, and the generator for what else is drawn."""
        rng = np.random.default_rng([self.seed, index])
        if self._shares is None:
            return int(rng.integers(len(self.cases))), rng
        return int(rng.choice(len(self.cases), p=self._shares)), rng

    def _cut(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        number, rng = self._drawn(index)
        case = self.cases[number]
        data, labels = case.data(), case.labels()
        centre = self._centre(rng, number, index % FOREGROUND_EVERY == FOREGROUND_EVERY - 1)
        start = patch_start(
            rng,
            data.shape[1:],
            self.source_size,
            self.patch_size,
            None if centre is None else centre.tolist(),
        )
        return cut(data, start, self.source_size, 0), cut(labels, start, self.source_size, OUTSIDE)

    def _augmented(self, image: torch.Tensor, target: torch.Tensor, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if self.transforms is None:
            target[target == OUTSIDE] = 0
        else:
            with seeded([self.seed, index, 1]):
                result = self.transforms(image=image, segmentation=target)
            image, target = result["image"], result["segmentation"]
        if not self.cases[self._drawn(index)[0]].labelled:  # also where the patch reaches out of the image
            assert self.ignore_label is not None
            target = torch.full_like(target, self.ignore_label)
        return image, target
