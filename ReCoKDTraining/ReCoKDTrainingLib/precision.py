"""Which number format a device computes fastest in without harm."""

from __future__ import annotations

import torch

from ReCoKDLib.errors import ReCoKDError

CHOICES = ("auto", "bf16", "off")


def autocast_dtype(device: torch.device, choice: str = "auto") -> torch.dtype | None:
    """bfloat16 where the device has instructions for it, else None (float32).

    ``bf16`` asks for it everywhere, ``off`` nowhere. float16 is not offered: it needs loss scaling, and every GPU
    with tensor cores of the last generations has bfloat16.
    """
    if choice not in CHOICES:
        raise ReCoKDError(f"The precision must be one of {', '.join(CHOICES)}, not {choice!r}.")
    if choice == "off":
        return None
    if choice == "bf16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
    if device.type == "cpu":
        # Without these instructions bfloat16 on a CPU is emulated, and slower than float32. torch has no public
        # question for them in all versions that we support.
        ask = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
        return torch.bfloat16 if ask is not None and ask() else None
    return None
