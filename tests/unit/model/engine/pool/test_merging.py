"""The metrics of several processes as those of one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest

from gmem_model.engine.batching import Continuous
from gmem_model.engine.metrics import EngineMetrics
from gmem_model.engine.pool.merging import MergedMetrics
from gmem_model.engine.scheduler import Scheduler


class Process:
    """The registry of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = EngineMetrics(self.registry)
        self.scheduler: Scheduler[None] = Scheduler(Continuous(1), 1)
        self.metrics.watch(self.scheduler)

    def evaluate(self, rows: int, running: int) -> None:
        self.metrics.evaluated(rows, seconds=0.001)
        self.scheduler.running_rows = running
        self.metrics.wasted_evaluations.labels("cancelled").inc(rows)


class Pool:
    """Two processes and what is collected of them."""

    def __init__(self) -> None:
        self.merged = MergedMetrics()
        self.registry = CollectorRegistry()
        self.registry.register(self.merged)
        self.processes = [Process(), Process()]

    def update(self) -> None:
        for number, process in enumerate(self.processes):
            self.merged.update(number, list(process.registry.collect()))

    def value(self, name: str, **labels: str) -> float | None:
        return self.registry.get_sample_value(f"gmem_engine_{name}", labels)


def test_every_metric_is_there_before_any_process_is() -> None:
    alone = Process()
    expected = {family.name: family.type for family in alone.registry.collect()}
    assert {family.name: family.type for family in Pool().registry.collect()} == expected


def test_counts_histograms_and_amounts_add_up() -> None:
    pool = Pool()
    pool.processes[0].evaluate(rows=2, running=3)
    pool.processes[1].evaluate(rows=4, running=5)
    pool.update()
    assert pool.value("evaluation_rows_count") == 2
    assert pool.value("evaluation_rows_sum") == 6
    assert pool.value("evaluation_rows_bucket", le="2.0") == 1
    assert pool.value("evaluation_rows_bucket", le="+Inf") == 2
    assert pool.value("rows_running") == 8
    assert pool.value("wasted_evaluations_total", reason="cancelled") == 6


def test_a_version_is_that_of_the_first_process() -> None:
    pool = Pool()
    for process, seq in zip(pool.processes, (3, 4), strict=True):
        process.metrics.model_version.labels("tiny", "production").set(seq)
    pool.update()
    assert pool.value("model_version", model="tiny", alias="production") == 3


def test_counts_survive_their_process_and_its_state_does_not() -> None:
    pool = Pool()
    pool.processes[0].evaluate(rows=2, running=3)
    pool.update()
    pool.merged.end(0)
    assert pool.value("evaluation_rows_count") == 1
    assert pool.value("rows_running") == 0
    pool.processes[0] = Process()
    pool.processes[0].evaluate(rows=4, running=1)
    pool.update()
    assert pool.value("evaluation_rows_count") == 2
    assert pool.value("rows_running") == 1


def test_merged_metrics_can_be_scraped() -> None:
    pool = Pool()
    pool.processes[0].evaluate(rows=2, running=3)
    pool.update()
    text = generate_latest(pool.registry).decode()
    assert "gmem_engine_evaluation_rows_sum 2.0" in text
