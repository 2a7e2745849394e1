"""A script in a process that another program watches: it says its number, and ends politely when it is asked to.

The other program writes to the standard input, as that works on every platform: first :data:`HELLO` of
:mod:`ReCoKDLib.worker`, later perhaps :data:`STOP`. The end of the standard input (the other program died) is a
request to stop as well, so that nothing is left behind. The script hears of it as of a SIGTERM.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from .worker import is_dismissed, say

STOP = b"s"

# Runs without an installed library, and without an environment that would have to be changed.
_CODE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from ReCoKDLib.watched import main; main(sys.argv[1:])"


def command(python: str, script: Path, arguments: Sequence[str]) -> list[str]:
    """The command line that runs a script: program and arguments."""
    return [python, "-u", "-X", "utf8", "-c", _CODE, str(Path(__file__).resolve().parents[1]), str(script), *arguments]


def main(arguments: Sequence[str]) -> None:
    """Run a script, given with its own arguments, as Python itself would."""
    say(pid=os.getpid())
    threading.Thread(target=_listen, daemon=True).start()
    sys.argv = list(arguments)
    runpy.run_path(arguments[0], run_name="__main__")


def _listen() -> None:
    """Wait for a request."""
    if not is_dismissed(STOP):
        return
    if signal.getsignal(signal.SIGTERM) in (signal.SIG_DFL, None):
        os._exit(3)  # it has not begun, so nothing is lost
    signal.raise_signal(signal.SIGTERM)
