"""One model version at work: a thread that evaluates whichever rows are running, for ever."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import structlog
import torch
from torch import Tensor

from gmem_model.decoding import Decoder
from gmem_model.engine.batching import batching_of
from gmem_model.engine.delivery import Delivery
from gmem_model.engine.graphs import graphs_of
from gmem_model.engine.initial import Origin
from gmem_model.engine.metrics import EngineMetrics
from gmem_model.engine.pace import Pace
from gmem_model.engine.request import check_task, resolve_guidance, resolve_sampler
from gmem_model.engine.rows import Rows, cached_plan
from gmem_model.engine.scheduler import Scheduler
from gmem_model.engine.task import Row, Task
from gmem_model.engine.windows import ConditionArray, RowSpec
from gmem_model.guidance import GuidedNetwork
from gmem_model.samplers import Plan
from gmem_shared.errors import (
    CancelledError,
    DeadlineExceededError,
    GmemError,
    InternalError,
    NotReadyError,
)
from gmem_shared.model_config import ModelConfig
from gmem_shared.settings import EngineSettings
from gmem_shared.types import GeneratedImage, GenerationTask, VersionRef

log = structlog.get_logger(__name__)


class Listener(Protocol):
    """Who asked for a task. Called on the engine's thread; must not block.

    An accepted task ends with exactly one call of ``done`` or ``failed``.
    """

    def image(self, image: GeneratedImage) -> None:
        """Take one finished image; they come in the order in which they finish."""
        ...

    def done(self) -> None:
        """Every image was handed over."""
        ...

    def failed(self, error: GmemError) -> None:
        """No further image will come."""
        ...


@dataclass(slots=True, eq=False)
class Work:
    """What the scheduler carries for the engine.

    Attributes:
        origins: Seed and index of each row.
        delivered: Images that the listener has.
        error: Why the task ended early.
    """

    request: GenerationTask
    listener: Listener
    plan: Plan
    origins: list[Origin]
    delivered: int = 0
    error: GmemError | None = None


class Engine:
    """Continuous batching of one network: rows join and leave at every evaluation.

    Every method may be called from any thread.

    Args:
        network: As `runtimes.prepare` gives it.
        pace: What is known of the time of its evaluations.
        invariant: Whether a row has the same bits in any company.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        network: GuidedNetwork,
        decoder: Decoder,
        config: ModelConfig,
        version: VersionRef,
        settings: EngineSettings,
        metrics: EngineMetrics,
        pace: Pace,
        *,
        invariant: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.config = config
        self.version = version
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        batching = batching_of(settings, pace)
        self._rows = Rows(
            network,
            config.process,
            batching.max_rows,
            modulation_bytes=settings.modulation_bytes,
            graphs=graphs_of(
                settings, network.network.device, batching.max_rows, invariant=invariant
            ),
        )
        self._slots: dict[Row[Work], int] = {}
        # The lock guards what follows; evaluations and listeners run without it.
        self._changed = threading.Condition()
        self._scheduler: Scheduler[Work] = Scheduler(batching, settings.max_waiting_rows, pace)
        self._ended: list[Task[Work]] = []
        self._closing = False
        self._decoder = decoder
        self._delivery = Delivery(decoder, network.network.device, settings.threads)
        self._thread = threading.Thread(target=self._run, name=f"engine-{version}", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread."""
        self._metrics.watch(self._scheduler)
        self._thread.start()

    def submit(self, task: GenerationTask, listener: Listener) -> bool:
        """Queue a task; false when the engine has retired.

        Raises:
            GmemError: The task is refused and the listener will not be called. See `check_task`,
                `resolve_sampler`, `resolve_guidance`, `samplers.plan` and `Scheduler.submit`.
        """
        check_task(task, self.config, self.version)
        sampler, num_steps = resolve_sampler(task, self.config, self._settings.max_steps)
        guidance = resolve_guidance(task, self.config)
        plan = cached_plan(sampler, num_steps, self.config.process, guidance)
        origins = list(zip(task.seeds.tolist(), task.indices.tolist(), strict=True))
        with self._changed:
            if self._closing:
                return False
            now = self._clock()
            seconds = task.deadline_seconds
            scheduled = Task(
                id=task.id,
                rows=len(task),
                evaluations=len(plan),
                payload=Work(task, listener, plan, origins),
                priority=task.priority,
                deadline=None if seconds is None else now + seconds,
            )
            self._scheduler.submit(scheduled, now)
            self._changed.notify()
            return True

    def cancel(self, task_id: str) -> None:
        """Stop a task: its rows are in no later evaluation. Ids of ended tasks are ignored."""
        with self._changed:
            task = self._scheduler.cancel(task_id)
            if task is not None:
                self._end(task, CancelledError(f"task {task_id!r} was cancelled"))

    def retire(self) -> None:
        """Accept nothing more; the thread ends by itself after the last accepted task."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def close(self, drain_seconds: float) -> None:
        """Retire and wait; tasks unfinished after ``drain_seconds`` fail with `NotReadyError`."""
        self.retire()
        self._thread.join(drain_seconds)
        with self._changed:
            for task in self._scheduler.tasks():
                error = NotReadyError("the engine was shut down", retry_after_seconds=1.0)
                self._end(task, error)
        self._thread.join()

    def _run(self) -> None:
        torch.set_num_threads(self._settings.threads)
        with torch.inference_mode():
            while self._wait():
                self._turn()
        self._delivery.close()
        self._metrics.forget(self._scheduler)

    def _wait(self) -> bool:
        """Block until there is something to do; false when there never will be."""
        with self._changed:
            while not (self._ended or self._slots):
                if self._scheduler.idle:
                    if self._closing:
                        return False
                    self._changed.wait()
                elif (seconds := self._scheduler.opens_at() - self._clock()) > 0:
                    self._changed.wait(seconds)
                else:
                    break
            return True

    def _turn(self) -> None:
        joined = self._schedule()
        try:
            self._join(joined)
            self._deliver(self._evaluate())
        except Exception as error:  # whatever broke, it broke these tasks and not the engine
            log.exception("engine.evaluation.failed", model=str(self.version), rows=len(self._rows))
            self._fail(
                [row.task for row in (*self._slots, *joined)],
                InternalError(f"an evaluation of model {self.version} failed: {error!r}"),
            )
        self._notify_ended()

    def _schedule(self) -> list[Row[Work]]:
        """Let go of what ended; return the rows that join now."""
        with self._changed:
            now = self._clock()
            for task in self._scheduler.expire(now):
                seconds = task.payload.request.deadline_seconds
                done = f"{task.finished} of {task.rows} images were finished"
                error = DeadlineExceededError(f"the deadline of {seconds} s came when {done}")
                self._end(task, error)
            # Under the same lock: a row stopped after this keeps its slot for one evaluation more.
            self._release_slots()
            return self._scheduler.admit(now)

    def _release_slots(self) -> None:
        """Free the slots of rows that were stopped before their image was delivered."""
        for row in self._scheduler.stopped():
            slot = self._slots.pop(row, None)
            if slot is None:
                continue
            error = row.task.payload.error
            wasted = self._metrics.wasted_evaluations.labels(error.code if error else "internal")
            wasted.inc(self._rows.evaluations(slot))
            self._rows.leave([slot])

    def _join(self, rows: Sequence[Row[Work]]) -> None:
        if rows:
            slots = self._rows.join([_spec(row) for row in rows], self._upcoming)
            self._slots.update(zip(rows, slots, strict=True))

    def _upcoming(self, rows: int) -> list[Origin]:
        """Return seed and index of the rows that will join next."""
        with self._changed:
            waiting = self._scheduler.queue.upcoming(rows)
            return [task.payload.origins[position] for task, position in waiting]

    def _evaluate(self) -> list[Row[Work]]:
        """Take the running rows one evaluation further and return those that are finished."""
        rows = len(self._rows)
        if not rows:
            return []
        started = self._clock()
        self._rows.step()
        seconds = self._clock() - started
        self._metrics.evaluated(rows, seconds)
        with self._changed:
            return self._scheduler.advance(rows, seconds)

    def _deliver(self, rows: Sequence[Row[Work]]) -> None:
        """Have finished rows decoded and handed over; their places are free at once."""
        if not rows:
            return
        slots = [self._slots[row] for row in rows]
        latents = self._rows.latents(slots)
        self._rows.leave(slots)
        for row in rows:
            del self._slots[row]
        self._delivery.put(partial(self._hand_over, rows, latents, self._clock()))

    def _hand_over(self, rows: Sequence[Row[Work]], latents: Tensor, finished: float) -> None:
        """Decode latents and give the images to the listeners of their rows."""
        started = self._clock()
        try:
            finite = np.isfinite(latents.cpu().numpy()).all(axis=(1, 2, 3)).tolist()
            pixels = self._decoder(latents)
        except Exception as error:  # as in `_turn`
            log.exception("engine.decoding.failed", model=str(self.version), rows=len(rows))
            failure = InternalError(f"decoding for model {self.version} failed: {error!r}")
            self._fail([row.task for row in rows], failure)
            return
        decode_seconds = self._clock() - started
        for row, image, is_finite in zip(rows, pixels, finite, strict=True):
            if not is_finite:
                self._fail([row.task], self._not_finite(row))
            work = row.task.payload
            if work.error is not None:
                continue
            done = GeneratedImage(
                position=row.position,
                pixels=image.copy(),
                model=self.version,
                evaluations=work.plan.network_evaluations,
                queue_seconds=row.admitted - row.task.submitted,
                denoise_seconds=finished - row.admitted,
                decode_seconds=decode_seconds,
            )
            self._call(row.task, work.listener.image, done)
            work.delivered += 1
            if work.delivered == row.task.rows and work.error is None:
                self._call(row.task, work.listener.done)

    def _not_finite(self, row: Row[Work]) -> InternalError:
        log.error(
            "engine.row.not_finite",
            model=str(self.version),
            task=row.task.id,
            request_id=row.task.payload.request.request_id,
        )
        return InternalError(
            f"image {row.position} of a task became NaN or infinite in its {row.evaluations} "
            f"evaluations of model {self.version}; try another sampler or more steps, and check "
            "the model if others fail as well"
        )

    def _notify_ended(self) -> None:
        with self._changed:
            ended, self._ended = self._ended, []
        if ended:
            self._delivery.put(partial(self._tell_failed, ended))

    def _tell_failed(self, tasks: Sequence[Task[Work]]) -> None:
        for task in tasks:
            error = task.payload.error
            if error is not None:
                self._call(task, task.payload.listener.failed, error)

    def _call(self, task: Task[Work], call: Callable[..., None], *arguments: object) -> None:
        try:
            call(*arguments)
        except Exception:  # a listener is foreign code: its defect must not stop other tasks
            request_id = task.payload.request.request_id
            log.exception("engine.listener.failed", task=task.id, request_id=request_id)
            self._fail([task], InternalError(f"the listener of task {task.id!r} failed"))

    def _fail(self, tasks: Iterable[Task[Work]], error: GmemError) -> None:
        with self._changed:
            for task in tasks:
                self._end(task, error)

    def _end(self, task: Task[Work], error: GmemError) -> None:
        """Drop a task, once, and have its listener told; the lock is held."""
        self._scheduler.drop(task)
        if task.payload.error is None:
            task.payload.error = error
            self._ended.append(task)
        self._changed.notify()


def _spec(row: Row[Work]) -> RowSpec:
    work, position = row.task.payload, row.position
    plan = work.plan if len(work.plan) == row.evaluations else work.plan.padded(row.evaluations)
    return RowSpec(plan, _condition(work.request, position), *work.origins[position])


def _condition(request: GenerationTask, position: int) -> ConditionArray:
    if request.snippets is not None:
        return request.snippets[position]
    return np.array(-1 if request.labels is None else request.labels[position], np.int64)
