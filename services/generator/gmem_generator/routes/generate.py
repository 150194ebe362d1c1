"""``POST /generate``."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Body
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from gmem_generator import answers, negotiation
from gmem_generator.attendance import attend
from gmem_generator.body import JsonRoute
from gmem_generator.jobs.idempotency import Key
from gmem_generator.jobs.service import Jobs
from gmem_generator.jobs.wishes import Wishes, caller, wishes
from gmem_generator.metrics import Metrics
from gmem_generator.openapi import (
    GENERATE_EXAMPLES,
    GENERATE_HEADERS,
    generate_responses,
    job_responses,
)
from gmem_generator.pipeline import FinishedImage, Pipeline, Result
from gmem_generator.quota import Quota
from gmem_generator.routes.jobs import accepted
from gmem_generator.schemas import GenerateAnswer, GenerateBody, GenerateRequest, ReplayRequest
from gmem_generator.stopwatch import Stopwatch
from gmem_generator.stream import ImageStream
from gmem_shared.guard import PRINCIPAL
from gmem_shared.request_scope import STARTED

WISHES = "gmem.wishes"
"""Member of the scope: what the client wishes beyond an answer, if anything."""

ASKED = "gmem.asked"
"""Member of the scope: 16 bytes that stand for who asks and for what."""


class Generation:
    """Answers requests: with images, with the images of an earlier answer, or with a job.

    Args:
        gate: Lets a request pass or refuses it, given what stands for it; jobs all pass.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        quota: Quota,
        metrics: Metrics,
        gate: Callable[[bytes], None],
        jobs: Jobs,
    ) -> None:
        self._pipeline = pipeline
        self._quota = quota
        self._metrics = metrics
        self._gate = gate
        self._jobs = jobs

    def enter(self, scope: Scope, content: bytes) -> None:
        """Look at the headers, and let the request pass or refuse it."""
        wished = scope[WISHES] = wishes(scope)
        asked = hashlib.blake2b(content, digest_size=16, key=caller(scope).encode())
        scope[ASKED] = asked.digest()
        if wished is None or not wished.job:
            self._gate(scope[ASKED])

    async def answer(
        self,
        request: Request,
        body: GenerateRequest | ReplayRequest,
        key: Key | None = None,
    ) -> Response:
        """Answer with images; if the request came with this key before, with the same."""
        watch = Stopwatch(time.monotonic, request.scope[STARTED])
        spend = partial(self._quota.spend, request.scope[PRINCIPAL])
        asked = request.scope[ASKED]

        async def run(deliver: Callable[[FinishedImage], None] = lambda _: None) -> Result:
            async with self._once(key, body) as pinned:
                return await self._pipeline.run(pinned, watch, asked, deliver, spend=spend)

        form = negotiation.negotiate(request.headers.get("accept"))
        if form == negotiation.EVENTS:
            stream = ImageStream(run, self._on_left)
            return await attend(request, stream.begin(), self._on_left)
        result = await attend(request, run(), self._on_left)
        write = answers.as_png if form == negotiation.PNG else answers.as_json
        response = await write(result)
        self._metrics.observe_stages({"answer": watch.seconds["answer"]})
        return response

    async def fulfil(
        self, request: Request, body: GenerateRequest | ReplayRequest, wished: Wishes
    ) -> Response:
        """Answer as wished."""
        owner, key = caller(request.scope), None
        if wished.key is not None:
            key = Key.of(owner, wished.key, body, job=wished.job)
        if wished.job or key is None:
            spend = partial(self._quota.spend, request.scope[PRINCIPAL])
            job = await self._jobs.office.submit(owner, body, key, spend)
            return await accepted(self._jobs.office, job)
        return await self.answer(request, body, key)

    def _once(
        self, key: Key | None, body: GenerateRequest | ReplayRequest
    ) -> AbstractAsyncContextManager[GenerateRequest | ReplayRequest]:
        """Lend the request to be answered: the body; with a key, as it was pinned at first."""
        if key is None:
            return nullcontext(body)

        async def pin() -> GenerateRequest | ReplayRequest:
            pinned, _ = await self._pipeline.pin(body)
            return pinned

        return self._jobs.idempotency.once(key, body, pin)

    def _on_left(self) -> None:
        self._metrics.cancelled.labels("disconnected").inc()


def router(generation: Generation, max_body_bytes: int) -> APIRouter:
    """Return the route, for bodies up to a size."""
    api = APIRouter(
        route_class=JsonRoute.behind(generation.enter, max_body_bytes), tags=["generate"]
    )

    @api.post(
        "/generate",
        response_model=GenerateAnswer,
        responses={**generate_responses(), **job_responses()},
        openapi_extra=GENERATE_HEADERS,
    )
    async def generate(
        request: Request,
        body: Annotated[GenerateBody, Body(openapi_examples=GENERATE_EXAMPLES)],
    ) -> Response:
        """Make images of a class: from rows drawn from a memory bank, or from the label itself.

        The answer's form follows `Accept`: `application/json` (default), `image/png` (a grid
        when several images were asked for; facts are in its text chunks and in `X-Gmem-*`
        headers) or `text/event-stream` (an `image` event as each one finishes, then `completed`,
        or `error` with a problem). With `Prefer: respond-async` it is a job instead.
        `/v1/generate` is the same.
        """
        wished = request.scope[WISHES]
        if wished is None:
            return await generation.answer(request, body)
        return await generation.fulfil(request, body, wished)

    return api
