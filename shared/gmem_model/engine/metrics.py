"""The engine's metrics; all engines of a process share one set."""

from __future__ import annotations

from typing import Any

from prometheus_client import CollectorRegistry

from gmem_model.engine.scheduler import Scheduler
from gmem_shared import telemetry


class EngineMetrics:
    """The ``gmem_engine_*`` metrics of one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._schedulers: list[Scheduler[Any]] = []
        self._counting = telemetry.Counting(registry)
        self.evaluation_rows = telemetry.ENGINE_EVALUATION_ROWS.histogram(registry)
        self.evaluation_seconds = telemetry.ENGINE_EVALUATION_SECONDS.histogram(registry)
        self.wasted_evaluations = telemetry.ENGINE_WASTED_EVALUATIONS.counter(registry)
        self.rows_waiting = telemetry.ENGINE_ROWS_WAITING.gauge(registry)
        self.rows_waiting.set_function(lambda: sum(s.waiting_rows for s in tuple(self._schedulers)))
        self.rows_running = telemetry.ENGINE_ROWS_RUNNING.gauge(registry)
        self.rows_running.set_function(lambda: sum(s.running_rows for s in tuple(self._schedulers)))
        self.model_version = telemetry.ENGINE_MODEL_VERSION.gauge(registry)
        self.swaps = telemetry.ENGINE_SWAPS.counter(registry)
        self.swap_failures = telemetry.ENGINE_SWAP_FAILURES.counter(registry)

    def watch(self, scheduler: Scheduler[Any]) -> None:
        """Count the rows of a scheduler from now on."""
        self._schedulers.append(scheduler)

    def forget(self, scheduler: Scheduler[Any]) -> None:
        """Count a scheduler's rows no longer."""
        self._schedulers.remove(scheduler)

    def evaluated(self, rows: int, seconds: float) -> None:
        """Take note of an evaluation."""
        self._counting.note(self._count, rows, seconds)

    def _count(self, rows: int, seconds: float) -> None:
        self.evaluation_rows.observe(rows)
        self.evaluation_seconds.observe(seconds)
