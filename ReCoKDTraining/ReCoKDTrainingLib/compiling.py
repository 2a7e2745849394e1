"""The teacher's network, compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from .agreement import from_all
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

    Of several processes all use it or none does, as they are to compute the same.

    Args:
        distiller: On its device; without teacher there is nothing to do.
        images: (B, C, D, H, W), a batch on the device: it is compiled for this shape.
        say: Told what was done; in all processes the same.

    Raises:
        Cancelled: Another process was asked to stop.
        OtherProcessError: Another one failed, or is gone.
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
    problem = ""
    try:
        distiller.teacher_recorder = CompiledRecorder(distiller.teacher)
        distiller.teacher_outputs(images, distiller.needs_teachers_logits)
    except Exception as error:  # each compiler and system fails in its own way
        # The first paragraph: what follows is for those who mend compilers.
        problem = " ".join(str(error).strip().partition("\n\n")[0].split()).rstrip(".") or type(error).__name__
    problems = from_all(problem)
    failed = next((rank for rank, other in enumerate(problems) if other), None)
    if failed is None:
        say("The teacher is compiled.")
        return
    distiller.teacher_recorder = plain
    where = "here" if len(problems) == 1 else f"in process {failed}"
    say(f"The teacher cannot be compiled {where} ({problems[failed]}). Training goes on without.")
