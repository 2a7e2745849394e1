"""Cases worked on by processes of this computer; one that dies loses its case's time and nothing else."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ..errors import Cancelled
from .cases import BatchCase
from .records import FAILED, Record, read_record
from .work import Job, work

_ATTEMPTS = 2

# Set in a worker by _start: asked between tiles.
_stop: Any = None


class Lane:
    """One worker process, which has one case at a time: if it dies, it is known which case it was.

    concurrent.futures counts a whole pool as broken when a single process dies, so each has a pool of its own.
    """

    def __init__(self, context: Any, stop: Any, lanes: int) -> None:
        self._context, self._arguments = context, (stop, lanes)
        self._pool = self._new_pool()

    def _new_pool(self) -> ProcessPoolExecutor:
        return ProcessPoolExecutor(1, self._context, initializer=_start, initargs=self._arguments)

    def submit(self, case: BatchCase, job: Job) -> Future[Record]:
        """Begin a case."""
        return self._pool.submit(_work, case, job)

    def restart(self) -> None:
        """A new process for one that died."""
        self._pool.shutdown(wait=False)
        self._pool = self._new_pool()

    def close(self, at_once: bool) -> None:
        """End the process; at once, or when its case is done."""
        processes = list((self._pool._processes or {}).values()) if at_once else []
        for process in processes:
            process.kill()
        self._pool.shutdown(wait=True, cancel_futures=True)


def run_in_processes(cases: Sequence[BatchCase], job: Job, workers: int) -> Iterator[tuple[BatchCase, Record]]:
    """Work on the cases in so many processes; gives each case's record when it is finished.

    A case whose process dies (killed for its memory, say) is tried once more, then it has failed. When the
    iteration is given up (closed, or by Ctrl-C) current cases are dropped at their next tile, and leave nothing.

    Raises:
        NoSpace: The disk is full.
    """
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    lanes = [Lane(context, stop, workers) for _ in range(min(workers, len(cases)))]
    finished = False
    try:
        yield from _run(deque(cases), job, lanes)
        finished = True
    finally:
        stop.set()
        try:
            for lane in lanes:
                lane.close(at_once=False)
        except KeyboardInterrupt:  # a second Ctrl-C
            for lane in lanes:
                lane.close(at_once=True)
            if finished:
                raise


def _run(waiting: deque[BatchCase], job: Job, lanes: Iterable[Lane]) -> Iterator[tuple[BatchCase, Record]]:
    attempts: dict[str, int] = {}
    free = list(lanes)
    running: dict[Future[Record], tuple[Lane, BatchCase]] = {}
    while waiting or running:
        while waiting and free:
            lane, case = free.pop(0), waiting.popleft()
            attempts[case.name] = attempts.get(case.name, 0) + 1
            running[lane.submit(case, job)] = lane, case
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            lane, case = running.pop(future)
            free.append(lane)
            try:
                yield case, future.result()
            except BrokenProcessPool:
                lane.restart()
                if attempts[case.name] < _ATTEMPTS:
                    waiting.appendleft(case)
                else:
                    yield case, died(case, job)


def died(case: BatchCase, job: Job) -> Record:
    """The record of a case that no worker survived."""
    error = (
        f"The worker process died {_ATTEMPTS} times with this case; most likely the memory did not suffice. Crop or "
        "resample the volume, or use fewer --workers."
    )
    before = read_record(job.output, case.name) or Record(case.name, FAILED)
    return Record(case.name, FAILED, before.job, before.output, before.picture, error=error)


def _start(stop: Any, lanes: int) -> None:
    """In a new worker: threads, signals, and an end with its parent's."""
    global _stop
    _stop = stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which says what to do
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import SimpleITK as sitk
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // lanes))
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(torch.get_num_threads())


def _end_with_parent() -> None:
    """A parent that was killed cannot stop its workers, and they would wait for it for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(case: BatchCase, job: Job) -> Record:
    if _stop.is_set():
        raise Cancelled("The batch was cancelled.")
    return work(case, job, _stop.is_set)
