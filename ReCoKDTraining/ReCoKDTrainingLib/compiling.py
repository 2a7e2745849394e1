"""The teacher's network, compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from .distiller import Distiller
from .losses.base import NetworkOutputs
from .recorders import EncoderDecoderRecorder


class CompiledRecorder(EncoderDecoderRecorder):
    """Runs the compiled encoder and decoder of one network, whose modules and weights' names stay as they are.

    Args:
        network: One of nnU-Net's.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        parts = cast(Any, network)
        self._encoder, self._decoder = torch.compile(parts.encoder), torch.compile(parts.decoder)

    def run(self, network: nn.Module, images: Tensor, with_logits: bool) -> NetworkOutputs:
        """Of the network that it was made for."""
        return self._outputs(self._encoder, self._decoder, images, with_logits)


def compile_teacher(distiller: Distiller, images: Tensor, say: Callable[[str], None]) -> None:
    """Compile what of the teacher is used, and run it once; where that is not possible, say why and leave it as it is.

    Args:
        distiller: On its device; without teacher there is nothing to do.
        images: (B, C, D, H, W), a batch on the device: it is compiled for this shape.
        say: Told what was done.
    """
    plain = distiller.teacher_recorder
    if distiller.teacher is None:
        return
    if not isinstance(plain, EncoderDecoderRecorder):
        say("The teacher is not compiled: that is possible for nnU-Net's own networks only.")
        return
    if plain.decoder:
        say("The teacher is not compiled: the losses read stages inside its decoder.")
        return
    try:
        distiller.teacher_recorder = CompiledRecorder(distiller.teacher)
        distiller.teacher_outputs(images, distiller.needs_teachers_logits)
        say("The teacher is compiled.")
    except Exception as error:  # each compiler and system fails in its own way
        distiller.teacher_recorder = plain
        # The first paragraph: what follows is for those who mend compilers.
        reason = " ".join(str(error).strip().partition("\n\n")[0].split()).rstrip(".") or type(error).__name__
        say(f"The teacher cannot be compiled here ({reason}). Training goes on without.")
