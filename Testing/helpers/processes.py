"""Processes of tests: run to their end, and whether they are still there."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path


def alive(pid: int) -> bool:
    """Whether a process is there and not just waiting to be buried."""
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def gone(pid: int, seconds: float = 5.0) -> bool:
    until = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.02)
    return not alive(pid)


def run_on_host(code: str, repository: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code that may import ``slicer_host`` and ``ReCoKDLib``, in a process of its own."""
    path = os.pathsep.join((str(repository / "ReCoKD"), str(repository / "Testing" / "helpers")))
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
