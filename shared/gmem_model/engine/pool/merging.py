"""The metrics of several processes as those of one."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from gmem_model.engine.metrics import EngineMetrics
from gmem_shared import telemetry


class MergedMetrics(Collector):
    """Collects what processes last said; counts of processes that have ended stay.

    Processes tell now and then, and nobody waits for them: a scrape costs no round trip, and what a
    killed process said last is not lost.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        unused = CollectorRegistry()
        EngineMetrics(unused)
        self._past: list[Metric] = list(unused.collect())
        self._present: dict[int, Sequence[Metric]] = {}

    def update(self, process: int, families: Sequence[Metric]) -> None:
        """Remember what a process said."""
        with self._lock:
            self._present[process] = families

    def end(self, process: int) -> None:
        """Keep the counts of a process that has ended, and forget the state it was in."""
        with self._lock:
            families = self._present.pop(process, ())
            counts = [family for family in families if family.type != "gauge"]
            self._past = merge([self._past, counts])

    def collect(self) -> Iterable[Metric]:
        """Return the metrics of all processes together."""
        with self._lock:
            present = [self._present[process] for process in sorted(self._present)]
            return merge([self._past, *present])


def merge(snapshots: Sequence[Sequence[Metric]]) -> list[Metric]:
    """Return the sum of snapshots, sample by sample.

    A model version and a time of creation are no amounts: the first one stands.
    """
    merged: dict[str, Metric] = {}
    values: dict[str, dict[tuple[str, tuple[tuple[str, str], ...]], float]] = {}
    for family in (family for snapshot in snapshots for family in snapshot):
        merged.setdefault(family.name, Metric(family.name, family.documentation, family.type))
        sums = values.setdefault(family.name, {})
        for sample in family.samples:
            key = (sample.name, tuple(sample.labels.items()))
            if _is_amount(sample):
                sums[key] = sums.get(key, 0.0) + sample.value
            else:
                sums.setdefault(key, sample.value)
    for name, sums in values.items():
        merged[name].samples = [Sample(n, dict(labels), v) for (n, labels), v in sums.items()]
    return list(merged.values())


def _is_amount(sample: Sample) -> bool:
    return not (
        sample.name.endswith("_created") or sample.name == telemetry.ENGINE_MODEL_VERSION.name
    )
