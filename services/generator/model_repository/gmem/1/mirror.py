"""The engine's metrics beside Triton's own, on Triton's ``/metrics``."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils
from prometheus_client import CollectorRegistry


class MetricsMirror:
    """Copies a registry into Triton's metrics, sample by sample.

    Triton can only observe one value at a time, over a pipe, so a histogram is mirrored as what
    it is on the wire: the counters ``_bucket``, ``_sum`` and ``_count``.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._families: dict[str, Any] = {}
        self._metrics: dict[tuple[str, frozenset[tuple[str, str]]], Any] = {}
        self._values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}

    def update(self) -> None:
        """Bring Triton's copy up to date; samples that did not change cost nothing."""
        for family in self._registry.collect():
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue
                key = (sample.name, frozenset(sample.labels.items()))
                before = self._values.get(key)
                if before == sample.value:
                    continue
                self._values[key] = sample.value
                is_gauge = family.type == "gauge"
                metric = self._metrics.get(key)
                if metric is None:
                    owner = self._family(sample.name, family.documentation, is_gauge=is_gauge)
                    metric = self._metrics[key] = owner.Metric(labels=sample.labels)
                if is_gauge:
                    metric.set(sample.value)
                else:
                    metric.increment(sample.value - (before or 0.0))

    def _family(self, name: str, description: str, *, is_gauge: bool) -> Any:
        if name not in self._families:
            kind = pb_utils.MetricFamily.GAUGE if is_gauge else pb_utils.MetricFamily.COUNTER
            self._families[name] = pb_utils.MetricFamily(
                name=name, description=description, kind=kind
            )
        return self._families[name]
