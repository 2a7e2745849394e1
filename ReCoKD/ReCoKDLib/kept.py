"""What was computed for the last volume, kept so that another region of it costs new tiles only."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from .sliding_window import Place, Tiles
from .volume import Volume

if TYPE_CHECKING:
    from .preprocessing import PreprocessedCase
    from .segment import LoadedStudent

ROOM = 512 << 20  # bytes of tiles


class Kept:
    """A loaded student, the last volume as it sees it, and its logits of as many tiles as there is room for.

    Who segments one volume again and again (a person who draws a region) gives the same object to each run of
    :func:`.segment.segment`. What belongs to another volume, student or choice is never used: a volume is told by a
    checksum of its voxels and its geometry, a student by the checksum of its package and all options of its loading.

    Args:
        room: Bytes that the tiles may take; those of a region may take as much more as a run of the whole volume needs
            and one of the region does not.
    """

    def __init__(self, room: int = ROOM) -> None:
        self.room = room
        self._student: tuple[Hashable, LoadedStudent] | None = None
        self._case: tuple[Hashable, PreprocessedCase] | None = None
        self._tiles_of: Hashable = None
        self._tiles: dict[tuple[int, Place], torch.Tensor] = {}
        self._bytes = 0  # of all tiles
        self._in_use = 0  # of those that this run needs
        self._reserved: dict[tuple[int, Place], int] = {}  # bytes of those to come that must be kept
        self._needed = frozenset[tuple[int, Place]]()
        self._limit = room

    @property
    def bytes(self) -> int:
        """What the tiles take now."""
        return self._bytes

    def student(self, key: Hashable, load: Callable[[], LoadedStudent]) -> LoadedStudent:
        """The student of this key, loaded unless it is the last one."""
        if self._student is None or self._student[0] != key:
            self.forget()
            self._student = (key, load())
        return self._student[1]

    def case(self, key: Hashable, volume: Volume, make: Callable[[], PreprocessedCase]) -> PreprocessedCase:
        """The volume as the network sees it, made unless it is the last one; ``key`` says who looks at it."""
        key = (key, checksum(volume))
        if self._case is None or self._case[0] != key:
            self._forget_case()
            self._case = (key, make())
        return self._case[1]

    def begin(
        self, key: Hashable, needed: Sequence[Sequence[Place]], room: int | None = None, more: int = 0
    ) -> list[KeptTiles]:
        """A run of the last case begins.

        Args:
            key: Whatever else the logits hang on.
            needed: The tiles that it needs, for each fold.
            room: Bytes that tiles may take in this run; None for all the room there is.
            more: Bytes that they may take besides.

        Returns:
            For each fold its tiles.
        """
        if self._tiles_of != key:
            self._drop(list(self._tiles))
        self._tiles_of = key
        self._needed = frozenset((fold, place) for fold, places in enumerate(needed) for place in places)
        self._limit = more + (self.room if room is None else max(0, min(room, self.room)))
        order = sorted(self._tiles, key=self._needed.__contains__)  # those not needed first, of each the oldest
        while self._bytes > self._limit:
            self._drop([order.pop(0)])
        self._in_use = sum(logits.nbytes for place, logits in self._tiles.items() if place in self._needed)
        self._reserved.clear()
        return [KeptTiles(self, fold) for fold in range(len(needed))]

    def free(self) -> int:
        """Bytes that further tiles may take."""
        return self._limit - self._in_use - sum(self._reserved.values())

    def reserve(self, fold: int, places: Sequence[Place], size: int) -> None:
        """Keep room for tiles of ``size`` bytes, which must be kept when they come."""
        self._reserved.update({(fold, place): size for place in places})

    def get(self, fold: int, place: Place) -> torch.Tensor | None:
        """Logits of a tile; None where they are not kept."""
        return self._tiles.get((fold, place))

    def put(self, fold: int, place: Place, logits: torch.Tensor) -> None:
        """Keep a copy where there is room; tiles that this run does not need make way."""
        self._reserved.pop((fold, place), None)
        if logits.nbytes > self.free():
            return
        while self._bytes + logits.nbytes > self._limit:
            self._drop([next(key for key in self._tiles if key not in self._needed)])
        self._tiles[fold, place] = logits.clone()
        self._bytes += logits.nbytes
        self._in_use += logits.nbytes

    def forget(self) -> None:
        """Keep nothing any more."""
        self._student = None
        self._forget_case()

    def _forget_case(self) -> None:
        self._case = None
        self._tiles_of = None
        self._drop(list(self._tiles))

    def _drop(self, places: Sequence[tuple[int, Place]]) -> None:
        for place in places:
            self._bytes -= self._tiles.pop(place).nbytes


class KeptTiles(Tiles):
    """The tiles of one fold; see :class:`Kept`.

    Attributes:
        ahead: Tiles to be run before all others.
        listener: Told of each tile of this run and its logits.
    """

    def __init__(self, store: Kept, fold: int) -> None:
        self._store = store
        self._fold = fold
        self.ahead: Sequence[Place] = ()
        self.listener: Callable[[Place, torch.Tensor], None] | None = None

    def kept(self, place: Place) -> torch.Tensor | None:
        """See :class:`Tiles`."""
        return self._store.get(self._fold, place)

    def first(self, new: Sequence[Place]) -> Sequence[Place]:
        """See :class:`Tiles`."""
        left = set(new)
        return [place for place in self.ahead if place in left]

    def found(self, place: Place, logits: torch.Tensor) -> None:
        """See :class:`Tiles`."""
        self._store.put(self._fold, place, logits)
        if self.listener is not None:
            self.listener(place, logits)


def checksum(volume: Volume) -> str:
    """Of voxels, their type and their place."""
    found = hashlib.blake2b(digest_size=16)
    found.update(repr((volume.array.shape, volume.array.dtype.str)).encode())
    found.update(np.ascontiguousarray(volume.ijk_to_ras).tobytes())
    for channel in volume.array:
        found.update(np.ascontiguousarray(channel).data)
    return found.hexdigest()
