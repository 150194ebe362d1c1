"""Liveness, readiness, metrics."""

from __future__ import annotations

from fastapi import APIRouter
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from gmem_generator.metrics import Metrics
from gmem_generator.openapi import METRICS_RESPONSES, problem_responses
from gmem_generator.problems import of_error
from gmem_generator.readiness import Readiness
from gmem_generator.schemas import LiveAnswer, ReadyAnswer
from gmem_shared.errors import ConflictError, NotReadyError


def router(readiness: Readiness, metrics: Metrics, workers: int) -> APIRouter:
    """Return the routes that orchestrators and Prometheus call."""
    api = APIRouter(tags=["health"])

    @api.get("/livez")
    async def live() -> LiveAnswer:
        """Say that the process answers; also while it is draining."""
        return LiveAnswer()

    @api.get("/readyz", response_model=ReadyAnswer, responses=problem_responses(503))
    async def ready() -> ReadyAnswer | Response:
        """Say whether a request would be taken now; if not, 503 with the reason part by part."""
        parts, wait = await readiness.parts()
        if wait is None:
            return ReadyAnswer(parts=parts)
        away = "; ".join(f"{name}: {part.reason}" for name, part in parts.items() if part.reason)
        error = NotReadyError(away, retry_after_seconds=wait)
        return of_error(error, parts={name: part.model_dump() for name, part in parts.items()})

    @api.get("/metrics", responses=METRICS_RESPONSES, response_class=Response)
    async def prometheus() -> Response:
        """Return every metric of the process in Prometheus's text format.

        Workers that share this port have a port each for theirs.
        """
        if workers > 1:
            raise ConflictError(
                f"expected a scrape of one process, found a port that {workers} workers share; "
                f"scrape the {workers} ports from GMEM_GENERATOR__METRICS_PORT on"
            )
        text = generate_latest(metrics.registry)
        return Response(text, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    return api
