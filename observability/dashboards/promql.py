"""PromQL from metric specs: a name or a label that does not exist is an error when this runs."""

from __future__ import annotations

from collections.abc import Iterable

from gmem_shared.telemetry import MetricSpec

WINDOW = "$__rate_interval"
"""Grafana's: at least four scrapes."""

_OF_TARGETS = ("job", "instance")
"""Labels that Prometheus adds."""

PROBES = "!~/livez|/readyz|/metrics"
"""No traffic: what they are answered says nothing about users."""


def select(spec: MetricSpec, *, suffix: str = "", **where: str) -> str:
    """Select series of the chosen instances.

    Args:
        spec: Of the metric.
        suffix: ``bucket``, ``sum`` or ``count`` of a histogram.
        where: Values of labels; ``~…`` and ``!~…`` are patterns, ``!…`` any other value.
    """
    name = f"{spec.name}_{suffix}" if suffix else spec.name
    if name not in spec.series:
        raise ValueError(f"expected one of the series {spec.series}, found {name!r}")
    _check(spec, where)
    matchers = [_matcher(label, value) for label, value in where.items()]
    return f"{name}{{{','.join([_matcher('instance', '~$instance'), *matchers])}}}"


def rate(spec: MetricSpec, *, by: Iterable[str] = (), suffix: str = "", **where: str) -> str:
    """Return how fast a counter rises, summed up."""
    return f"{_sum(spec, by)} (rate({select(spec, suffix=suffix, **where)}[{WINDOW}]))"


def total(spec: MetricSpec, *, by: Iterable[str] = (), **where: str) -> str:
    """Return the sum of a gauge."""
    return f"{_sum(spec, by)} ({select(spec, **where)})"


def quantile(share: float, spec: MetricSpec, *, by: Iterable[str] = (), **where: str) -> str:
    """Return a quantile of a histogram."""
    return f"histogram_quantile({share}, {buckets(spec, by=by, **where)})"


def buckets(spec: MetricSpec, *, by: Iterable[str] = (), **where: str) -> str:
    """Return how fast each bucket of a histogram fills."""
    _check(spec, by)
    selected = select(spec, suffix="bucket", **where)
    return f"sum by ({', '.join((*by, 'le'))}) (rate({selected}[{WINDOW}]))"


def mean(spec: MetricSpec, *, by: Iterable[str] = (), **where: str) -> str:
    """Return the mean of what a histogram observed."""
    by = tuple(by)
    return (
        f"{rate(spec, by=by, suffix='sum', **where)} / {rate(spec, by=by, suffix='count', **where)}"
    )


def or_zero(expression: str) -> str:
    """Return an expression that is 0 where there is nothing yet to count."""
    return f"({expression} or vector(0))"


def _sum(spec: MetricSpec, by: Iterable[str]) -> str:
    by = tuple(by)
    _check(spec, by)
    return f"sum by ({', '.join(by)})" if by else "sum"


def _check(spec: MetricSpec, labels: Iterable[str]) -> None:
    unknown = set(labels) - {*spec.labels, *_OF_TARGETS}
    if unknown:
        raise ValueError(f"expected labels of {spec.name}, {spec.labels}, found {sorted(unknown)}")


def _matcher(label: str, value: str) -> str:
    for operator, sign in (("!~", "!~"), ("~", "=~"), ("!", "!=")):
        if value.startswith(operator):
            return f'{label}{sign}"{value.removeprefix(operator)}"'
    return f'{label}="{value}"'
