from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from gmem_shared import telemetry
from gmem_shared.telemetry import MetricSpec

SPECS = {name: spec for name, spec in vars(telemetry).items() if isinstance(spec, MetricSpec)}


def test_names_are_unique() -> None:
    assert len({spec.name for spec in SPECS.values()}) == len(SPECS)


@pytest.mark.parametrize("spec", SPECS.values(), ids=lambda spec: spec.name)
def test_names_follow_the_scheme(spec) -> None:
    prefix, service, _ = spec.name.split("_", 2)
    assert prefix == "gmem"
    assert service in {"generator", "engine", "bank", "trainer"}
    assert not spec.name.endswith(("_ms", "_us", "_count"))


def test_buckets_rise() -> None:
    for spec in SPECS.values():
        assert list(spec.buckets) == sorted(set(spec.buckets))


def test_a_spec_knows_the_names_that_are_queried() -> None:
    registry = CollectorRegistry()
    for spec in SPECS.values():
        if spec.buckets:
            metric = spec.histogram(registry)
        else:
            metric = (spec.counter if spec.name.endswith("_total") else spec.gauge)(registry)
        if spec.labels:
            metric.labels(*spec.labels)
    served = {sample.name for family in registry.collect() for sample in family.samples}
    expected = {name for spec in SPECS.values() for name in spec.series}
    assert {name for name in served if not name.endswith("_created")} == expected


def test_two_instances_of_a_service_fit_in_one_process() -> None:
    first, second = CollectorRegistry(), CollectorRegistry()
    telemetry.BANK_ROWS.counter(first).inc()
    telemetry.BANK_ROWS.counter(second).inc(2)
    assert first.get_sample_value("gmem_bank_rows_total") == 1
    assert second.get_sample_value("gmem_bank_rows_total") == 2


def test_what_is_noted_is_counted_in_its_order_when_somebody_reads() -> None:
    registry, counted = CollectorRegistry(), []
    counting = telemetry.Counting(registry)
    rows = telemetry.BANK_ROWS.counter(registry)
    for number in range(3):
        counting.note(counted.append, number)
    counting.note(rows.inc, 5)
    assert counted == []
    assert registry.get_sample_value("gmem_bank_rows_total") == 5
    assert counted == [0, 1, 2]
    assert registry.get_sample_value("gmem_bank_rows_total") == 5


def test_notes_that_nobody_reads_do_not_pile_up_and_are_not_lost() -> None:
    registry, counted = CollectorRegistry(), []
    counting = telemetry.Counting(registry)
    for number in range(10_000):
        counting.note(counted.append, number)
    assert len(counted) > 5_000
    list(registry.collect())
    assert counted == list(range(10_000))
