"""Messages on their way out of a process."""

from __future__ import annotations

from multiprocessing.connection import Connection
from queue import Empty, SimpleQueue
from threading import Thread

_MAX_BATCH = 256


class Outbox:
    """Sends messages over a pipe on a thread of its own: whoever puts one never waits.

    What has piled up leaves as one list, so under load a message costs less. When the other side
    is gone messages are dropped: whoever reads from the pipe learns of it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._waiting: SimpleQueue[object | None] = SimpleQueue()
        self._thread = Thread(target=self._run, name="engine-outbox", daemon=True)
        self._thread.start()

    def put(self, message: object) -> None:
        """Have a message sent soon, after those put before."""
        self._waiting.put(message)

    def close(self) -> None:
        """Send what was put, then end."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            batch = self._take()
            ended = batch[-1] is None
            try:
                self._connection.send(batch[:-1] if ended else batch)
            except OSError:
                return

    def _take(self) -> list[object | None]:
        """Wait for messages; the end, ``None``, can only be the last of them."""
        batch = [self._waiting.get()]
        while batch[-1] is not None and len(batch) < _MAX_BATCH:
            try:
                batch.append(self._waiting.get_nowait())
            except Empty:
                break
        return batch
