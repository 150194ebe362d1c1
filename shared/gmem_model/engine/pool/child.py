"""One engine process: an `EngineHost` that is told by messages what to do.

``python -m gmem_model.engine.pool.child FD``, with FD one end of a pipe; `process` starts it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from threading import Event, Thread

import structlog
from prometheus_client import CollectorRegistry

from gmem_model.engine.host import EngineHost
from gmem_model.engine.pool.messages import (
    Answer,
    Ask,
    Cancel,
    Close,
    Failed,
    Finished,
    FromChild,
    Metrics,
    Prepare,
    Setup,
    State,
    Submit,
    ToChild,
)
from gmem_model.engine.pool.outbox import Outbox
from gmem_shared import logs
from gmem_shared.errors import GmemError, InternalError
from gmem_shared.store import Store
from gmem_shared.types import GeneratedImage, GenerationTask

log = structlog.get_logger(__name__)

_WORKERS = 4
"""Threads for questions to the store, and as many for tasks that wait for a version."""

_TICK_SECONDS = 0.05
_TICKS_PER_METRICS = 20


class Child:
    """Reads messages on a thread that waits for nothing else, so that a cancellation is prompt."""

    def __init__(self, connection: Connection, setup: Setup) -> None:
        self._connection = connection
        self._outbox = Outbox(connection)
        self._registry = CollectorRegistry()
        self._host = EngineHost(
            Store.from_settings(setup.store),
            setup.engine,
            poll_seconds=setup.store.poll_seconds,
            default_model=setup.default_model,
            registry=self._registry,
            redis=setup.redis,
        )
        self._readers = ThreadPoolExecutor(_WORKERS, "engine-read")
        self._submitters = ThreadPoolExecutor(_WORKERS, "engine-submit")
        self._submissions: dict[str, Future[None]] = {}
        self._closing = Event()
        self._reported: State | None = None

    def run(self) -> None:
        """Serve until told to close."""
        self._host.start()
        Thread(target=self._read, name="engine-inbox", daemon=True).start()
        for number in itertools.count():
            self._tick(number)
            if self._closing.wait(_TICK_SECONDS):
                break
        self._host.close()
        self._tick(0)
        self._outbox.close()

    def _read(self) -> None:
        try:
            while True:
                for message in self._connection.recv():
                    self._handle(message)
        except (EOFError, OSError):
            pass  # the parent is gone, however it ended: nobody is left to make images for
        except Exception:  # a defect: better a new process than one that hears nothing
            log.exception("engine.inbox.failed")
        os._exit(1)

    def _handle(self, message: ToChild) -> None:
        match message:
            case Submit(task):
                self._submit(task)
            case Cancel(task_id):
                self._cancel(task_id)
            case Prepare(model):
                self._submitters.submit(self._prepare, model)
            case Ask():
                self._readers.submit(self._answer, message)
            case Close():
                self._closing.set()

    def _submit(self, task: GenerationTask) -> None:
        listener = _Relay(task.id, self._outbox)
        with _told(listener.failed):
            if not self._host.offer(task, listener):
                submission = self._submitters.submit(self._submit_slowly, task, listener)
                self._submissions[task.id] = submission
                submission.add_done_callback(lambda _: self._submissions.pop(task.id, None))

    def _submit_slowly(self, task: GenerationTask, listener: _Relay) -> None:
        with _told(listener.failed):
            self._host.submit(task, listener)

    def _cancel(self, task_id: str) -> None:
        self._host.cancel(task_id)
        submission = self._submissions.get(task_id)
        if submission is not None:  # cannot be recalled: cancel when it arrives
            submission.add_done_callback(lambda _: self._host.cancel(task_id))

    def _prepare(self, model: str) -> None:
        try:
            self._host.prepare(model)
        except GmemError as error:  # the tasks that need it will say so
            log.warning("engine.prepare.failed", model=model, error=error.detail)

    def _answer(self, question: Ask) -> None:
        with _told(lambda error: self._say(Answer(question.number, error))):
            model = question.model
            infos = self._host.models() if model is None else [self._host.describe(model)]
            self._say(Answer(question.number, infos))

    def _tick(self, number: int) -> None:
        """Say how things stand, as far as that is news."""
        state = State(self._problem(), frozenset(self._host.versions()))
        if state != self._reported:
            self._reported = state
            self._say(state)
        if number % _TICKS_PER_METRICS == 0:
            self._say(Metrics(list(self._registry.collect())))

    def _problem(self) -> str | None:
        try:
            self._host.check()
        except GmemError as error:
            return error.detail
        return None

    def _say(self, message: FromChild) -> None:
        self._outbox.put(message)


class _Relay:
    """A listener that passes on what it hears."""

    def __init__(self, task_id: str, outbox: Outbox) -> None:
        self._task_id = task_id
        self._outbox = outbox

    def image(self, image: GeneratedImage) -> None:
        self._outbox.put(Finished(self._task_id, image))

    def done(self) -> None:
        """Say nothing: the parent counts the images."""

    def failed(self, error: GmemError) -> None:
        self._outbox.put(Failed(self._task_id, error))


@contextlib.contextmanager
def _told(tell: Callable[[GmemError], None]) -> Iterator[None]:
    """Tell what goes wrong; a defect fails one task or answer, not the process."""
    try:
        yield
    except GmemError as error:
        tell(error)
    except Exception as error:
        log.exception("engine.request.failed")
        tell(InternalError(f"the engine process failed: {error!r}"))


def main() -> None:
    """Do as the parent at the other end of the pipe says."""
    connection: Connection = Connection(int(sys.argv[1]))
    (setup,) = connection.recv()
    logs.configure(setup.log)
    Child(connection, setup).run()


if __name__ == "__main__":
    main()
