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
        self._counting = telemetry.Counting(registry)
        self.requests = telemetry.GENERATOR_REQUESTS.counter(registry)
        self.request_seconds = telemetry.GENERATOR_REQUEST_SECONDS.histogram(registry)
        self.stage_seconds = telemetry.GENERATOR_STAGE_SECONDS.histogram(registry)
        self.images = telemetry.GENERATOR_IMAGES.counter(registry)
        self.evaluations = telemetry.GENERATOR_EVALUATIONS.counter(registry)
        self.images_waiting = telemetry.GENERATOR_IMAGES_WAITING.gauge(registry)
        self.backlog_seconds = telemetry.GENERATOR_BACKLOG_SECONDS.gauge(registry)
        self.draw_requests = telemetry.GENERATOR_DRAW_REQUESTS.histogram(registry)
        self.cancelled = telemetry.GENERATOR_CANCELLED.counter(registry)
        self.refused = telemetry.GENERATOR_REFUSED.counter(registry)
        self.quota_uncounted = telemetry.GENERATOR_QUOTA_UNCOUNTED.counter(registry)
        self.ready = telemetry.GENERATOR_READY.gauge(registry)
        self.jobs = telemetry.GENERATOR_JOBS.counter(registry)
        self.jobs_unfinished = telemetry.GENERATOR_JOBS_UNFINISHED.gauge(registry)
        self.job_parts = telemetry.GENERATOR_JOB_PARTS.counter(registry)
        self.job_parts_queued = telemetry.GENERATOR_JOB_PARTS_QUEUED.gauge(registry)
        self.job_images = telemetry.GENERATOR_JOB_IMAGES.counter(registry)
        self.redis_up = telemetry.GENERATOR_REDIS_UP.gauge(registry)
        self._stages = {stage: self.stage_seconds.labels(stage) for stage in STAGES}

    def finished(self, route: str, status: int, seconds: float) -> None:
        """Record that a request was answered."""
        self._counting.note(self._count_request, route, status, seconds)

    def _count_request(self, route: str, status: int, seconds: float) -> None:
        self.requests.labels(route, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)

    def generated(self, images: int, evaluations: int) -> None:
        """Record what was delivered."""
        self._counting.note(self.images.inc, images)
        self._counting.note(self.evaluations.inc, evaluations)

    def drawn(self, requests: int) -> None:
        """Record a draw for so many requests."""
        self._counting.note(self.draw_requests.observe, requests)

    def observe_stages(self, seconds: Mapping[str, float]) -> None:
        """Record where the time of a request went; a stage that was not entered is left out."""
        self._counting.note(self._count_stages, dict(seconds))

    def _count_stages(self, seconds: Mapping[str, float]) -> None:
        for stage, spent in seconds.items():
            if spent:
                self._stages[stage].observe(spent)
