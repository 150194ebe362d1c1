"""``POST /generate``."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body
from starlette.requests import Request
from starlette.responses import Response

from gmem_generator import answers, negotiation
from gmem_generator.attendance import attend
from gmem_generator.body import CONTENT, JsonRoute
from gmem_generator.metrics import Metrics
from gmem_generator.middleware import STARTED
from gmem_generator.openapi import GENERATE_EXAMPLES, generate_responses
from gmem_generator.pipeline import Pipeline
from gmem_generator.quota import Quota
from gmem_generator.schemas import GenerateAnswer, GenerateBody
from gmem_generator.stopwatch import Stopwatch
from gmem_generator.stream import ImageStream
from gmem_shared.guard import PRINCIPAL


def router(
    pipeline: Pipeline,
    quota: Quota,
    metrics: Metrics,
    gate: Callable[[bytes], None],
    max_body_bytes: int,
) -> APIRouter:
    """Return the route, for bodies up to a size that a gate lets pass."""
    api = APIRouter(route_class=JsonRoute.behind(gate, max_body_bytes), tags=["generate"])

    def on_left() -> None:
        metrics.cancelled.labels("disconnected").inc()

    @api.post("/generate", response_model=GenerateAnswer, responses=generate_responses())
    async def generate(
        request: Request,
        body: Annotated[GenerateBody, Body(openapi_examples=GENERATE_EXAMPLES)],
    ) -> Response:
        """Make images of a class: from rows drawn from a memory bank, or from the label itself.

        The answer's form follows `Accept`: `application/json` (default), `image/png` (a grid
        when several images were asked for; facts are in its text chunks and in `X-Gmem-*`
        headers) or `text/event-stream` (an `image` event as each one finishes, then `completed`,
        or `error` with a problem). `/v1/generate` is the same.
        """
        watch = Stopwatch(time.monotonic, request.scope[STARTED])
        spend = partial(quota.spend, request.scope[PRINCIPAL])
        run = partial(pipeline.run, body, watch, request.scope[CONTENT], spend=spend)
        form = negotiation.negotiate(request.headers.get("accept"))
        if form == negotiation.EVENTS:
            stream = ImageStream(run, on_left)
            return await attend(request, stream.begin(), on_left)
        result = await attend(request, run(), on_left)
        answer = answers.as_png if form == negotiation.PNG else answers.as_json
        response = await answer(result)
        metrics.observe_stages({"answer": watch.seconds["answer"]})
        return response

    return api
