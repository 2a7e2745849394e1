"""The network classes that plans may name: one entry for each, and the only place that knows how they differ.

A plan stores a network as plain JSON: a class name and keyword arguments. An entry reads from these arguments what
everybody else needs (widths, strides, where the encoder's stages are) and builds the network. A class that has no
entry, or an argument that its entry does not list, is refused: no name from a file is ever imported.

Adding a network is adding an entry to ``_ENTRIES``. Nothing heavy is imported until :meth:`Backbone.build`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import PlanError
from .base import Backbone, triple
from .monai_networks import DynUNet, SegResNet, UNet
from .nnunet_networks import PlainConvUNet, ResidualEncoderUNet

__all__ = ["BACKBONES", "Backbone", "backbone_of", "triple"]

_ENTRIES: tuple[Backbone, ...] = (PlainConvUNet(), ResidualEncoderUNet(), DynUNet(), SegResNet(), UNet())
BACKBONES: Mapping[str, Backbone] = {entry.name: entry for entry in _ENTRIES}
_BY_CLASS = {entry.class_name: entry for entry in _ENTRIES}


def backbone_of(class_name: str) -> Backbone:
    """The entry of a plan's network class.

    Raises:
        PlanError: There is none; the message names the class and lists what there is.
    """
    if class_name not in _BY_CLASS:
        raise PlanError(f"The network class {class_name!r} is not known. Known: {', '.join(_BY_CLASS)}.")
    return _BY_CLASS[class_name]
