"""Fits the weights of the corrector on training cases: a simulated user clicks, a regression learns what was wrong."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clicks import STUDENT, Case, hippocampus_cases, next_click
from ReCoKDLib.interaction.corrector import BorderLayer, Corrector, Window
from ReCoKDLib.interaction.fitted import WEIGHTS, FittedLayer, features
from ReCoKDLib.interaction.session import RefineSession
from ReCoKDLib.labels import LabelSet
from ReCoKDLib.students import find_student

Array = npt.NDArray[Any]

CLICKS = 6
MOST_ROWS = 1_000_000  # voxels that the regression is fitted to, drawn from all
_LEAST_GAIN = -3.5  # where the student is surer than this, hardly anything is wrong


@dataclass
class Watching:
    """A corrector that remembers the last window."""

    corrector: Corrector
    windows: list[Window] = field(default_factory=list)

    @property
    def reach_mm(self) -> float:
        """As the corrector's."""
        return self.corrector.reach_mm

    def support(self, window: Window) -> Array:
        """As the corrector's."""
        self.windows[:] = [window]
        return self.corrector.support(window)


def examples(case: Case, label_set: LabelSet, corrector: Corrector) -> Iterator[tuple[Array, Array]]:
    """(voxels, features) and whether each voxel should have changed; one pair for each click."""
    watching = Watching(corrector)
    session = RefineSession(case.volume, case.labels, label_set, probabilities=case.probabilities, corrector=watching)
    layer = FittedLayer()
    for _ in range(CLICKS):
        click = next_click(session.labels, case.truth, label_set)
        if click is None:
            return
        k, j, i = np.floor((np.linalg.inv(case.volume.ijk_to_ras) @ (*click.position_ras, 1))[2::-1] + 0.5).astype(int)
        was, true = int(session.labels.array[0, k, j, i]), int(case.truth.array[0, k, j, i])
        before = session.labels.array[0].copy()
        session.add(click)
        window = watching.windows[0]
        low = np.array([k, j, i]) - window.seeds[0]
        whole = tuple(slice(int(a), int(a) + n) for a, n in zip(low, window.gain.shape, strict=True))
        near = layer.near(window)
        values = features(window, near)
        if not window.fits[near].any() or float(values["depth of the click"]) > layer.deepest:
            continue
        gain = window.gain[near]
        rows = (gain > _LEAST_GAIN) & (before[whole][near] == was) & (values["distance"] <= layer.reach)
        columns = [np.broadcast_to(values[name], gain.shape)[rows] for name in WEIGHTS]
        yield np.stack(columns, axis=1).astype(np.float32), (case.truth.array[0][whole][near] == true)[rows]


def fitted(cases: Sequence[Case], label_set: LabelSet, rounds: int = 1) -> dict[str, float]:
    """The weights, by the names of the features.

    The first round learns from histories that the plain rule made, further ones also from those that the weights make.
    """
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

    corrector: Corrector = BorderLayer()
    pairs: list[tuple[Array, Array]] = []
    weights: dict[str, float] = {}
    begun = time.monotonic()
    for turn in range(1, rounds + 1):
        for number, case in enumerate(cases, 1):
            pairs += examples(case, label_set, corrector)
            if number % 10 == 0 or number == len(cases):
                told = f"round {turn} of {rounds}: {number} of {len(cases)} cases, {time.monotonic() - begun:.0f} s"
                print(told, file=sys.stderr, flush=True)
        rows, wrong = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
        if len(rows) > MOST_ROWS:
            some = np.random.default_rng(0).choice(len(rows), MOST_ROWS, replace=False)
            rows, wrong = rows[some], wrong[some]
        rows = rows.astype(np.float64)
        scale = rows.std(axis=0)
        scale[scale == 0] = 1
        model = LogisticRegression(solver="newton-cholesky", fit_intercept=False).fit(rows / scale, wrong)
        weights = dict(zip(WEIGHTS, (model.coef_[0] / scale).tolist(), strict=True))
        corrector = FittedLayer(weights=weights)
    return weights


def main() -> None:
    """Print the weights, to be put into ``ReCoKDLib/interaction/fitted.py``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--cases", type=int, help="only so many of the training cases")
    parser.add_argument("--rounds", type=int, default=1, help="further ones learn from what the weights do as well")
    given = parser.parse_args()
    cases = list(hippocampus_cases(given.data, given.cases, "train"))
    for name, weight in fitted(cases, find_student(STUDENT).label_set, given.rounds).items():
        print(f'    "{name}": {weight:.3f},')


if __name__ == "__main__":
    main()
