"""One request, from validation to encoded images."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from contextlib import aclosing, nullcontext
from dataclasses import dataclass

import numpy as np

from gmem_generator.admission import Admission, Ticket
from gmem_generator.breath import Breath
from gmem_generator.drawing import Drawer
from gmem_generator.images import Pixels, encode
from gmem_generator.lifecycle import Drain
from gmem_generator.metrics import Metrics
from gmem_generator.plan import BankQuery, Plan, pinned
from gmem_generator.provenance import Provenance, png_text, provenance
from gmem_generator.resolve import Resolver
from gmem_generator.schemas import GenerateRequest, ReplayRequest
from gmem_generator.stopwatch import Stopwatch
from gmem_shared import tracing
from gmem_shared.errors import DeadlineExceededError, InternalError
from gmem_shared.ports import Backend, BankSource
from gmem_shared.types import DrawSpec, GeneratedImage, GenerationTask, Snippets


@dataclass(frozen=True, slots=True)
class FinishedImage:
    """An image, encoded, with what it was made from."""

    position: int
    pixels: Pixels
    png: bytes
    evaluations: int
    origin: Provenance


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of a request, images in their order."""

    id: str
    plan: Plan
    images: tuple[FinishedImage, ...]
    evaluations: int
    watch: Stopwatch


class Pipeline:
    """Makes the images of requests.

    Args:
        default_deadline_ms: Deadline of a request that names none.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        bank: BankSource,
        backend: Backend,
        *,
        resolver: Resolver,
        admission: Admission,
        drawer: Drawer,
        drain: Drain,
        metrics: Metrics,
        default_deadline_ms: int,
        clock: Callable[[], float],
    ) -> None:
        self._bank = bank
        self._backend = backend
        self._resolver = resolver
        self._admission = admission
        self._drawer = drawer
        self._drain = drain
        self._metrics = metrics
        self._default_deadline_ms = default_deadline_ms
        self._clock = clock

    @tracing.traced("generate")
    async def run(
        self,
        request: GenerateRequest | ReplayRequest,
        watch: Stopwatch,
        content: bytes,
        deliver: Callable[[FinishedImage], None] = lambda _: None,
    ) -> Result:
        """Make the images; ``deliver`` gets each as it finishes, the result has all in order.

        ``content`` is what the client sent, by which it is known when it sends it again.
        Cancelling the call stops the engine's work for it.

        Raises:
            GmemError: The request is refused, fails, or exceeds its deadline.
        """
        watch.lap("parse")
        seconds = (request.deadline_ms or self._default_deadline_ms) / 1000
        end = self._clock() + seconds
        try:
            async with self._drain.work(seconds):
                plan = await self._resolver.plan(request)
                kind = (plan.model.version.name, plan.sampler, plan.guidance_scale in (None, 1))
                images = len(plan.indices)
                if tracing.active():
                    _describe(plan)
                with self._admission.admit(images, plan.steps, kind, content) as ticket:
                    watch.lap("plan")
                    snippets = None
                    if plan.query is not None:
                        snippets = await self._snippets(plan, plan.query)
                        watch.lap("bank")
                    task = _task(plan, snippets, end - self._clock())
                    names = {info.id: info.name for info in plan.classes}
                    job = _Job(plan, names, snippets, task, ticket, watch, deliver)
                    made = await self._generate(job)
        except DeadlineExceededError:
            self._metrics.cancelled.labels("deadline").inc()
            raise
        evaluations = sum(image.evaluations for image in made)
        self._metrics.generated(len(made), evaluations)
        self._metrics.observe_stages(watch.seconds)
        return Result(task.id, plan, made, evaluations, watch)

    async def _snippets(self, plan: Plan, query: BankQuery) -> Snippets:
        bank = pinned(query.bank.version)
        if query.rows is not None:
            with tracing.span("bank.gather", client=True):
                return await self._bank.gather(bank, query.rows)
        spec = DrawSpec(len(plan.indices), plan.seed, query.labels)
        with tracing.span("bank.draw", client=True):
            if query.exclude:
                return await self._drawer.draw_except(bank, spec, query.exclude)
            return await self._drawer.draw(bank, spec)

    async def _generate(self, job: _Job) -> tuple[FinishedImage, ...]:
        finished: dict[int, FinishedImage] = {}
        breathe = Breath(self._clock)
        async with aclosing(self._backend.generate(job.task)) as made:  # closing stops the engine
            async for image in made:
                job.watch.waited(image)
                job.ticket.finished(image.evaluations)
                last = len(finished) + 1 == len(job.task)
                with tracing.span("encode") if last else nullcontext():
                    finished[image.position] = await _encode(job, image)
                job.deliver(finished[image.position])
                job.watch.lap("encode")
                await breathe()
        job.watch.waited()
        if len(finished) < len(job.task):
            raise InternalError(f"expected {len(job.task)} images, found {len(finished)}")
        return tuple(finished[position] for position in sorted(finished))


@dataclass(frozen=True, slots=True)
class _Job:
    plan: Plan
    class_names: dict[int, str]
    snippets: Snippets | None
    task: GenerationTask
    ticket: Ticket
    watch: Stopwatch
    deliver: Callable[[FinishedImage], None]


def _task(plan: Plan, snippets: Snippets | None, deadline_seconds: float) -> GenerationTask:
    return GenerationTask(
        id=uuid.uuid4().hex,
        model=pinned(plan.model.version),
        snippets=None if snippets is None else np.asarray(snippets.vectors, np.float32),
        encoder=None if snippets is None else snippets.encoder,
        labels=None if plan.labels is None else np.asarray(plan.labels, np.int32),
        seeds=np.full(len(plan.indices), plan.seed, np.uint64),
        indices=np.asarray(plan.indices, np.int64),
        sampler=plan.sampler,
        num_steps=plan.steps,
        guidance_scale=plan.guidance_scale,
        priority=plan.priority,
        deadline_seconds=deadline_seconds,
        request_id=tracing.request_id(),
    )


def _describe(plan: Plan) -> None:
    tracing.describe(
        model=str(plan.model.version),
        bank=str(plan.bank),
        images=len(plan.indices),
        sampler=plan.sampler,
        steps=plan.steps,
    )


async def _encode(job: _Job, image: GeneratedImage) -> FinishedImage:
    origin = provenance(job.plan, job.class_names, job.snippets, image.position)
    encoded = await encode(image.pixels, png_text(origin))
    return FinishedImage(image.position, image.pixels, encoded, image.evaluations, origin)
