"""The threads of a gRPC server.

gRPC gives a call a thread before its message is there, and the message may never come. So threads
that only wait do not count (docs/adr/0018).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any

_PATIENCE_SECONDS = 0.1


class Crew(Executor):
    """A number of threads that work, and a stand-in for each that waits long for its message.

    Args:
        size: Threads that work.
        most: Threads altogether.
        prepare: Called at the beginning of each thread.
    """

    def __init__(self, size: int, most: int, prepare: Callable[[], None]) -> None:
        self._most = most
        self._prepare = prepare
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._waiting: dict[threading.Thread, float] = {}  # since when, monotonic
        self._replaced: set[threading.Thread] = set()
        self._threads: set[threading.Thread] = set()
        self._closed = threading.Event()
        for _ in range(size):
            self._hire()
        self._watcher = threading.Thread(target=self._watch, name="bank-grpc-watch", daemon=True)
        self._watcher.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Have a call answered; only `Future.add_done_callback` of what is returned is of use."""
        future: Future[Any] = Future()
        self._tasks.put(partial(_run, future, fn, *args, **kwargs))
        return future

    def begin(self) -> None:
        """Say in a thread of the crew that it works from now on: its message is there."""
        self._waiting.pop(threading.current_thread(), None)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the threads once all calls are answered."""
        self._closed.set()
        self._watcher.join()  # from here on nobody is hired
        threads = list(self._threads)
        for _ in threads:
            self._tasks.put(None)
        if wait:
            for thread in threads:
                thread.join()

    def _hire(self) -> None:
        thread = threading.Thread(target=self._work, name="bank-grpc", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _work(self) -> None:
        self._prepare()
        me = threading.current_thread()
        while me not in self._replaced and (task := self._tasks.get()) is not None:
            self._waiting[me] = time.monotonic()
            task()
            self._waiting.pop(me, None)
        self._replaced.discard(me)
        self._threads.discard(me)

    def _watch(self) -> None:
        while not self._closed.wait(_PATIENCE_SECONDS):
            late = time.monotonic() - _PATIENCE_SECONDS
            for thread, since in list(self._waiting.items()):
                if since < late and len(self._threads) < self._most:
                    self._replaced.add(thread)
                    if self._waiting.pop(thread, None) is None:  # it began just now
                        self._replaced.discard(thread)
                    else:
                        self._hire()


def _run(future: Future[Any], function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
    try:
        future.set_result(function(*args, **kwargs))
    except BaseException as error:  # noqa: BLE001 (its caller looks at it, as with any executor)
        future.set_exception(error)
