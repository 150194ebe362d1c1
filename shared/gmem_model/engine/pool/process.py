"""One engine process as its parent sees it."""

from __future__ import annotations

import itertools
import multiprocessing
import subprocess
import sys
from concurrent.futures import Future

from gmem_model.engine.pool import routing
from gmem_model.engine.pool.job import Part
from gmem_model.engine.pool.messages import (
    Answer,
    Ask,
    Cancel,
    Close,
    Prepare,
    Setup,
    State,
    Submit,
)
from gmem_model.engine.pool.outbox import Outbox
from gmem_shared.errors import GmemError, NotReadyError
from gmem_shared.types import GenerationTask, ModelInfo, Reference

CHILD = "gmem_model.engine.pool.child"


class EngineProcess:
    """A started process, its pipe, and what it was asked to do. Nothing here waits or locks.

    It lives as long as its pipe: it ends when its parent does, however that ends. It is no member
    of the parent's session, so that Ctrl-C reaches the parent alone, who then closes it in order.

    Attributes:
        number: Its place in the pool; a process that replaces another takes its number.
        connection: Where its messages come from.
        parts: What it makes at present, by id.
        backlog: What is left of these: rows times steps.
        state: What it last said of itself; ``None``: it is still starting.
    """

    def __init__(self, number: int, setup: Setup) -> None:
        self.number = number
        self.parts: dict[str, Part] = {}
        self.backlog = 0
        self.state: State | None = None
        self._prepared: set[str] = set()
        self._numbers = itertools.count()
        self._questions: dict[int, Future[list[ModelInfo]]] = {}
        self.connection, theirs = multiprocessing.Pipe()
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 (this interpreter, our own module)
                [sys.executable, "-P", "-m", CHILD, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._outbox = Outbox(self.connection)
        self._outbox.put(setup)

    @property
    def ready(self) -> bool:
        """Whether it serves the default model."""
        return self.state is not None and self.state.problem is None

    def holds(self, reference: Reference) -> bool:
        """Whether it has loaded this version."""
        return self.state is not None and routing.is_among(self.state.versions, reference)

    def assign(self, part: Part, task: GenerationTask) -> None:
        """Have the process make a part, given as a task of its own."""
        self.parts[part.id] = part
        self.backlog += part.left * part.cost
        self._outbox.put(Submit(task))

    def count_image(self, part_id: str) -> Part | None:
        """Take note of one image; ``None`` when the part was dropped before."""
        part = self.parts.get(part_id)
        if part is not None:
            part.left -= 1
            self.backlog -= part.cost
            if part.left == 0:
                del self.parts[part_id]
        return part

    def drop(self, part: Part) -> None:
        """Forget a part that came to its end there, if the process had it."""
        if self.parts.pop(part.id, None) is not None:
            self.backlog -= part.left * part.cost

    def cancel(self, part: Part) -> None:
        """Stop a part, if the process has it."""
        if part.id in self.parts:
            self.drop(part)
            self._outbox.put(Cancel(part.id))

    def prepare(self, model: str) -> None:
        """Have the process load a version, once for each time that its versions change."""
        if model not in self._prepared:
            self._prepared.add(model)
            self._outbox.put(Prepare(model))

    def update(self, state: State) -> None:
        """Take note of its state."""
        self.state = state
        self._prepared.clear()

    def ask(self, model: str | None) -> Future[list[ModelInfo]]:
        """Have it describe a model, or all."""
        question = Ask(next(self._numbers), model)
        future = self._questions[question.number] = Future()
        self._outbox.put(question)
        return future

    def answer(self, answer: Answer) -> None:
        """Take an answer of its."""
        future = self._questions.pop(answer.number)
        if isinstance(answer.content, GmemError):
            future.set_exception(answer.content)
        else:
            future.set_result(answer.content)

    def close(self) -> None:
        """Have it end after its last part; at once when it has none, since it is starting."""
        if self.state is None:
            self.kill()
        else:
            self._outbox.put(Close())

    def kill(self) -> None:
        """End it now."""
        self._process.kill()

    def reap(self, error: NotReadyError) -> int:
        """Release what is left of an ended process; questions fail. Returns the exit status."""
        for future in self._questions.values():
            future.set_exception(error)
        self.kill()
        self._outbox.close()
        self.connection.close()
        return self._process.wait()
