"""The engine's metrics; all engines of a process share one set."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

from gmem_model.engine.scheduler import Scheduler
from gmem_shared import telemetry

_MAX_UNCOUNTED = 4096


class EngineMetrics(Collector):
    """The ``gmem_engine_*`` metrics of one registry.

    What every evaluation changes is noted, and counted when somebody reads it: a histogram or a
    gauge takes longer than what it counts takes the scheduler.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._evaluations: deque[tuple[int, float]] = deque()
        self._schedulers: list[Scheduler[Any]] = []
        registry.register(self)  # before what it counts, since collected in this order
        self.evaluation_rows = telemetry.ENGINE_EVALUATION_ROWS.histogram(registry)
        self.evaluation_seconds = telemetry.ENGINE_EVALUATION_SECONDS.histogram(registry)
        self.wasted_evaluations = telemetry.ENGINE_WASTED_EVALUATIONS.counter(registry)
        self.rows_waiting = telemetry.ENGINE_ROWS_WAITING.gauge(registry)
        self.rows_waiting.set_function(lambda: sum(s.waiting_rows for s in tuple(self._schedulers)))
        self.rows_running = telemetry.ENGINE_ROWS_RUNNING.gauge(registry)
        self.rows_running.set_function(lambda: sum(s.running_rows for s in tuple(self._schedulers)))
        self.model_version = telemetry.ENGINE_MODEL_VERSION.gauge(registry)
        self.swaps = telemetry.ENGINE_SWAPS.counter(registry)

    def watch(self, scheduler: Scheduler[Any]) -> None:
        """Count the rows of a scheduler from now on."""
        self._schedulers.append(scheduler)

    def forget(self, scheduler: Scheduler[Any]) -> None:
        """Count a scheduler's rows no longer."""
        self._schedulers.remove(scheduler)

    def evaluated(self, rows: int, seconds: float) -> None:
        """Take note of an evaluation."""
        self._evaluations.append((rows, seconds))
        if len(self._evaluations) > _MAX_UNCOUNTED:
            self._count()

    def collect(self) -> Iterable[Metric]:
        """Return nothing of its own: what follows is up to date after this."""
        self._count()
        return ()

    def _count(self) -> None:
        for _ in range(len(self._evaluations)):
            try:
                rows, seconds = self._evaluations.popleft()
            except IndexError:  # another thread was faster
                return
            self.evaluation_rows.observe(rows)
            self.evaluation_seconds.observe(seconds)
