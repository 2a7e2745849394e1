"""How much memory a piece of work needs at its peak, where the system tells."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

import torch

_PROCESS = Path("/proc/self")


class PeakMemory:
    """Measures the peak while its block runs.

    On a CUDA GPU it is what PyTorch allocated there, on a CPU under Linux the resident memory of the whole process
    (the interpreter and libraries included). Elsewhere it is not known.

    Attributes:
        bytes: The peak after the block; None when it was not wanted or is not known.
    """

    def __init__(self, device: torch.device, wanted: bool = True) -> None:
        self.bytes: int | None = None
        self._cuda = wanted and device.type == "cuda"
        self._process = wanted and device.type == "cpu" and (_PROCESS / "clear_refs").exists()
        self._device = device

    def __enter__(self) -> PeakMemory:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._process:
            try:
                (_PROCESS / "clear_refs").write_text("5", encoding="ascii")  # resets the peak, see proc(5)
            except OSError:
                self._process = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cuda:
            self.bytes = int(torch.cuda.max_memory_allocated(self._device))
        elif self._process:
            for line in (_PROCESS / "status").read_text(encoding="utf-8").splitlines():
                if line.startswith("VmHWM:"):
                    self.bytes = 1024 * int(line.split()[1])
