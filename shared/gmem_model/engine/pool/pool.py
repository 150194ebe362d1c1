"""The engine on every core: tasks of this process, made by others."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry

from gmem_model.engine.pool import routing
from gmem_model.engine.pool.job import Job, Part
from gmem_model.engine.pool.merging import MergedMetrics
from gmem_model.engine.pool.messages import (
    Answer,
    Failed,
    Finished,
    FromChild,
    Metrics,
    Setup,
    State,
)
from gmem_model.engine.pool.process import EngineProcess
from gmem_shared.errors import (
    CancelledError,
    ConflictError,
    GmemError,
    NotReadyError,
    OverloadedError,
)
from gmem_shared.types import GeneratedImage, GenerationTask, ModelInfo, Reference

if TYPE_CHECKING:
    from gmem_model.engine.engine import Listener

log = structlog.get_logger(__name__)

_CLOSE_SECONDS = 10.0
"""What a process may take to end besides its drain."""

_STABLE_SECONDS = 60.0
_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0
"""A process that ends is replaced after a pause, longer each time that it did not live long."""


class EnginePool:
    """An `EngineHost` in each of several processes, used as if it were one.

    A task goes to the process with the least to do; a large one of a pinned version is divided.
    Tasks are handed over without a round trip: what a process refuses fails a moment later.
    Every method may be called from any thread; listeners are called on the pool's.

    Args:
        setup: What each process is told.
        processes: How many.
        registry: Where the merged metrics of the processes appear.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        setup: Setup,
        processes: int,
        *,
        registry: CollectorRegistry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._setup = setup
        self._clock = clock
        self._metrics = MergedMetrics()
        registry.register(self._metrics)
        self._closing = threading.Event()
        self._serial = itertools.count()
        # The lock guards what follows; listeners are called without it.
        self._lock = threading.Lock()
        self._processes: dict[int, EngineProcess] = {}
        self._jobs: dict[str, Job] = {}
        self._absence = "the engine processes are starting"
        self._keepers = [
            threading.Thread(target=self._keep, args=(n,), name=f"engine-process-{n}", daemon=True)
            for n in range(processes)
        ]

    def start(self) -> None:
        """Start the processes; does not wait for them."""
        for keeper in self._keepers:
            keeper.start()

    def close(self) -> None:
        """Finish the accepted tasks, for at most ``drain_seconds``, and end the processes."""
        with self._lock:
            self._closing.set()
            for process in self._processes.values():
                process.close()
        end = self._clock() + self._setup.engine.drain_seconds + _CLOSE_SECONDS
        for number, keeper in enumerate(self._keepers):
            if keeper.is_alive():
                keeper.join(max(0.0, end - self._clock()))
            with self._lock:
                late = self._processes.get(number)
            if late is not None:
                late.kill()
                keeper.join()

    def check(self) -> None:
        """Return when tasks for the default model would be accepted: one process is enough.

        Raises:
            NotReadyError: Says why not.
        """
        with self._lock:
            processes = self._started()
            problems = [process.state.problem for process in processes if process.state]
        if None not in problems:
            raise self._not_ready(problems[0])

    def offer(self, task: GenerationTask, listener: Listener) -> bool:
        """Hand a task to processes; never waits.

        Returns:
            True: the task was accepted.

        Raises:
            GmemError: The task is refused; the listener is not called.
        """
        reference = Reference.parse(task.model)
        with self._lock:
            if task.id in self._jobs:
                raise ConflictError(
                    f"task {task.id!r} is still unfinished; expected a new id for a new task"
                )
            processes = self._processes_for(reference)
            job = self._jobs[task.id] = Job(task, listener, self._clock())
            if not routing.may_be_divided(reference):
                processes = [min(processes, key=lambda process: process.backlog)]
            self._assign(job, processes)
        return True

    def submit(self, task: GenerationTask, listener: Listener) -> None:
        """Hand a task to processes; as `offer`, since a process does the waiting."""
        self.offer(task, listener)

    def cancel(self, task_id: str) -> None:
        """Stop a task; ids of ended tasks are ignored."""
        with self._lock:
            job = self._jobs.get(task_id)
            if job is not None:
                self._forget(job)
        if job is not None:
            job.fail(CancelledError(f"task {task_id!r} was cancelled"))

    def describe(self, model: str) -> ModelInfo:
        """Describe a model version.

        While an alias moves, processes follow one after the other. The answer is a version that
        all of them hold, so that its tasks find every process ready for them.

        Raises:
            NotFoundError: No such model, alias or version.
            NotReadyError: No process answers yet, or there is no default model.
        """
        with self._lock:
            processes = self._serving()
            questions = [process.ask(model) for process in processes]
        answers = [_outcome(question) for question in questions]
        described = [answer[0] for answer in answers if not isinstance(answer, GmemError)]
        if not described:
            raise next(answer for answer in answers if isinstance(answer, GmemError))
        with self._lock:
            for info in described:
                pinned = Reference(info.version.name, info.version.digest)
                if all(process.holds(pinned) for process in processes):
                    return info
        return described[0]

    def models(self) -> list[ModelInfo]:
        """Describe the default version of every model; those that cannot be read are left out."""
        with self._lock:
            question = self._serving()[0].ask(None)
        return question.result()

    def _started(self) -> Sequence[EngineProcess]:
        """Return the processes that run, in order of their numbers."""
        if self._closing.is_set():
            raise NotReadyError("the engine is shutting down", retry_after_seconds=1.0)
        started = [p for _, p in sorted(self._processes.items()) if p.state is not None]
        if not started:
            raise self._not_ready(self._absence)
        return started

    def _serving(self) -> Sequence[EngineProcess]:
        """Return the processes that serve the default model; if none does, all that run."""
        started = self._started()
        return [process for process in started if process.ready] or started

    def _processes_for(self, reference: Reference) -> Sequence[EngineProcess]:
        """Return the processes that hold a version, and have the others load it; or all."""
        serving = self._serving()
        holders = [process for process in serving if process.holds(reference)]
        if holders:
            for process in serving:
                if not process.holds(reference):
                    process.prepare(str(reference))
        return holders or serving

    def _not_ready(self, reason: str | None) -> NotReadyError:
        return NotReadyError(
            reason or "the engine is starting", retry_after_seconds=self._setup.store.poll_seconds
        )

    def _assign(self, job: Job, processes: Sequence[EngineProcess]) -> None:
        """Make parts of a job and hand them out."""
        cost = routing.cost_per_row(job.task)
        backlogs = [process.backlog for process in processes]
        shares = routing.divide(len(job.task), cost, backlogs)
        start = 0
        for process, rows in zip(processes, shares, strict=True):
            if rows:
                self._hand_out(Part(self._part_id(job), job, start, rows, cost), process)
                start += rows

    def _hand_out(self, part: Part, process: EngineProcess) -> None:
        part.job.parts.append(part)
        process.assign(part, part.task(self._clock()))

    def _part_id(self, job: Job) -> str:
        """Return an id of its own: nothing late of an earlier task may be taken for this one's."""
        return f"{job.task.id}#{next(self._serial)}"

    def _forget(self, job: Job) -> None:
        """Drop a job and stop what is left of it; the lock is held."""
        if self._jobs.get(job.task.id) is job:
            del self._jobs[job.task.id]
        for process in self._processes.values():
            for part in job.parts:
                process.cancel(part)

    def _keep(self, number: int) -> None:
        """Keep one process running; on a thread of its own, which also reads what it says."""
        pause = 0.0
        while not self._closing.wait(pause):
            started = self._clock()
            try:
                self._live(number)
            except Exception:  # a defect, or no process to be had: the next may do better
                log.exception("engine.process.failed", number=number)
            brief = self._clock() - started < _STABLE_SECONDS
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS) if brief else 0.0
            pause = max(pause, _FIRST_PAUSE_SECONDS)

    def _live(self, number: int) -> None:
        """See one process from its start to its end."""
        process = EngineProcess(number, self._setup)
        with self._lock:
            self._processes[number] = process
            if self._closing.is_set():
                process.kill()
        try:
            while True:
                for message in process.connection.recv():
                    self._handle(process, message)
        except (EOFError, OSError):
            pass  # it has ended
        finally:
            self._bury(process)

    def _handle(self, process: EngineProcess, message: FromChild) -> None:
        match message:
            case Finished(part_id, image):
                with self._lock:
                    part = process.count_image(part_id)
                    if part is not None and not any(each.left for each in part.job.parts):
                        self._forget(part.job)
                if part is not None:
                    self._deliver(part, image)
            case Failed(part_id, error):
                self._fail(process, part_id, error)
            case State():
                with self._lock:
                    process.update(message)
            case Metrics(families):
                self._metrics.update(process.number, families)
            case Answer():
                with self._lock:
                    process.answer(message)

    def _deliver(self, part: Part, image: GeneratedImage) -> None:
        part.deliver(image)
        if part.job.ended:  # perhaps early, by a defect of its listener
            with self._lock:
                self._forget(part.job)

    def _fail(self, process: EngineProcess, part_id: str, error: GmemError) -> None:
        """End a job with the failure of a part, unless another process has room for that."""
        with self._lock:
            part = process.parts.get(part_id)
            if part is None:
                return
            process.drop(part)
            if isinstance(error, OverloadedError) and part.left == part.rows:
                part.refusals[process.number] = error
                if other := self._with_room(part):
                    other.assign(part, part.task(self._clock()))
                    return
                error = min(part.refusals.values(), key=lambda e: e.retry_after_seconds or 0.0)
            self._forget(part.job)
        part.job.fail(error)

    def _with_room(self, part: Part) -> EngineProcess | None:
        """Return the process that has the least to do of those that did not refuse a part."""
        others = [p for p in self._processes.values() if p.ready and p.number not in part.refusals]
        return min(others, key=lambda process: process.backlog, default=None)

    def _bury(self, process: EngineProcess) -> None:
        """Fail what a process that has ended did not finish."""
        error = NotReadyError("an engine process ended; try again", retry_after_seconds=1.0)
        with self._lock:
            del self._processes[process.number]
            jobs = {part.job for part in process.parts.values()}
            for job in jobs:
                self._forget(job)
        status = process.reap(error)
        self._metrics.end(process.number)
        if not self._closing.is_set():
            self._absence = (
                f"engine process {process.number} ended with status {status} and is started again; "
                "its log says why"
            )
            log.error("engine.process.ended", number=process.number, status=status, tasks=len(jobs))
        for job in jobs:
            job.fail(error)


def _outcome(question: Future[list[ModelInfo]]) -> list[ModelInfo] | GmemError:
    try:
        return question.result()
    except GmemError as error:
        return error
