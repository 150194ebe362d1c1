"""Every metric name of the product, with unit, labels and buckets; born here and nowhere else.

Dashboards, alerts and documentation may use no other name (a test holds them together).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.registry import Collector

REQUEST_SECONDS = tuple(round(0.005 * 1.5**k, 6) for k in range(24))
"""5 ms … 56 s, geometric 1.5 x."""
STAGE_SECONDS = tuple(round(0.0002 * 1.5**k, 7) for k in range(28))
"""0.2 ms … 11 s, geometric 1.5 x."""
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """Name, meaning and labels of one metric."""

    name: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def series(self) -> tuple[str, ...]:
        """Names of its series, as they are queried."""
        if self.buckets:
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)

    def counter(self, registry: CollectorRegistry) -> Counter:
        """Create it as a counter; the name ends in ``_total``."""
        return Counter(self.name, self.help, self.labels, registry=registry)

    def gauge(self, registry: CollectorRegistry) -> Gauge:
        """Create it as a gauge."""
        return Gauge(self.name, self.help, self.labels, registry=registry)

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        """Create it as a histogram with the buckets given here."""
        return Histogram(self.name, self.help, self.labels, registry=registry, buckets=self.buckets)


class Counting(Collector):
    """Puts counting off until somebody reads the metrics.

    To count takes longer than many a thing that is counted: between computations that fill the
    processor's caches, a histogram costs 10 µs. To note what is to be counted costs next to
    nothing, and so does counting all at once.

    Args:
        registry: Of the metrics, which must be created after this: they are read in that order.
    """

    _MOST_NOTES = 4096

    def __init__(self, registry: CollectorRegistry) -> None:
        self._notes: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        registry.register(self)

    def note(self, count: Callable[..., None], *arguments: Any) -> None:
        """Have a function called before the metrics are read; it must not raise."""
        self._notes.append((count, arguments))
        if len(self._notes) > self._MOST_NOTES:
            self.collect()

    def collect(self) -> Iterable[Metric]:
        """Count what was noted; there are no metrics here."""
        for _ in range(len(self._notes)):
            try:
                count, arguments = self._notes.popleft()
            except IndexError:  # another thread was faster
                break
            count(*arguments)
        return ()


GENERATOR_REQUESTS = MetricSpec(
    "gmem_generator_requests_total", "Requests answered, by route and HTTP status.",
    ("route", "status"),
)  # fmt: skip
GENERATOR_REQUEST_SECONDS = MetricSpec(
    "gmem_generator_request_seconds", "Time from request to answer.", ("route",), REQUEST_SECONDS
)
GENERATOR_STAGE_SECONDS = MetricSpec(
    "gmem_generator_stage_seconds",
    "Time of one request spent in a stage: parse, plan, bank, queue, denoise, decode, handover, "
    "encode, answer.",
    ("stage",),
    STAGE_SECONDS,
)
GENERATOR_IMAGES = MetricSpec("gmem_generator_images_total", "Images delivered.")
GENERATOR_EVALUATIONS = MetricSpec(
    "gmem_generator_evaluations_total", "Network evaluations of delivered images."
)
GENERATOR_IMAGES_WAITING = MetricSpec(
    "gmem_generator_images_waiting", "Images admitted and not yet finished."
)
GENERATOR_BACKLOG_SECONDS = MetricSpec(
    "gmem_generator_backlog_seconds", "Estimated time to finish what was admitted."
)
GENERATOR_DRAW_REQUESTS = MetricSpec(
    "gmem_generator_draw_requests", "Requests answered by one bank draw.", (), ROWS
)
GENERATOR_CANCELLED = MetricSpec(
    "gmem_generator_cancelled_total", "Requests ended early, by reason.", ("reason",)
)
GENERATOR_REFUSED = MetricSpec(
    "gmem_generator_refused_total",
    "Requests refused for who sent them: unauthenticated, forbidden, over_quota.",
    ("code",),
)
GENERATOR_QUOTA_UNCOUNTED = MetricSpec(
    "gmem_generator_quota_uncounted_total",
    "Requests with a quota while Redis was away or full, by what became of them: allow, refuse.",
    ("outcome",),
)
GENERATOR_READY = MetricSpec(
    "gmem_generator_ready", "1 when a part the front end needs is ready.", ("part",)
)

GENERATOR_JOBS = MetricSpec(
    "gmem_generator_jobs_total",
    "Jobs by what happened to them: submitted, resumed, succeeded, failed, cancelled.",
    ("event",),
)
GENERATOR_JOBS_UNFINISHED = MetricSpec(
    "gmem_generator_jobs_unfinished", "Jobs queued or running, of all front ends."
)
GENERATOR_JOB_PARTS = MetricSpec(
    "gmem_generator_job_parts_total",
    "Parts of jobs by outcome: made, found (made before), put_off, retried, given_back, failed, "
    "dropped (nobody wants them any more).",
    ("outcome",),
)
GENERATOR_JOB_PARTS_QUEUED = MetricSpec(
    "gmem_generator_job_parts_queued", "Parts offered or in the making, of all front ends."
)
GENERATOR_JOB_IMAGES = MetricSpec(
    "gmem_generator_job_images_total", "Images made for jobs and stored."
)
GENERATOR_REDIS_UP = MetricSpec(
    "gmem_generator_redis_up", "1 when Redis answered last time and has room."
)

ENGINE_EVALUATION_ROWS = MetricSpec(
    "gmem_engine_evaluation_rows", "Rows in one network evaluation.", (), ROWS
)
ENGINE_EVALUATION_SECONDS = MetricSpec(
    "gmem_engine_evaluation_seconds", "Time of one network evaluation.", (), STAGE_SECONDS
)
ENGINE_WASTED_EVALUATIONS = MetricSpec(
    "gmem_engine_wasted_evaluations_total",
    "Row evaluations whose image was not delivered, by reason.",
    ("reason",),
)
ENGINE_ROWS_WAITING = MetricSpec("gmem_engine_rows_waiting", "Rows waiting for a place.")
ENGINE_ROWS_RUNNING = MetricSpec("gmem_engine_rows_running", "Rows in the running batch.")
ENGINE_MODEL_VERSION = MetricSpec(
    "gmem_engine_model_version", "Sequence number of the loaded model.", ("model", "alias")
)
ENGINE_SWAPS = MetricSpec("gmem_engine_swaps_total", "Model versions taken into use.", ("model",))
ENGINE_SWAP_FAILURES = MetricSpec(
    "gmem_engine_swap_failures_total",
    "Attempts to follow an alias that failed: version unreadable, store away.",
    ("model",),
)

ENGINE_SEEN = MetricSpec(
    "gmem_engine_seen_timestamp_seconds",
    "When Triton last heard of its engine, since 1970; it shows a dead one's numbers for ever.",
)

BANK_REQUESTS = MetricSpec(
    "gmem_bank_requests_total", "Requests answered, by method and outcome code.",
    ("method", "code"),
)  # fmt: skip
BANK_REQUEST_SECONDS = MetricSpec(
    "gmem_bank_request_seconds", "Time to answer.", ("method",), STAGE_SECONDS
)
BANK_REFUSED = MetricSpec(
    "gmem_bank_refused_total",
    "Calls refused for who made them: unauthenticated, forbidden.",
    ("code",),
)
BANK_ROWS = MetricSpec("gmem_bank_rows_total", "Rows drawn or gathered.")
BANK_VERSION = MetricSpec(
    "gmem_bank_version", "Sequence number of the bank in use.", ("bank", "alias")
)
BANK_SWAPS = MetricSpec("gmem_bank_swaps_total", "Bank versions taken into use.", ("bank",))
BANK_SWAP_FAILURES = MetricSpec(
    "gmem_bank_swap_failures_total", "Versions refused: corrupt, untrusted.", ("bank",)
)
BANK_OPEN_SNAPSHOTS = MetricSpec("gmem_bank_open_snapshots", "Bank versions mapped into memory.")
BANK_INEXACT_SEARCHES = MetricSpec(
    "gmem_bank_short_searches_total", "Approximate searches that fell back to exact ones."
)

TRAINER_STAGE = MetricSpec(
    "gmem_trainer_stage",
    "1 for where the run is: prepare, train, evaluate, publish; done or failed at its end.",
    ("stage",),
)
TRAINER_PREPARED = MetricSpec(
    "gmem_trainer_prepared_images_total", "Images embedded and encoded by this run."
)
TRAINER_STEPS = MetricSpec("gmem_trainer_steps", "Training steps that the run is to take.")
TRAINER_STEP = MetricSpec("gmem_trainer_step", "Training step reached.")
TRAINER_IMAGES = MetricSpec(
    "gmem_trainer_images_total", "Images trained on by this run, each time it sees them."
)
TRAINER_LOSS = MetricSpec("gmem_trainer_loss", "Training loss of the last step.", ("part",))
TRAINER_LEARNING_RATE = MetricSpec("gmem_trainer_learning_rate", "Learning rate of the last step.")
TRAINER_GRADIENT_NORM = MetricSpec(
    "gmem_trainer_gradient_norm", "Gradient norm of the last step, before clipping."
)
TRAINER_EVALUATION = MetricSpec(
    "gmem_trainer_evaluation", "What was measured of the trained network.", ("part", "figure")
)
TRAINER_PUBLISHED = MetricSpec(
    "gmem_trainer_published_version", "Sequence number of what the run published.", ("kind", "name")
)
TRAINER_PUBLISHED_TIME = MetricSpec(
    "gmem_trainer_published_timestamp_seconds",
    "When the run published, since 1970.",
    ("kind", "name"),
)
TRAINER_PROMOTED = MetricSpec(
    "gmem_trainer_promoted",
    "1 when the default aliases lead to what the run published, 0 when it was not good enough.",
    ("name",),
)
