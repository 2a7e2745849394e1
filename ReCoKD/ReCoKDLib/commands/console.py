"""What several commands share: lists in arguments, a progress bar."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def comma_separated(text: str) -> list[str]:
    """``"A, B"`` to names, for ``type=`` of an argument."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError("name at least one structure, such as --labels Anterior,Posterior")
    return names


def add_running(command: argparse.ArgumentParser) -> None:
    """How the network is run: what ``segment`` and ``batch`` share."""
    command.add_argument(
        "--engine",
        default="auto",
        choices=("auto", "torch", "openvino", "onnxruntime"),
        help="what runs the network; auto times on a CPU what is installed, once for each student (default)",
    )
    command.add_argument(
        "--precision",
        default="f32",
        choices=("auto", "f32", "bf16"),
        help="bf16 is faster on some CPUs; auto takes it where the student's card shows that it keeps the labels "
        "(default: %(default)s)",
    )
    command.add_argument(
        "--memory",
        type=gigabytes,
        metavar="GB",
        help="the most that a process may take; with smaller tiles, which change the result a little, where needed",
    )


def gigabytes(text: str) -> float:
    """A positive number, for ``type=`` of an argument."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no size in GB, such as 3 or 1.5")
    return number


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[float], None]]:
    """A bar on stderr, where that is a terminal."""
    from tqdm import tqdm

    layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    with tqdm(total=1.0, desc=description, bar_format=layout, leave=False, disable=None) as bar:

        def show(fraction: float) -> None:
            bar.update(fraction - bar.n)

        yield show
