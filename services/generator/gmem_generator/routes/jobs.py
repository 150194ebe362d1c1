"""``/jobs``: long runs, and how they are doing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from starlette.responses import RedirectResponse, Response, StreamingResponse

from gmem_generator.jobs.board import written
from gmem_generator.jobs.office import LOOK_SECONDS, Office
from gmem_generator.jobs.record import Job
from gmem_generator.jobs.wishes import RESPOND_ASYNC, caller
from gmem_generator.negotiation import EVENTS, JSON
from gmem_generator.openapi import (
    job_events_responses,
    job_result_responses,
    problem_responses,
)
from gmem_generator.quota import Quota
from gmem_generator.schemas import (
    JobAnswer,
    JobImages,
    JobLinks,
    JobsAnswer,
    JobSummary,
    Problem,
)
from gmem_generator.stream import KEEP_ALIVE, KEEP_ALIVE_SECONDS, event
from gmem_shared.errors import GmemError, to_problem
from gmem_shared.guard import PRINCIPAL

ZIP = "application/zip"

_LIVE = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_NAMED = problem_responses(404, 422, 503)

JobId = Annotated[str, Path(max_length=64, description="As in the answer to the submission.")]


def router(office: Office, quota: Quota) -> APIRouter:
    """Return the routes of jobs that were submitted."""
    api = APIRouter(prefix="/jobs", tags=["jobs"])

    @api.get("", responses=problem_responses(422, 503))
    async def list_jobs(
        request: Request,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> JobsAnswer:
        """List your jobs, newest first."""
        jobs, total = await office.newest(caller(request.scope), offset, limit)
        return JobsAnswer(jobs=[JobSummary(**_facts(office, job)) for job in jobs], total=total)

    @api.get("/{id}", responses=_NAMED)
    async def read_job(request: Request, id: JobId) -> JobAnswer:
        """Say how a job is doing."""
        return await _answer(office, await office.read(id, caller(request.scope)))

    @api.delete("/{id}", responses=_NAMED)
    async def cancel_job(request: Request, id: JobId) -> JobAnswer:
        """Cancel a job, if it has not ended; it stops at its next network evaluation."""
        return await _answer(office, await office.cancel(id, caller(request.scope)))

    @api.post("/{id}/resume", status_code=202, responses=problem_responses(404, 409, 422, 429, 503))
    async def resume_job(request: Request, id: JobId) -> JobAnswer:
        """Go on with a job that failed or was cancelled, where it stopped."""
        spend = partial(quota.spend, request.scope[PRINCIPAL])
        return await _answer(office, await office.resume(id, caller(request.scope), spend))

    @api.get("/{id}/events", responses=job_events_responses(), response_class=Response)
    async def follow_job(request: Request, id: JobId) -> Response:
        """Follow a job: a `progress` event at every change, until it has ended."""
        owner = caller(request.scope)
        await office.read(id, owner)
        return StreamingResponse(_events(office, id, owner), media_type=EVENTS, headers=_LIVE)

    @api.get("/{id}/result", responses=job_result_responses(), response_class=Response)
    async def fetch_result(request: Request, id: JobId) -> Response:
        """Fetch the result: a zip of PNGs and `manifest.jsonl`, which says of each what made it.

        From an object store it is fetched directly: the answer leads there.
        """
        return await _result(office, await office.read(id, caller(request.scope)))

    return api


async def accepted(office: Office, job: Job) -> Response:
    """Answer a submission."""
    headers = {"Location": f"/jobs/{job.id}", "Preference-Applied": RESPOND_ASYNC}
    content = (await _answer(office, job)).model_dump_json()
    return Response(content, 202, headers, media_type=JSON)


async def _events(office: Office, job_id: str, owner: str) -> AsyncIterator[bytes]:
    seen, silence = None, 0.0
    try:
        async for job in office.follow(job_id, owner):
            silence += LOOK_SECONDS
            if job != seen:
                yield event("progress", JobSummary(**_facts(office, job)).model_dump_json())
                seen, silence = job, 0.0
            elif silence >= KEEP_ALIVE_SECONDS:
                yield KEEP_ALIVE
                silence = 0.0
    except GmemError as error:
        yield event("error", json.dumps(to_problem(error)))


async def _result(office: Office, job: Job) -> Response:
    link = await office.link(job)
    if link is not None:
        return RedirectResponse(link, 307, headers={"Cache-Control": "no-store"})
    headers = {
        "Content-Length": str(await office.size(job)),
        "Content-Disposition": f'attachment; filename="{job.id}.zip"',
    }
    return StreamingResponse(office.stream(job), media_type=ZIP, headers=headers)


async def _answer(office: Office, job: Job) -> JobAnswer:
    request = json.loads(written(await office.request(job)))
    request.pop("priority", None)  # the job's: whoever sends the rest again waits for the answer
    return JobAnswer(**_facts(office, job), request=request)


def _facts(office: Office, job: Job) -> dict[str, Any]:
    problem = None if job.problem is None else Problem.model_validate(job.problem)
    left = job.seconds_left(office.now())
    here = f"/jobs/{job.id}"
    return {
        "id": job.id,
        "status": job.status,
        "images": JobImages(done=job.images_done, total=job.images),
        "created_at": job.created,
        "started_at": None if job.begun is None else job.begun[0],
        "ended_at": job.ended,
        "expires_at": office.expires(job),
        "seconds_left": None if left is None else round(left, 1),
        "bank": job.bank,
        "model": job.model,
        "error": problem,
        "links": JobLinks(
            self=here,
            events=f"{here}/events",
            result=f"{here}/result" if job.status == "succeeded" else None,
        ),
    }
