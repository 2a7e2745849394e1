"""A bad case as a picture: the reference and each model, in three slices through the student's errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ReCoKDLib.files import atomic_file
from ReCoKDLib.picture import central_voxel
from ReCoKDLib.slice_view import PLANES, draw_slice, grey_window
from ReCoKDLib.table import segment_mask

from .comparison import WorstCase

_PANEL = 3.6  # inches; what is written into a slice needs them


def draw_worst_case(case: WorstCase, student: str, path: Path) -> None:
    """Draw a row of three slices for the reference and for each model to a PNG file.

    The slices pass through the middle of the voxels where student and reference differ.

    Raises:
        OutputError: The file cannot be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = case.volume.with_array(case.volume.array[:1]).reoriented("RAS")
    rows = {
        name: (case.volume.with_array(labels.array).reoriented("RAS"), segments)
        for name, (labels, segments) in case.drawn.items()
    }
    reference, structures = rows["reference"]
    guess, guessed = rows[student]
    wrong = np.zeros(shown.shape, dtype=bool)
    for one, two in zip(structures, guessed, strict=True):
        wrong |= segment_mask(reference.array[0], one) != segment_mask(guess.array[0], two)
    middle = (shown.shape[0] // 2, shown.shape[1] // 2, shown.shape[2] // 2)
    centre = central_voxel(wrong) if wrong.any() else middle
    window = grey_window(shown, reference)
    field = 1.04 * max(n * mm for n, mm in zip(shown.shape, shown.spacing, strict=True))
    figure = Figure(figsize=(_PANEL * len(PLANES), _PANEL * len(rows)), dpi=85, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(PLANES), squeeze=False)
    for line, (name, (labels, segments)) in zip(axes, rows.items(), strict=True):
        for ax, plane in zip(line, PLANES, strict=True):
            draw_slice(ax, plane, shown, labels, segments, centre, window, field)
        line[0].set_ylabel(name, fontsize=9)
    with atomic_file(path, overwrite=True) as temporary:
        figure.savefig(temporary, format="png", facecolor="white")
