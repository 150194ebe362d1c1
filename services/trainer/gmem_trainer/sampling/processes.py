"""A job's batches, made by several processes of this machine."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from gmem_shared.errors import InternalError
from gmem_shared.settings import StoreSettings
from gmem_trainer.sampling.parts import Parts
from gmem_trainer.sampling.worker import Worker, reproducible

if TYPE_CHECKING:
    from multiprocessing.queues import SimpleQueue


def make_parts(
    parts: Parts,
    numbers: Iterable[int],
    place: StoreSettings,
    devices: Sequence[str],
    report: Callable[[], None],
) -> None:
    """Make batches with one process per entry of ``devices``.

    Args:
        parts: Receives the batches.
        numbers: Which batches to make.
        place: The store with the job's versions.
        devices: ``cpu`` or ``cuda:0``, …, one for each process; may repeat.
        report: Called after every batch.

    Raises:
        InternalError: A process died.
        GmemError: What a batch could not be made for.
    """
    context = multiprocessing.get_context("spawn")
    free_devices: SimpleQueue[str] = context.SimpleQueue()
    for device in devices:
        free_devices.put(device)
    pool = ProcessPoolExecutor(len(devices), context, _begin, (parts, place, free_devices))
    try:
        for future in as_completed([pool.submit(_make, number) for number in numbers]):
            future.result()
            report()
    except BrokenProcessPool as error:
        raise InternalError(
            "expected every process of the job to live until its end, but one died; if nothing "
            "above says why, perhaps memory ran out: run the same command again to go on, with "
            "fewer --processes"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_setup: tuple[Parts, StoreSettings, str]
"""What the tasks of this process have in common."""


def _begin(parts: Parts, place: StoreSettings, free_devices: SimpleQueue[str]) -> None:
    global _setup
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_die_with_parent, daemon=True).start()
    _setup = parts, place, free_devices.get()


def _die_with_parent() -> None:
    """End this process when its parent was killed, who could not tell it to stop."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


@functools.cache
def _worker() -> Worker:
    """Open the versions with the first batch, so that their errors reach the parent."""
    parts, place, device = _setup
    reproducible(device)
    return Worker(place, parts.job, device)


def _make(number: int) -> None:
    parts, _, _ = _setup
    parts.write(number, _worker().make(number))
