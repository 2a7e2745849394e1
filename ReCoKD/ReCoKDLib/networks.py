"""Building the networks that a plan describes, and their weights."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .errors import PlanError
from .plan import _IMPORTABLE, Architecture


def _imported(name: str) -> Any:
    if name not in _IMPORTABLE:
        raise PlanError(f"The plan's network uses {name!r}, which is not on the list of known classes.")
    module, _, attribute = name.rpartition(".")
    return getattr(importlib.import_module(module), attribute)


def build_network(
    architecture: Architecture, in_channels: int, out_channels: int, deep_supervision: bool = False
) -> nn.Module:
    """The network with its class's own initialisation (nnU-Net's: He, negative slope 0.01; zero last norm in
    residual blocks).

    It returns one (B, out, D, H, W) tensor, or with deep supervision a list, full resolution first (a class that
    has one output only gives the tensor).

    Raises:
        PlanError: The class is not known or refuses its arguments.
    """
    backbone = architecture.backbone
    backbone.check(architecture.arch_kwargs)
    kwargs = dict(architecture.arch_kwargs)
    for key in architecture.requires_import:
        if kwargs.get(key) is not None:
            kwargs[key] = _imported(kwargs[key])
    try:
        return backbone.build(kwargs, in_channels, out_channels, deep_supervision)
    except (TypeError, AssertionError, ValueError, KeyError, IndexError, AttributeError) as error:
        reason = str(error).strip().rstrip(".")
        raise PlanError(f"The plan's network cannot be built: {reason}. Restore plans.json.") from error


def count_parameters(module: nn.Module) -> int:
    """Number of parameters, deep-supervision heads included."""
    return sum(parameter.numel() for parameter in module.parameters())


def _aliases(network: nn.Module) -> dict[str, str]:
    """Each key of the state dictionary and the first key that names the same tensor.

    The network classes register modules more than once (``decoder.encoder``, ``all_modules``), so that the
    state dictionary has each tensor up to four times.
    """
    first: dict[int, str] = {}
    return {key: first.setdefault(id(tensor), key) for key, tensor in network.state_dict(keep_vars=True).items()}


def plain_state(network: nn.Module) -> dict[str, torch.Tensor]:
    """The state dictionary with each tensor once, under its first key; detached, not copied."""
    state = network.state_dict()
    return {key: state[key] for key, first in _aliases(network).items() if key == first}


def check_weights(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights as :func:`plain_state` has them, if they fit the network exactly (which may be on "meta").

    Args:
        network: What they are for.
        weights: A full state dictionary, as nnU-Net's, or a plain one.

    Raises:
        PlanError: A key is missing, unexpected or of another shape; the first one is named.
    """
    aliases = _aliases(network)
    expected = network.state_dict()
    for key, first in aliases.items():
        if first not in weights:
            raise PlanError(
                f"The weights do not fit the plan: {first} is missing. Use the plan they were trained with."
            )
        found = weights.get(key, weights[first])
        if found.shape != expected[key].shape:
            raise PlanError(
                f"The weights do not fit the plan: {key} has shape {tuple(found.shape)}, "
                f"the plan's network {tuple(expected[key].shape)}. Use the plan they were trained with."
            )
    for key in weights:
        if key not in expected:
            raise PlanError(
                f"The weights do not fit the plan: {key} is not in its network. Use the plan they were trained with."
            )
    return {key: weights[key] for key, first in aliases.items() if key == first}


def load_weights(network: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Load a state dictionary exactly; see :func:`check_weights` for what is accepted and raised."""
    plain = check_weights(network, weights)
    network.load_state_dict({key: plain[first] for key, first in _aliases(network).items()})
