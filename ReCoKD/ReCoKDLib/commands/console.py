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


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[float], None]]:
    """A bar on stderr, where that is a terminal."""
    from tqdm import tqdm

    layout = "{desc} {percentage:3.0f}%|{bar}| {elapsed}, {remaining} left"
    with tqdm(total=1.0, desc=description, bar_format=layout, leave=False, disable=None) as bar:

        def show(fraction: float) -> None:
            bar.update(fraction - bar.n)

        yield show
