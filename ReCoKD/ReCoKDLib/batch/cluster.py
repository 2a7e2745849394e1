"""Cases handed to a Dask cluster (dask.distributed), on this computer or many that see the same folders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..errors import MissingDependencyError, ReCoKDError
from .cases import BatchCase
from .pool import died
from .records import Record
from .work import Job, is_done, work

_CONNECT_SECONDS = 20


def run_on_cluster(cases: Sequence[BatchCase], job: Job, address: str) -> Iterator[tuple[BatchCase, Record]]:
    """Work on the cases on the cluster's workers; gives each case's record when it is finished.

    Dask gives the cases of a worker that was lost to others. Every worker must see the input, the output and the
    student under the same paths and have ReCoKD installed. When the iteration is given up, cases that are not begun
    are taken back.

    Raises:
        MissingDependencyError: dask.distributed is not installed.
        ReCoKDError: The scheduler does not answer.
        NoSpace: The disk is full.
    """
    try:
        import distributed
    except ImportError as error:
        raise MissingDependencyError(
            'dask.distributed, which --scheduler needs, is not installed. Install it (pip install "recokd[dask]"), or '
            "use --workers on this computer."
        ) from error
    try:
        dask: Any = distributed  # it has no types
        client = dask.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ReCoKDError(
            f"The Dask scheduler {address} does not answer ({error}). Check the address, and that "
            "`dask scheduler` runs there."
        ) from error
    with client:
        futures = {client.submit(_work, case, job, pure=False, retries=1): case for case in cases}
        try:
            for future in dask.as_completed(list(futures), loop=client.loop):
                case = futures[future]
                try:
                    yield case, future.result()
                except dask.KilledWorker:
                    yield case, died(case, job)
        finally:
            client.cancel(list(futures))


def _work(case: BatchCase, job: Job) -> Record:
    """A case may come a second time, where its worker was lost between finishing it and saying so."""
    return is_done(case, job) or work(case, job)
