"""The pictures of the comparison and of the diagnosis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from ReCoKDLib.files import atomic_file

if TYPE_CHECKING:
    import torch
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
STYLES = ("-", "--", ":", "-.", (0, (1, 3)), (0, (5, 4)))
LEARNT_BELOW = 0.3
"""The segmentation loss below which a student of the hippocampus is said to have learnt its two parts."""


@dataclass(frozen=True)
class Curve:
    """How a student learnt.

    Attributes:
        name: under which it is drawn; empty for those whose end alone is shown.
        learns_from: labels alone, logits, features, or features and logits.
        from_teacher: whether it started with channels of the teacher.
        losses: the segmentation loss of each epoch.
        dice: mean Dice at the end, between 0 and 1.
    """

    name: str
    learns_from: str
    from_teacher: bool
    losses: Sequence[float]
    dice: float

    @property
    def learnt(self) -> int | None:
        """The first epoch with a loss below ``LEARNT_BELOW``, counted from 1."""
        return next((epoch for epoch, loss in enumerate(self.losses, 1) if loss < LEARNT_BELOW), None)


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # not pyplot, which holds global state
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _save(figure: Figure, path: Path) -> None:
    with atomic_file(path, overwrite=True) as temporary:
        figure.savefig(temporary, format="png")


def draw_following(measured: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    """Gradients by stage and term, similarity, what connectors leave, whether structures are told apart, the
    segmentation loss, and how far adapters moved, over the epochs.
    """
    epochs = [entry["epoch"] for entry in measured]
    stages = range(len(measured[0]["gradients"]["segmentation"]))
    terms = list(dict.fromkeys(term for entry in measured for term in entry["gradients"]))
    panels = len(terms) + 4 + bool(measured[0]["movements"])
    columns = max(3, (panels + 1) // 2)
    figure, axes = _figure(2, columns, (3.4 * columns, 6.4))
    figure.suptitle(title)
    pulls = [norm for entry in measured for norms in entry["gradients"].values() for norm in norms if norm > 0]
    for axis, term in zip(axes, terms, strict=False):
        for k in stages:
            norms = [entry["gradients"][term][k] for entry in measured]
            if any(norms):  # not every term pulls at every stage
                axis.plot(epochs, norms, color=COLOURS[k], label=f"stage {k}")
        axis.set(title=f"gradient of {term}", yscale="log", ylim=(0.7 * min(pulls), 1.4 * max(pulls)), xlabel="epoch")
        axis.legend(fontsize=7)
    remaining = axes[len(terms) :]
    for k in range(len(measured[0]["cka"])):
        remaining[0].plot(epochs, [entry["cka"][k] for entry in measured], color=COLOURS[k], label=f"stage {k}")
    remaining[0].set(title="linear CKA with the teacher", ylim=(0, 1), xlabel="epoch")
    for key in measured[0]["unexplained"]:
        values = [entry["unexplained"][key] for entry in measured]
        remaining[1].plot(epochs, values, color=COLOURS[int(key)], label=f"stage {key}")
    for key in measured[0]["least unexplained"]:
        values = [entry["least unexplained"][key] for entry in measured]
        remaining[1].plot(epochs, values, color=COLOURS[int(key)], linestyle=":", label=f"stage {key}, best P")
    remaining[1].set(title="variance that P F_S leaves", ylim=(0, None), xlabel="epoch")
    for k in range(len(measured[0]["told apart"])):
        values = [entry["told apart"][k] for entry in measured]
        part, place = ("stage", k) if k in stages else ("decoder", k - len(stages))
        style = STYLES[part == "decoder"]
        remaining[2].plot(epochs, values, color=COLOURS[place], linestyle=style, label=f"{part} {place}")
    remaining[2].set(title="structures told apart linearly", xlabel="epoch")
    learnt = [entry for entry in measured if entry["losses"]]
    remaining[3].plot([e["epoch"] for e in learnt], [e["losses"]["segmentation"] for e in learnt], color="black")
    remaining[3].set(title="segmentation loss in the training", yscale="log", xlabel="epoch")
    for number, key in enumerate(measured[0]["movements"]):
        values = [entry["movements"][key] for entry in measured]
        style = STYLES[number // len(COLOURS) % len(STYLES)]
        label = key.removeprefix("losses.")
        remaining[4].plot(epochs, values, color=COLOURS[number % len(COLOURS)], linestyle=style, label=label)
    for axis in remaining[:3]:
        axis.legend(fontsize=7, loc="lower right" if axis is remaining[2] else "best")
    if measured[0]["movements"]:
        remaining[4].set(title="movement of the adapters", xlabel="epoch")
        remaining[4].legend(fontsize=6)
    for axis in axes[panels:]:
        axis.set_axis_off()
    _save(figure, path)


def draw_errors(table: Mapping[str, Mapping[str, Any]], names: Sequence[str], path: Path) -> None:
    """Error rates, whose errors they are, and what the attention and the masks look at, by group of voxels."""
    import numpy as np

    groups = list(table)
    places = np.arange(len(groups))
    rates = {"teacher": [table[g]["teacher's errors"] / table[g]["voxels"] for g in groups]}
    rates |= {name: [table[g][f"errors of {name}"] / table[g]["voxels"] for g in groups] for name in names}
    alone = {name: [table[g][f"errors of {name} alone"] for g in groups] for name in names}
    looks = {
        "mean attention of the teacher": [table[g]["mean attention"] for g in groups],
        "share of L_fg + L_bg": [table[g]["share of the loss"] for g in groups],
    }
    colours = dict(zip(["teacher", *names, *looks], cycle(COLOURS), strict=False))
    titles = ("share of wrong voxels", "wrong voxels where the teacher is right", "what the loss looks at")
    figure, axes = _figure(1, 3, (15, 4.2))
    for axis, title, bars in zip(axes, titles, (rates, alone, looks), strict=True):
        width = 0.8 / len(bars)
        for number, (name, values) in enumerate(bars.items()):
            shifted = places + (number - (len(bars) - 1) / 2) * width
            axis.bar(shifted, values, width, color=colours[name], label=name)
        axis.set_title(title)
        axis.set_xticks(places, groups, rotation=40, ha="right", fontsize=8)
        axis.set_ylim(0, 1.3 * (max(map(max, bars.values())) or 1))  # room for the legend
        axis.legend(fontsize=7, loc="upper right")
    _save(figure, path)


def draw_slices(images: torch.Tensor, drawn: Mapping[str, torch.Tensor], spacing: Sequence[float], path: Path) -> None:
    """A row for each image with a column for each of those who drew labels in it.

    A slice is the one in which the first of them drew most, along that of the network's axes along which this is most
    for all images together. The two axes left run upwards and to the right.

    Args:
        images: (B, C, D, H, W), of which the first channel is shown.
        drawn: By who drew them, (B, 1, D, H, W) labels, 0 for the background.
        spacing: Of a voxel along D, H, W, in millimetres.
        path: A PNG.
    """
    import numpy as np

    labels = {name: drawn_here[:, 0].cpu().numpy() for name, drawn_here in drawn.items()}
    first = next(iter(labels.values()))
    highest = max(int(values.max()) for values in labels.values())
    areas = [(first > 0).sum(tuple({1, 2, 3} - {1 + axis})) for axis in range(3)]
    axis = max(range(3), key=lambda a: areas[a].max(1).sum() / spacing[a])  # up to a factor, in square millimetres
    up, right = (mm for a, mm in enumerate(spacing) if a != axis)
    rows, columns = (n * mm for a, (n, mm) in enumerate(zip(first.shape[1:], spacing, strict=True)) if a != axis)
    height = 0.1 + 1.9 * rows / columns
    figure, axes = _figure(len(images), len(labels), (2 * len(labels), 0.5 + height * len(images)))
    panels = iter(axes)
    for number, image in enumerate(images[:, 0].cpu().float().numpy()):
        index = int(areas[axis][number].argmax())
        for name, values in labels.items():
            panel = next(panels)
            panel.imshow(image.take(index, axis), cmap="gray", origin="lower", aspect=up / right)
            cut = np.pad(values[number].take(index, axis), 1)  # so that outlines close at the border
            across, along = (np.arange(n) - 1 for n in cut.shape[::-1])
            for value in range(1, highest + 1):
                if (cut == value).any():
                    colour, inside = COLOURS[(value - 1) % len(COLOURS)], (cut == value).astype(float)
                    panel.contourf(across, along, inside, levels=(0.5, 1.5), colors=[colour], alpha=0.35)
                    panel.contour(across, along, inside, levels=(0.5,), colors=[colour], linewidths=1)
            panel.set(xticks=[], yticks=[], xlim=across[[0, -1]] + (0.5, -0.5), ylim=along[[0, -1]] + (0.5, -0.5))
            if number == 0:
                panel.set_title(fill(name, 20), fontsize=8)
    _save(figure, path)


def draw_comparison(dice: Mapping[str, Sequence[float]], teacher: float, path: Path) -> None:
    """Mean Dice of each row of the comparison: a dot for each seed, a line at their mean, and the teacher's.

    Args:
        dice: By row, as x1/8 reco, 3000 steps, that of each seed, between 0 and 1.
        teacher: Its mean Dice.
        path: A PNG.
    """
    figure, (axis,) = _figure(1, 1, (9, 1.2 + 0.24 * len(dice)))
    widths = list(dict.fromkeys(name.split()[0] for name in dice))
    for place, (name, values) in enumerate(dice.items()):
        colour = COLOURS[widths.index(name.split()[0])]
        shown = [100 * value for value in values]
        axis.plot(shown, [place] * len(shown), "o", color=colour, alpha=0.6, markersize=5)
        axis.plot([sum(shown) / len(shown)] * 2, [place - 0.35, place + 0.35], color=colour, linewidth=2)
    axis.axvline(100 * teacher, color="black", linestyle="--", linewidth=1)
    axis.text(100 * teacher, -0.95, "teacher ", ha="right", va="top", fontsize=8)
    axis.set_yticks(range(len(dice)), list(dice), fontsize=8)
    axis.set_ylim(len(dice) - 0.4, -1)
    axis.set_xlabel("mean Dice x 100 over the validation cases; dots: seeds, lines: their mean")
    axis.grid(axis="x", alpha=0.3)
    _save(figure, path)


def draw_learning(curves: Sequence[Curve], path: Path) -> None:
    """How students learn: their segmentation losses over the epochs, and their Dice by when these fell.

    Colours stand for what they learn from; triangles have started from their teacher. Left are those with a name, a
    line for each seed; right all whose loss ever fell below ``LEARNT_BELOW``, with Spearman's rank correlation.
    """
    from scipy.stats import spearmanr

    figure, (left, right) = _figure(1, 2, (12, 4.2))
    kinds = list(dict.fromkeys(curve.learns_from for curve in curves))
    seen: dict[str, int] = {}
    told: set[tuple[str, bool]] = set()
    for curve in curves:
        colour, marker = COLOURS[kinds.index(curve.learns_from)], "^" if curve.from_teacher else "o"
        if curve.name:
            number = seen[curve.name] = seen.get(curve.name, -1) + 1
            epochs, style = range(1, len(curve.losses) + 1), STYLES[number % len(STYLES)]
            (line,) = left.plot(epochs, curve.losses, linestyle=style, color=colour)
            line.set(label="_" if number else curve.name, marker="^" if curve.from_teacher else "", markevery=3)
        if (fell := curve.learnt) is not None:
            kind = (curve.learns_from, curve.from_teacher)
            label = None if kind in told else f"{curve.learns_from}{', from teacher' if curve.from_teacher else ''}"
            told.add(kind)
            right.plot([fell], [100 * curve.dice], marker, color=colour, label=label)
    left.set(title="segmentation loss in the training, a line for each seed", xlabel="epoch", yscale="log")
    left.set_yticks([0.2, 0.3, 0.4, 0.6, 1.0], ["0.2", "0.3", "0.4", "0.6", "1"])
    left.minorticks_off()
    title = "mean Dice x 100 at the end"
    learnt = [(curve.learnt, curve.dice) for curve in curves if curve.learnt is not None]
    if learnt and all(len(set(values)) > 1 for values in zip(*learnt, strict=True)):
        title += f"; {len(learnt)} students, Spearman's rho {spearmanr(learnt).statistic:.2f}"
    right.set(title=title, xlabel=f"first epoch with a loss below {LEARNT_BELOW}")
    for axis in (left, right):
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(fontsize=8)
    _save(figure, path)
