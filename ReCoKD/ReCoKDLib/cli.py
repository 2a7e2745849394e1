"""The command ``recokd``: segment volumes, import, export, inspect and list models."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence

from . import __version__
from .commands import batch, export_model, import_model, segment, students
from .errors import Cancelled, ReCoKDError

_CANCELLED = 130  # what shells report for a program that Ctrl-C ended


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0 when all went well, 1 when cases of a batch failed, 2 after an error that the user can mend (told on stderr),
        130 when cancelled.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="replace")  # a console that lacks a letter is no reason to fail
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int | None] = arguments.run
    try:
        return run(arguments) or 0
    except (Cancelled, KeyboardInterrupt):
        print("recokd: cancelled", file=sys.stderr)
        return _CANCELLED
    except ReCoKDError as error:
        print(f"recokd: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # `recokd inspect ... | head`; what is not yet written must not fail at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="recokd",
        description="Segment volumes with distilled networks. Research use only, not a medical device.",
    )
    parser.add_argument("--version", action="version", version=f"recokd {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    for command in (segment, batch, import_model, export_model, students):
        command.add_to(commands)
    return parser
