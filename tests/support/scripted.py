"""Engine processes that do what a test says: the pipe is real, the process behind it is not."""

from __future__ import annotations

import os
import socket
import threading
from multiprocessing.connection import Connection
from typing import Any, TypeVar

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from gmem_model.engine.pool import process as process_module
from gmem_model.engine.pool.messages import (
    Answer,
    Ask,
    Close,
    Failed,
    Finished,
    Setup,
    State,
    Submit,
)
from gmem_model.engine.pool.pool import EnginePool
from gmem_shared.errors import GmemError
from gmem_shared.settings import EngineSettings, LogSettings, StoreSettings
from gmem_shared.types import GeneratedImage, GenerationTask, ModelInfo, VersionRef
from tests.support.engine import eventually

M = TypeVar("M")


def version(seq: int) -> VersionRef:
    return VersionRef("tiny", seq, f"sha256-{seq:064x}")


class Child:
    """The other end of one process's pipe; stands in for its ``subprocess.Popen``."""

    def __init__(self, command: list[str], pass_fds: list[int], **options: Any) -> None:
        self.connection = Connection(os.dup(pass_fds[0]))
        self.heard: list[Any] = []
        self.killed = False
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            while True:
                self.heard += self.connection.recv()
                if any(isinstance(message, Close) for message in self.heard):
                    self.kill()
        except (EOFError, OSError):
            pass

    def all(self, kind: type[M]) -> list[M]:
        return [message for message in self.heard if isinstance(message, kind)]

    def tasks(self, count: int) -> list[GenerationTask]:
        """Wait for that many tasks."""
        eventually(lambda: len(self.all(Submit)) >= count)
        return [message.task for message in self.all(Submit)]

    def say(self, *messages: Any) -> None:
        self.connection.send(list(messages))

    def finish(self, task: GenerationTask, *positions: int) -> None:
        """Send images that show the seed of their row."""
        for position in positions:
            pixels = np.full((1, 1, 1), task.seeds[position], np.uint8)
            self.say(Finished(task.id, GeneratedImage(position, pixels, version(1), 1)))

    def fail(self, task: GenerationTask, error: GmemError) -> None:
        self.say(Failed(task.id, error))

    def answer(self, question: Ask, content: list[ModelInfo] | GmemError) -> None:
        self.say(Answer(question.number, content))

    def kill(self) -> None:
        self.killed = True
        with socket.socket(fileno=os.dup(self.connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)

    def wait(self) -> int:
        return -9


class Script:
    """A pool and its children, in the order of their numbers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.registry = CollectorRegistry()
        monkeypatch.setattr(process_module.subprocess, "Popen", Child)

    def open(self, processes: int = 2, *versions: VersionRef) -> EnginePool:
        """A pool whose processes hold these versions, the first unless told otherwise."""
        setup = Setup(
            StoreSettings(poll_seconds=0.5),
            EngineSettings(drain_seconds=1.0),
            LogSettings(),
            "tiny@production",
        )
        self.pool = EnginePool(setup, processes, registry=self.registry)
        self.pool.start()
        eventually(lambda: len(self.children) == processes)
        for child in self.children:
            self.ready(child, *(versions or (version(1),)))
        return self.pool

    @property
    def children(self) -> list[Child]:
        return [process._process for _, process in sorted(self.pool._processes.items())]  # type: ignore[misc]

    def ready(self, child: Child, *versions: VersionRef) -> None:
        """Have a child say what it holds, and wait until that is known."""
        state = State(None, frozenset(versions))
        child.say(state)
        eventually(
            lambda: any(
                process._process is child and process.state == state  # type: ignore[comparison-overlap]
                for process in list(self.pool._processes.values())
            )
        )
