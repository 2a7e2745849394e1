"""Augmentation on a device: there, without waiting for it, and with the same result as on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from other_device import OnOtherDevice, other_device, to_other_device, values
from plans import small_plan
from ReCoKDTrainingLib.augmentation import augments_on, source_patch_size, training_transforms
from ReCoKDTrainingLib.sampling import seeded

PATCHES = [(16, 16, 16), (4, 32, 32)]


def always(transforms: Any) -> Any:
    """The same with every part applied, to every channel."""
    for one in transforms.transforms:
        inner = getattr(one, "transform", one)
        inner = getattr(inner, "transform", inner)
        if hasattr(one, "apply_probability"):
            one.apply_probability = 1.0
        for name in ("p_rotation", "p_scaling", "p_per_channel"):
            if hasattr(inner, name):
                setattr(inner, name, 1.0)
    return transforms


def sample(shape: tuple[int, ...], seed: int) -> tuple[Tensor, Tensor]:
    """Noise, and cubes of four labels and of no image; two channels."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(-1, 4, [n // 3 + 1 for n in shape])
    labels = coarse.repeat(3, 0).repeat(3, 1).repeat(3, 2)[tuple(slice(n) for n in shape)]
    image = rng.normal(size=(2, *shape)).astype(np.float32)
    return torch.from_numpy(image), torch.from_numpy(labels.astype(np.int16)[None])


@pytest.mark.parametrize("patch", PATCHES, ids=["cube", "flat"])
@pytest.mark.parametrize("everything", [True, False])
def test_it_stays_on_the_device_and_is_the_same_there(patch: tuple[int, int, int], everything: bool) -> None:
    plan = small_plan(patch_size=patch, masked=True)
    ours, theirs = (training_transforms(plan, any_device=device) for device in (True, False))
    if everything:
        ours, theirs = always(ours), always(theirs)
    for seed in range(2 if everything else 6):
        image, labels = sample(source_patch_size(patch), seed)
        with seeded([seed]), other_device():
            made = ours(image=to_other_device(image), segmentation=to_other_device(labels))
        with seeded([seed]):
            expected = theirs(image=image, segmentation=labels)
        assert values(made["image"]).shape == (2, *patch)
        assert torch.allclose(values(made["image"]), expected["image"], atol=1e-4)
        assert torch.equal(values(made["segmentation"]), expected["segmentation"])


@pytest.mark.parametrize(
    "work",
    [
        lambda there, here: there + here,
        lambda there, here: there.cpu(),
        lambda there, here: there.sum().item(),
        lambda there, here: there.numpy(),
        lambda there, here: bool(there[0] > 0),
    ],
)
def test_the_other_device_refuses_what_a_gpu_does_and_what_waits_for_it(work: Any) -> None:
    here = torch.ones(3)
    with other_device(), pytest.raises((AssertionError, TypeError, RuntimeError)):
        work(to_other_device(here), here)


def test_the_library_alone_does_not_stay_there() -> None:
    """Else none of this would be needed."""
    plan = small_plan(patch_size=PATCHES[0])
    transforms = always(training_transforms(plan))
    image, labels = sample(source_patch_size(PATCHES[0]), 0)
    with other_device(), pytest.raises((AssertionError, TypeError, RuntimeError)):
        transforms(image=to_other_device(image), segmentation=to_other_device(labels))


def test_what_is_made_there_is_there() -> None:
    with other_device() as device:
        made = torch.zeros(3, device=device)
        assert isinstance(made, OnOtherDevice)
        assert isinstance(made + 1, OnOtherDevice)
        assert not isinstance(torch.zeros(3), OnOtherDevice)
        changed = made.add_(2)
    assert values(changed).tolist() == values(made).tolist() == [2, 2, 2]


def test_where_it_is_done() -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    assert augments_on(gpu)
    assert not augments_on(cpu)
    assert not augments_on(torch.device("mps"))
    assert augments_on(cpu, "device")
    assert not augments_on(gpu, "workers")
