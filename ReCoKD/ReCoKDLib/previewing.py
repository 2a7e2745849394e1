"""The labels of the slices that somebody looks at, while the rest of the volume is still being segmented.

The tiles that hold these slices are run first, as many as there is room to keep until their turn comes, those nearest
to where the slices meet before others. Each shown voxel has its own weighted mean of the tiles so far, so that the
preview grows with every tile and becomes the result. It is made at the student's own resolution, without interpolation.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch

from .labels import LabelSet, Segment
from .part import Part
from .plan import Plan
from .preprocessing import PreprocessedCase
from .preview import Plane, Preview
from .resampling import linear_taps
from .sliding_window import Place, Tiling, gaussian_weights
from .volume import Volume

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

SECONDS = 1.0  # from one preview to the next; none is made of what is finished sooner
_SHARE = 50  # of the time, one part at the most is for making previews
_CHUNK = 16 << 20  # bytes of the logits that are copied at a time
_SAMPLES = 4000  # of the shown voxels, by which tiles are put in order


class Previewer:
    """Collects the logits of the shown voxels, and tells of them now and then.

    Args:
        volume: As it was given, for the indices of previews.
        part: What is wanted of it.
        case: Of the volume.
        plan: Of the case.
        label_set: Of the network.
        segments: The only ones wanted; None for all.
        planes: The slices; none for the three through the middle of what is wanted.
        tell: Told of each preview.
    """

    def __init__(
        self,
        volume: Volume,
        part: Part,
        case: PreprocessedCase,
        plan: Plan,
        label_set: LabelSet,
        segments: Sequence[Segment] | None,
        planes: Sequence[Plane],
        tell: Callable[[Preview], None],
    ) -> None:
        assert part.asked is not None
        self._label_set, self._segments, self._tell = label_set, segments, tell
        shape = [p.stop - p.start for p in part.asked]
        shown = [plane for plane in planes or _middle(part.to_ras, shape) if np.any(plane[1])]
        crossed = [_crossed(part.to_ras, shape, plane) for plane in shown]
        found = _each_once(crossed, shape)
        places = _places(part.to_ras, found)
        to_ijk = np.linalg.inv(volume.ijk_to_ras)
        ijk = places @ to_ijk[:3, :3].T + to_ijk[:3, 3]
        self._voxels = np.rint(ijk[:, ::-1]).astype(np.int32)
        options = {k: v for k, v in plan.resampling["probabilities"].items() if k in ("function", "force_separate_z")}
        if options.get("function") == "resample_torch_fornnunet":
            del options["function"]  # its grids share their borders, as those of the default do
        source = case.data.shape[1:]
        taps = linear_taps(source, case.shape_after_cropping, plan.spacing, case.spacing, {**options, "order": 0})
        assert taps is not None
        self._source: npt.NDArray[np.int32] = np.stack(
            [along.low[found[:, axis] + part.asked[axis].start] for axis, along in enumerate(taps)]
        ).astype(np.int32)
        self._focus = self._nearest_to(_meeting(shown, places), places)
        self._total = torch.zeros((len(found), label_set.number_of_heads))
        self._weights = torch.zeros(len(found))
        self._labels = np.zeros(len(found), np.int32)
        self._new = np.zeros(len(found), bool)  # where labels are to be decided anew
        self._below: tuple[int, ...] = (0, 0, 0)
        self._patch: tuple[int, ...] = (0, 0, 0)
        self._next = 0.0
        self._begun = 0.0
        self._tiles = self._ran = 0

    @property
    def bytes(self) -> int:
        """What is held of the shown voxels' logits while a run goes on."""
        return self._total.nbytes

    def _nearest_to(self, focus: Floats, places: Floats) -> npt.NDArray[np.int32]:
        if not len(places):
            return np.zeros(3, np.int32)
        nearest: npt.NDArray[np.int32] = self._source[:, int(np.linalg.norm(places - focus, axis=1).argmin())]
        return nearest

    def begin(self, layout: Tiling, patch_size: Sequence[int], new: int) -> None:
        """A run begins.

        Args:
            layout: Its tiles.
            patch_size: Of a tile.
            new: How many tiles will be run.
        """
        self._below, self._patch = layout.below, tuple(int(n) for n in patch_size)
        self._tiles, self._ran, self._begun = new, 0, time.monotonic()
        self._total.zero_()
        self._weights.zero_()
        self._labels[:] = 0
        self._new[:] = False

    def ahead(self, places: Sequence[Place], most: int) -> list[Place]:
        """The tiles to be run first: each shows what was not shown before, near the focus rather than far away."""
        shown = self._source.shape[1]
        if not places or not shown:
            return []
        samples = self._source[:, :: max(1, shown // _SAMPLES)].T + np.array(self._below)
        starts, patch = np.array(places), np.array(self._patch)
        focus = self._focus + np.array(self._below)
        holds = ((samples >= starts[:, None]) & (samples < starts[:, None] + patch)).all(axis=2)
        worth = 1 / (1 + np.linalg.norm((samples - focus) / patch, axis=1))
        distance = np.linalg.norm((starts + patch / 2 - focus) / patch, axis=1)
        chosen = [int(np.where(holds.any(axis=1), distance, np.inf).argmin())]
        while len(chosen) < most:
            worth = np.where(holds[chosen[-1]], 0, worth)
            gain = holds @ worth
            best = np.lexsort((distance, -np.round(gain, 6)))[0]
            if gain[best] <= 0:
                break
            chosen.append(int(best))
        return [places[index] for index in chosen[:most]]

    def add(self, place: Place, logits: torch.Tensor) -> None:
        """Take in a tile that is known already."""
        where: Indices = np.arange(self._source.shape[1])
        for along, start, below, side in zip(self._source, place, self._below, self._patch, strict=True):
            here = along[where]
            where = where[(here >= start - below) & (here < start - below + side)]
        if not len(where):
            return
        for some in self._chunks(where):
            inner = [
                along[some] + below - start
                for along, below, start in zip(self._source, self._below, place, strict=True)
            ]
            flat = torch.from_numpy(np.ravel_multi_index(tuple(inner), self._patch))
            weights = gaussian_weights(self._patch).reshape(-1)[flat]
            chosen = torch.from_numpy(some)
            found = logits.reshape(len(logits), -1).index_select(1, flat).mul_(weights)
            self._total.index_add_(0, chosen, found.T.contiguous())
            self._weights.index_add_(0, chosen, weights)
        self._new[where] = True

    def found(self, place: Place, logits: torch.Tensor) -> None:
        """Take in a tile that was run, and tell what is known now if it is time."""
        self.add(place, logits)
        self._ran += 1
        now = time.monotonic()
        left = (now - self._begun) / self._ran * (self._tiles - self._ran)
        if left >= SECONDS and now >= self._next and self._new.any():
            self._tell(self.so_far())
            told = time.monotonic()
            self._next = told + SECONDS * max(1.0, _SHARE * (told - now))

    def so_far(self) -> Preview:
        """What is known now."""
        where = np.flatnonzero(self._new)
        for some in self._chunks(where):
            new = torch.from_numpy(some)
            mean = self._total.index_select(0, new).T.contiguous().div_(self._weights[new])
            self._labels[some] = self._label_set.label_map(mean, self._segments).numpy()
        self._new[:] = False
        some = np.flatnonzero(self._labels)
        return Preview(self._voxels[some], self._labels[some])

    def _chunks(self, where: Indices) -> Iterator[Indices]:
        """Shown voxels, as many at a time as all of whose classes are few bytes."""
        size = max(1, _CHUNK // (4 * self._total.shape[1]))
        return (where[first : first + size] for first in range(0, len(where), size))


def _places(to_ras: Floats, indices: npt.NDArray[np.integer]) -> Floats:
    places: Floats = indices @ to_ras[:, :3].T + to_ras[:, 3]
    return places


def _each_once(indices: Sequence[Indices], shape: Sequence[int]) -> Indices:
    """(n, 3) indices in the order of memory."""
    flat = [np.zeros(0, np.intp), *(np.ravel_multi_index(tuple(some.T), tuple(shape)) for some in indices)]
    ordered = np.sort(np.concatenate(flat))  # not np.unique, which takes as long as a tile
    once: Indices = np.column_stack(np.unravel_index(ordered[np.diff(ordered, prepend=-1) > 0], tuple(shape)))
    return once


def _middle(to_ras: Floats, shape: Sequence[int]) -> list[Plane]:
    centre = _places(to_ras, np.array([[n // 2 for n in shape]]))[0]
    normals = np.linalg.inv(to_ras[:, :3])  # rows: planes of equal index
    return [(centre.tolist(), normal.tolist()) for normal in normals]


def _crossed(to_ras: Floats, shape: Sequence[int], plane: Plane) -> Indices:
    """(n, 3) indices of all voxels that a plane passes through."""
    point, normal = (np.asarray(part, dtype=np.float64) for part in plane)
    slope = normal @ to_ras[:, :3]
    offset = normal @ (to_ras[:, 3] - point)
    across = int(np.abs(slope).argmax())
    others = [axis for axis in range(3) if axis != across]
    a, b = np.meshgrid(*(np.arange(shape[axis]) for axis in others), indexing="ij")
    middle = -(offset + slope[others[0]] * a + slope[others[1]] * b) / slope[across]
    reach = 0.5 * np.abs(slope).sum() / abs(slope[across]) - 1e-6
    first = np.ceil(middle - reach).astype(np.intp)
    found = []
    for n in range(int(2 * reach) + 1):
        index = first + n
        good = (index <= middle + reach) & (index >= 0) & (index < shape[across])
        columns: list[Indices] = [np.zeros(0, np.intp)] * 3
        columns[across], columns[others[0]], columns[others[1]] = index[good], a[good], b[good]
        found.append(np.column_stack(columns))
    return np.concatenate(found)


def _meeting(planes: Sequence[Plane], places: Floats) -> Floats:
    """The point where planes meet; where that is a line or a plane, its point nearest to the middle of the places."""
    if not len(places):
        return np.zeros(3)
    middle = places.mean(axis=0)
    normals = np.array([np.asarray(normal, float) / np.linalg.norm(normal) for _point, normal in planes])
    away = np.array([n @ (np.asarray(point, float) - middle) for (point, _), n in zip(planes, normals, strict=True)])
    meeting: Floats = middle + np.linalg.lstsq(normals, away, rcond=1e-6)[0]
    return meeting
