"""The engine's metrics; all engines of a process share one set."""

from __future__ import annotations

from prometheus_client import CollectorRegistry

from gmem_shared import telemetry


class EngineMetrics:
    """The ``gmem_engine_*`` metrics of one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.evaluation_rows = telemetry.ENGINE_EVALUATION_ROWS.histogram(registry)
        self.evaluation_seconds = telemetry.ENGINE_EVALUATION_SECONDS.histogram(registry)
        self.wasted_evaluations = telemetry.ENGINE_WASTED_EVALUATIONS.counter(registry)
        self.rows_waiting = telemetry.ENGINE_ROWS_WAITING.gauge(registry)
        self.rows_running = telemetry.ENGINE_ROWS_RUNNING.gauge(registry)
        self.model_version = telemetry.ENGINE_MODEL_VERSION.gauge(registry)
        self.swaps = telemetry.ENGINE_SWAPS.counter(registry)
