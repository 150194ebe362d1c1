"""One request, from validation to encoded images."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, aclosing, asynccontextmanager, nullcontext
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
from gmem_generator.quota import Charge, Spend
from gmem_generator.resolve import Resolver, images_of, pin
from gmem_generator.schemas import GenerateRequest, ReplayRequest
from gmem_generator.stopwatch import Stopwatch
from gmem_shared import tracing
from gmem_shared.errors import DeadlineExceededError, InternalError
from gmem_shared.ports import Backend, BankSource
from gmem_shared.types import DrawSpec, GeneratedImage, GenerationTask, Snippets

PART_SECONDS = 3600.0
"""Deadline of what nobody waits for."""


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


@asynccontextmanager
async def _free(_: int) -> AsyncIterator[Charge]:
    """Ask nothing for images."""
    yield Charge()


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
        asked: bytes,
        deliver: Callable[[FinishedImage], None] = lambda _: None,
        *,
        spend: Spend = _free,
    ) -> Result:
        """Make the images; ``deliver`` gets each as it finishes, the result has all in order.

        ``asked`` stands for who asks for what: by it a request is known when it is sent again. What
        ``spend`` takes from the client's quota is given back if there is no room for the images.
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
                result = await self._make(plan, watch, asked, end, deliver, spend)
        except DeadlineExceededError:
            self._metrics.cancelled.labels("deadline").inc()
            raise
        self._metrics.observe_stages(watch.seconds)
        return result

    @tracing.traced("generate")
    async def run_part(self, request: GenerateRequest | ReplayRequest, images: range) -> Result:
        """Make some images of a pinned request that nobody waits for.

        The stages of those that somebody waits for are observed, of these not.

        Raises:
            GmemError: They are refused or fail.
        """
        watch = Stopwatch(self._clock, self._clock())
        end = self._clock() + PART_SECONDS
        async with self._drain.work(PART_SECONDS):
            plan = await self._resolver.plan(request, images)
            return await self._make(plan, watch, b"", end, lambda _: None, _free)

    async def pin(
        self, request: GenerateRequest | ReplayRequest
    ) -> tuple[GenerateRequest | ReplayRequest, Plan]:
        """Return the pinned request and the plan of its first images; nothing is made.

        Raises:
            GmemError: The request would be refused.
        """
        self._drain.check()
        rows = (
            request.memory.rows if isinstance(request, GenerateRequest) and request.memory else ()
        )
        plan = await self._resolver.plan(request, range(min(images_of(request), len(rows) or 1)))
        if plan.query is not None:
            await self._snippets(plan, plan.query)
        return pin(request, plan), plan

    async def _make(
        self,
        plan: Plan,
        watch: Stopwatch,
        asked: bytes,
        end: float,
        deliver: Callable[[FinishedImage], None],
        spend: Spend,
    ) -> Result:
        if tracing.active():
            _describe(plan)
        kind = (plan.model.version.name, plan.sampler, plan.guidance_scale in (None, 1))
        images = len(plan.indices)
        with ExitStack() as place:
            async with spend(images) as charge:  # first: who has no quota left holds no place
                ticket = place.enter_context(self._admission.admit(images, plan.steps, kind, asked))
                charge.keep()
            watch.lap("plan")
            snippets = None
            if plan.query is not None:
                snippets = await self._snippets(plan, plan.query)
                watch.lap("bank")
            task = _task(plan, snippets, end - self._clock())
            names = {info.id: info.name for info in plan.classes}
            made = await self._generate(_Work(plan, names, snippets, task, ticket, watch, deliver))
        evaluations = sum(image.evaluations for image in made)
        self._metrics.generated(len(made), evaluations)
        return Result(task.id, plan, made, evaluations, watch)

    async def _snippets(self, plan: Plan, query: BankQuery) -> Snippets:
        bank = pinned(query.bank.version)
        if query.rows is not None:
            with tracing.span("bank.gather", client=True):
                return await self._bank.gather(bank, query.rows)
        spec = DrawSpec(len(plan.indices), plan.seed, query.labels, plan.indices[0])
        with tracing.span("bank.draw", client=True):
            if query.exclude:
                return await self._drawer.draw_except(bank, spec, query.exclude)
            return await self._drawer.draw(bank, spec)

    async def _generate(self, work: _Work) -> tuple[FinishedImage, ...]:
        finished: dict[int, FinishedImage] = {}
        breathe = Breath(self._clock)
        async with aclosing(self._backend.generate(work.task)) as made:  # closing stops the engine
            async for image in made:
                work.watch.waited(image)
                work.ticket.finished(image.evaluations)
                last = len(finished) + 1 == len(work.task)
                with tracing.span("encode") if last else nullcontext():
                    finished[image.position] = await _encode(work, image)
                work.deliver(finished[image.position])
                work.watch.lap("encode")
                await breathe()
        work.watch.waited()
        if len(finished) < len(work.task):
            raise InternalError(f"expected {len(work.task)} images, found {len(finished)}")
        return tuple(finished[position] for position in sorted(finished))


@dataclass(frozen=True, slots=True)
class _Work:
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


async def _encode(work: _Work, image: GeneratedImage) -> FinishedImage:
    origin = provenance(work.plan, work.class_names, work.snippets, image.position)
    encoded = await encode(image.pixels, png_text(origin))
    return FinishedImage(image.position, image.pixels, encoded, image.evaluations, origin)
