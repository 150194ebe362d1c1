"""Puts the parts of this package together."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime

from gmem_generator.admission import Admission
from gmem_generator.jobs.board import Board
from gmem_generator.jobs.connection import Connection
from gmem_generator.jobs.idempotency import Idempotency
from gmem_generator.jobs.making import Maker
from gmem_generator.jobs.office import Office
from gmem_generator.jobs.queue import Queue
from gmem_generator.jobs.worker import Worker
from gmem_generator.lifecycle import Drain
from gmem_generator.metrics import Metrics
from gmem_generator.pipeline import Pipeline
from gmem_shared.settings import Settings
from gmem_shared.store import Results


@dataclass(frozen=True, slots=True)
class Jobs:
    """What a front end needs of jobs."""

    connection: Connection
    office: Office
    idempotency: Idempotency
    worker: Worker

    @classmethod
    def of(
        cls,
        settings: Settings,
        pipeline: Pipeline,
        *,
        admission: Admission,
        drain: Drain,
        metrics: Metrics,
        answer_images: int,
        clock: Callable[[], float],
        time_of_day: Callable[[], datetime],
    ) -> Jobs:
        """Build everything; connects to nothing yet."""
        ours = settings.jobs
        connection = Connection(settings.redis, metrics, settings.generator.workers)
        queue = Queue(connection, ours.claim_seconds, clock)
        board = Board(connection, queue, ours, metrics, time_of_day)
        results = Results(settings.store)
        idempotency = Idempotency(connection, ours)
        office = Office(
            board, pipeline, results, idempotency, metrics, ours,
            answer_images=answer_images, clock=time_of_day,
        )  # fmt: skip
        worker = Worker(
            board, queue, Maker(pipeline, results), results,
            connection=connection, drain=drain, admission=admission, metrics=metrics, settings=ours,
        )  # fmt: skip
        return cls(connection, office, idempotency, worker)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Work on jobs as long as the block runs."""
        self.worker.start()
        try:
            yield
        finally:
            await self.worker.close()
            await self.connection.close()
