"""The front end's instruments, created once per registry."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry

from gmem_generator.stopwatch import STAGES
from gmem_shared import telemetry


class Metrics:
    """One attribute per metric; names, labels and buckets are `gmem_shared.telemetry`'s."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.requests = telemetry.GENERATOR_REQUESTS.counter(registry)
        self.request_seconds = telemetry.GENERATOR_REQUEST_SECONDS.histogram(registry)
        self.stage_seconds = telemetry.GENERATOR_STAGE_SECONDS.histogram(registry)
        self.images = telemetry.GENERATOR_IMAGES.counter(registry)
        self.evaluations = telemetry.GENERATOR_EVALUATIONS.counter(registry)
        self.images_waiting = telemetry.GENERATOR_IMAGES_WAITING.gauge(registry)
        self.backlog_seconds = telemetry.GENERATOR_BACKLOG_SECONDS.gauge(registry)
        self.draw_requests = telemetry.GENERATOR_DRAW_REQUESTS.histogram(registry)
        self.cancelled = telemetry.GENERATOR_CANCELLED.counter(registry)
        self.ready = telemetry.GENERATOR_READY.gauge(registry)
        self._stages = {stage: self.stage_seconds.labels(stage) for stage in STAGES}

    def observe_stages(self, seconds: Mapping[str, float]) -> None:
        """Record where the time of a request went; a stage that was not entered is left out."""
        for stage, spent in seconds.items():
            if spent:
                self._stages[stage].observe(spent)
