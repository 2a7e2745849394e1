"""Work beside the interface."""

from __future__ import annotations

import threading
from typing import Any

import pytest


@pytest.fixture
def task(host: Any) -> Any:
    """A function that makes a task and a list of what it reports."""
    from ReCoKDLib.widgets.background import BackgroundTask

    def make(work: Any) -> tuple[Any, list[Any]]:
        told: list[Any] = []
        return BackgroundTask(
            work,
            on_progress=lambda fraction: told.append((fraction, threading.current_thread())),
            on_done=lambda result: told.append(result),
            on_failed=lambda error: told.append(error),
        ), told

    return make


def test_reports_arrive_in_the_main_thread(host: Any, task: Any) -> None:
    threads = []

    def work(progress: Any, cancelled: Any) -> str:
        threads.append(threading.current_thread())
        progress(0.5)
        return "done"

    job, told = task(work)
    job.start()
    host.run_until(lambda: "done" in told)
    assert told == [(0.5, threading.main_thread()), "done"]
    assert threads[0] is not threading.main_thread()
    host.run_for(0.1)
    assert told[1:] == ["done"]  # once


def test_errors_arrive_as_they_are(host: Any, task: Any) -> None:
    error = ValueError("no")

    def work(progress: Any, cancelled: Any) -> None:
        raise error

    job, told = task(work)
    job.start()
    host.run_until(lambda: bool(told))
    assert told == [error]


def test_cancelling_is_the_works_to_notice(host: Any, task: Any) -> None:
    def work(progress: Any, cancelled: Any) -> str:
        while not cancelled():
            threading.Event().wait(0.005)
        return "stopped"

    job, told = task(work)
    job.start()
    host.run_for(0.05)
    assert told == []
    job.cancel()
    host.run_until(lambda: bool(told))
    assert told == ["stopped"]


def test_an_abandoned_task_is_silent(host: Any, task: Any) -> None:
    ended = threading.Event()

    def work(progress: Any, cancelled: Any) -> str:
        while not cancelled():
            threading.Event().wait(0.005)
        ended.set()
        return "too late"

    job, told = task(work)
    job.start()
    host.run_for(0.05)
    job.abandon()
    assert ended.is_set()
    host.run_for(0.1)
    assert told == []
