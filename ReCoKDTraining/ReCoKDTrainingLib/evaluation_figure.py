"""The figure of an evaluation: every case as a dot, with boxes for quartiles, for each metric and segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from .evaluation import EvaluationResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = npt.NDArray[np.float64]

# Okabe and Ito's colours, told apart by colour-blind readers too; the order starts with the most distant ones.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
_INK = "#222222"
_GROUP = 0.8  # width of a segment's group of models; the rest is the gap to the next segment
_DPI = 300
# Beyond so many boxes in a panel the panels lie below each other instead of side by side.
_BESIDE = 8


@dataclass(frozen=True)
class _Panel:
    metric: str
    title: str
    share: bool  # between 0 and 1, the higher the better


def draw(results: Mapping[str, EvaluationResult], path: Path) -> None:
    """Draw the evaluations of one or more models of the same cases to a PNG file.

    Boxes span the quartiles with the median as a line, whiskers reach to the last case within one and a half times
    the box, diamonds are means. Triangles at the edges stand for cases far outside, and for infinite distances.
    """
    # Not pyplot: it holds global state, and needs a display on some systems.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    first = next(iter(results.values()))
    panels = (
        _Panel("dice", "Dice", True),
        _Panel("hd95", "HD95 (mm)", False),
        _Panel("surface_dice", f"Surface Dice at {first.tolerance:g} mm", True),
    )
    boxes = len(first.segments) * len(results)
    beside = boxes <= _BESIDE
    width = max(2.4, 1.0 + 0.42 * boxes + 0.25 * len(first.segments))
    rows, columns = (1, 3) if beside else (3, 1)
    many = len(results) > 1
    figure = Figure(
        figsize=(min(width, 16) * columns, 3.0 * rows + (0.45 if many else 0.2)),
        dpi=_DPI,
        layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06),
    )
    FigureCanvasAgg(figure)
    axes: Sequence[Axes] = np.atleast_1d(figure.subplots(rows, columns)).ravel().tolist()
    for one, panel in zip(axes, panels, strict=True):
        _draw_panel(one, panel, results)
    for one in axes if beside else axes[-1:]:
        _name_segments(one, first.segments)
    if many:
        handles = [
            axes[0].plot([], [], "s", color=_colour(index), markersize=6, label=name)[0]
            for index, name in enumerate(results)
        ]
        figure.legend(
            handles=handles, loc="outside upper center", ncols=min(len(results), 4), frameon=False, fontsize=9
        )
    names = "" if many else f"{next(iter(results))}, "
    key = "box: quartiles and median; diamond: mean; dot: case"
    figure.supxlabel(f"{names}{len(first.cases)} cases ({key})", fontsize=8, color=_INK)
    figure.savefig(path, format="png", facecolor="white")


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


def _draw_panel(axes: Axes, panel: _Panel, results: Mapping[str, EvaluationResult]) -> None:
    segments = next(iter(results.values())).segments
    slot = _GROUP / len(results)
    groups: list[tuple[float, Values, str]] = []
    for model, result in enumerate(results.values()):
        for index, segment in enumerate(segments):
            # A single model's segments differ in colour; of several models, the models do.
            colour = _colour(model if len(results) > 1 else index)
            place = index + (model - (len(results) - 1) / 2) * slot
            values = result.values(panel.metric, segment)
            groups.append((place, values[~np.isnan(values)], colour))
    low, high = _limits(panel, [values for _, values, _ in groups])
    axes.set_ylim(low, high)
    for place, values, colour in groups:
        finite = values[np.isfinite(values)]
        if finite.size:
            _draw_box(axes, finite, place, slot, colour)
        _mark_beyond(axes, place, colour, "v", {"below": values < low})
        _mark_beyond(
            axes, place, colour, "^", {"above": np.isfinite(values) & (values > high), "infinite": np.isinf(values)}
        )
    _style(axes, panel, segments)


def _limits(panel: _Panel, groups: Sequence[Values]) -> tuple[float, float]:
    """Ends of the value axis: all whiskers, and outliers as far as they leave the boxes legible."""
    finite = [values[np.isfinite(values)] for values in groups]
    finite = [values for values in finite if values.size]
    if not finite:
        return 0.0, 1.0
    everything = np.concatenate(finite)
    quartiles = np.array([np.percentile(values, (25, 75)) for values in finite])
    reach = 1.5 * (quartiles[:, 1] - quartiles[:, 0]) + 1e-3
    low, high = float((quartiles[:, 0] - reach).min()), float((quartiles[:, 1] + reach).max())
    low, high = max(low, float(everything.min())), min(high, float(everything.max()))
    span = max(high - low, 0.05)
    if everything.min() > low - span:
        low = float(everything.min())
    if everything.max() < high + span:
        high = float(everything.max())
    means = [float(values.mean()) for values in finite]
    low, high = min(low, *means), max(high, *means)
    span = max(high - low, 0.05)
    beyond = 0.25 if any((values < low).any() for values in groups) else 0.08
    above = 0.25 if any((values > high).any() for values in groups) else 0.08
    if panel.share:
        return max(low - beyond * span, -0.02), 1.0 + 0.02 * (1 - low)
    return 0.0, high + above * span


def _mark_beyond(
    axes: Axes, place: float, colour: str, marker: str, cases: Mapping[str, npt.NDArray[np.bool_]]
) -> None:
    """A triangle at the edge of the panel for cases that lie outside it, and how many they are."""
    counts = {word: int(which.sum()) for word, which in cases.items() if which.any()}
    if not counts:
        return
    at_top = marker == "^"
    height = 0.97 if at_top else 0.03
    transform = axes.get_xaxis_transform()
    axes.plot(place, height, marker, color=colour, markersize=4.5, transform=transform, zorder=5)
    offset = (0, -5) if at_top else (0, 5)
    axes.annotate(
        "\n".join(f"{count} {word}" for word, count in counts.items()),
        (place, height),
        xycoords=transform,
        xytext=offset,
        textcoords="offset points",
        ha="center",
        va="top" if at_top else "bottom",
        fontsize=6.5,
        color=_INK,
    )


def _draw_box(axes: Axes, values: Values, place: float, slot: float, colour: str) -> None:
    box = slot * 0.62
    # Golden-ratio steps spread the dots evenly, the same way each time.
    spread = (np.arange(values.size) * 0.6180339887 % 1 - 0.5) * box * 0.9
    axes.scatter(place + spread, values, s=9, color=colour, alpha=0.45, linewidths=0, zorder=2)
    line: dict[str, Any] = {"color": _INK, "linewidth": 0.9}
    axes.boxplot(
        [values],
        positions=[place],
        widths=box,
        showfliers=False,  # every case is a dot already
        manage_ticks=False,
        patch_artist=True,
        zorder=3,
        boxprops={"facecolor": "none", "edgecolor": _INK, "linewidth": 0.9},
        medianprops={**line, "linewidth": 1.6},
        whiskerprops=line,
        capprops=line,
    )
    axes.plot(place, values.mean(), "D", color="white", markeredgecolor=_INK, markersize=4, zorder=4)


def _style(axes: Axes, panel: _Panel, segments: Sequence[str]) -> None:
    axes.set_ylabel(panel.title, fontsize=10, color=_INK)
    axes.set_xlim(-0.5, len(segments) - 0.5)
    axes.set_xticks([])
    axes.tick_params(axis="y", labelsize=8)
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _name_segments(axes: Axes, segments: Sequence[str]) -> None:
    steep = len(segments) > 6 or max(len(name) for name in segments) > 14
    axes.set_xticks(
        range(len(segments)),
        segments,
        fontsize=9,
        rotation=40 if steep else 0,
        ha="right" if steep else "center",
        rotation_mode="anchor",
    )
    axes.tick_params(axis="x", length=0)
