"""Connectors that start at the least-squares fit, and that learn at a rate of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from distillation_cases import block_labels, network, plain_labels
from ReCoKDLib.errors import ReCoKDError
from ReCoKDTrainingLib.connectors import ConnectorOptions, least_squares
from ReCoKDTrainingLib.distiller import Distiller, WeightedLoss
from ReCoKDTrainingLib.losses import SegmentationLoss, build_loss
from ReCoKDTrainingLib.optimisation import Optimisation

WIDE, NARROW = [16, 24, 32], [4, 6, 8]


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 1, 16, 16, 16, generator=generator), block_labels((16, 16, 16))


def distiller(**options: Any) -> Distiller:
    torch.manual_seed(0)
    labels = plain_labels(2)
    loss = build_loss("reco", teacher_channels=WIDE, student_channels=NARROW, label_set=labels)
    return Distiller(
        network(NARROW),
        network(WIDE),
        SegmentationLoss(labels, 2),
        {"reco": WeightedLoss(loss, 1.0)},
        connectors=ConnectorOptions(**options),
    )


def test_the_fit_is_that_of_an_independent_least_squares() -> None:
    generator = torch.Generator().manual_seed(1)
    student = torch.randn(2, 4, 6, 5, 7, generator=generator) + 3
    mixed = torch.einsum("cd,bdxyz->bcxyz", torch.randn(8, 4, generator=generator), student)
    teacher = mixed + 0.5 * torch.randn(2, 8, 6, 5, 7, generator=generator) - 7
    weight, bias = least_squares(student, teacher)
    x, y = (f.transpose(0, 1).flatten(1).T.double().numpy() for f in (student, teacher))
    expected = np.linalg.lstsq(np.hstack([x, np.ones((len(x), 1))]), y, rcond=None)[0]
    np.testing.assert_allclose(weight.T, expected[:-1], atol=5e-3)
    np.testing.assert_allclose(bias, expected[-1], atol=5e-2)


def test_equal_and_flat_features_have_a_fit_too() -> None:
    student = torch.randn(1, 1, 4, 4, 4).expand(1, 3, 4, 4, 4)
    weight, _ = least_squares(student, student[:, :1] * 2)
    np.testing.assert_allclose(weight.sum(), 2, rtol=1e-3)
    weight, bias = least_squares(torch.ones(1, 3, 4, 4, 4), torch.full((1, 2, 4, 4, 4), 5.0))
    assert torch.equal(weight, torch.zeros(2, 3))
    assert torch.equal(bias, torch.full((2,), 5.0))


def test_fitted_connectors_start_nearer_once_and_say_so_in_a_checkpoint() -> None:
    images, labels = batch()
    random, fitted = distiller(), distiller(start="fitted")
    terms = [made.terms(images, labels, 1.0)[1]["reco"]["fg"].item() for made in (random, fitted)]
    assert terms[1] < 0.8 * terms[0]
    kept = {key: value.clone() for key, value in fitted.adapter_state().items()}
    fitted.terms(images + 1, labels, 1.0)
    assert all(torch.equal(value, kept[key]) for key, value in fitted.adapter_state().items())
    resumed = distiller(start="fitted")
    resumed.load_adapter_state(kept)
    resumed.terms(images + 1, labels, 1.0)
    assert all(torch.equal(value, kept[key]) for key, value in resumed.adapter_state().items())


@pytest.mark.parametrize("rate", [1.0, 10.0])
def test_connectors_learn_at_their_own_rate(rate: float) -> None:
    made = distiller(rate=rate)
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    options = {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 0.0, "gradient_clip": 1e9}
    optimisation = Optimisation(made, **options, seed=0, say=print)
    optimisation.step(*batch(), progress=1.0, rate=0.01, number=0)
    for name, parameter in made.named_parameters():
        if parameter.grad is not None:
            factor = rate if name.startswith("connectors.") else 1.0
            # Nesterov's first step is (1 + momentum) gradients long
            expected = before[name] - 0.01 * factor * 1.9 * parameter.grad
            torch.testing.assert_close(parameter.detach(), expected, rtol=1e-4, atol=1e-6, msg=name)


def test_a_checkpoint_of_another_rate_goes_on_at_this_runs() -> None:
    options = {"learning_rate": 0.01, "momentum": 0.9, "weight_decay": 0.0, "gradient_clip": 1e9}
    slow, fast = (Optimisation(distiller(rate=rate), **options, seed=0, say=print) for rate in (1.0, 10.0))
    fast.load_optimiser(slow.optimiser.state_dict())
    assert [group["factor"] for group in fast.optimiser.param_groups] == [1.0, 10.0]


def test_other_options_are_refused() -> None:
    with pytest.raises(ReCoKDError, match="start random or fitted, not 'zero'"):
        ConnectorOptions("zero")
    with pytest.raises(ReCoKDError, match="above 0, not 0"):
        ConnectorOptions(rate=0)
