"""The numbers of a run while it goes on, for Prometheus.

A run serves them itself, as services do, rather than hand them to a gateway: Prometheus then sees
when it dies, and what a run said does not outlive it. The last figures come just before the end,
so a run that has ended waits until they were read, or for a while.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, get_args

from prometheus_client import CollectorRegistry, Metric, start_http_server
from prometheus_client.registry import Collector

from gmem_shared import telemetry
from gmem_shared.errors import NotReadyError
from gmem_shared.settings import TrainerSettings
from gmem_shared.store import Version
from gmem_shared.types import Kind
from gmem_trainer.training.loop import Step

Stage = Literal["prepare", "train", "evaluate", "publish", "done", "failed"]

_SENDING_SECONDS = 0.5
"""What an answer may take that was begun."""


class Monitor:
    """The ``gmem_trainer_*`` metrics of one run.

    Args:
        registry: Where they live.
        clock: Seconds since 1970.
    """

    def __init__(self, registry: CollectorRegistry, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._stage = telemetry.TRAINER_STAGE.gauge(registry)
        self._prepared = telemetry.TRAINER_PREPARED.counter(registry)
        self._steps = telemetry.TRAINER_STEPS.gauge(registry)
        self._step = telemetry.TRAINER_STEP.gauge(registry)
        self._images = telemetry.TRAINER_IMAGES.counter(registry)
        self._loss = telemetry.TRAINER_LOSS.gauge(registry)
        self._learning_rate = telemetry.TRAINER_LEARNING_RATE.gauge(registry)
        self._gradient_norm = telemetry.TRAINER_GRADIENT_NORM.gauge(registry)
        self._evaluation = telemetry.TRAINER_EVALUATION.gauge(registry)
        self._published = telemetry.TRAINER_PUBLISHED.gauge(registry)
        self._published_time = telemetry.TRAINER_PUBLISHED_TIME.gauge(registry)
        self._promoted = telemetry.TRAINER_PROMOTED.gauge(registry)
        self.enter("prepare")

    def enter(self, stage: Stage) -> None:
        """Say where the run is."""
        for each in get_args(Stage):
            self._stage.labels(each).set(each == stage)

    def prepared(self, images: int) -> None:
        """Count images that were embedded and encoded."""
        self._prepared.inc(images)

    def trains(self, steps: int) -> None:
        """Say that training begins, and how long it is to be."""
        self.enter("train")
        self._steps.set(steps)

    def stepped(self, step: Step, images: int) -> None:
        """Say what came of a step of so many images."""
        self._step.set(step.number)
        self._images.inc(images)
        self._learning_rate.set(step.learning_rate)
        self._gradient_norm.set(step.gradient_norm)
        for part, loss in step.losses.items():
            self._loss.labels(part).set(loss)

    def evaluated(self, evaluation: Mapping[str, Any]) -> None:
        """Say what was measured, see `gmem_trainer.evaluation`; without the references."""
        for part in ("validation", "test"):
            for figure, value in evaluation.get(part, {}).items():
                if isinstance(value, float):
                    self._evaluation.labels(part, figure).set(value)

    def published(self, kind: Kind, version: Version) -> None:
        """Say that a version was published."""
        self._published.labels(kind, version.name).set(version.seq)
        self._published_time.labels(kind, version.name).set(self._clock())

    def promoted(self, name: str, *, promoted: bool) -> None:
        """Say whether the default aliases lead to what was published."""
        self._promoted.labels(name).set(promoted)


@contextmanager
def monitored(settings: TrainerSettings) -> Iterator[Monitor]:
    """Watch a run, and serve its numbers if there is a port to serve them on.

    Raises:
        NotReadyError: The port is taken.
    """
    registry = CollectorRegistry()
    monitor, read = Monitor(registry), _Read(registry)
    with _serving(registry, settings):
        try:
            yield monitor
        except Exception:
            monitor.enter("failed")
            read.wait(settings)
            raise
        monitor.enter("done")
        read.wait(settings)


@contextmanager
def _serving(registry: CollectorRegistry, settings: TrainerSettings) -> Iterator[None]:
    host, port = settings.metrics_host, settings.metrics_port
    if port is None:
        yield
        return
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise NotReadyError(
            f"expected {host}:{port} to be free for the metrics of the run, found it in use "
            f"({error}); set GMEM_TRAINER__METRICS_PORT to another, or to none"
        ) from error
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Read(Collector):
    """Knows when the metrics are read: it is the last that is asked for some, and has none.

    Args:
        registry: Of the metrics, which must be created before this.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._event = threading.Event()
        registry.register(self)

    def collect(self) -> Iterable[Metric]:
        """Take note."""
        self._event.set()
        return ()

    def wait(self, settings: TrainerSettings) -> None:
        """Wait until they are read again, if they are served, but not for ever."""
        if settings.metrics_port is None:
            return
        self._event.clear()
        if self._event.wait(settings.metrics_linger_seconds):
            time.sleep(_SENDING_SECONDS)
