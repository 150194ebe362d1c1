"""Whether users are served, and if not, where to look."""

from __future__ import annotations

from gmem_shared import telemetry as ours
from observability.dashboards import foreign
from observability.dashboards.board import RUNBOOK, Row, board
from observability.dashboards.generator import backlog
from observability.dashboards.panels import ANY_IS_BAD, lines, number, quantiles
from observability.dashboards.promql import PROBES, or_zero, quantile, rate, select

_REQUESTS = rate(ours.GENERATOR_REQUESTS, route=PROBES)
_FAILED = f"{or_zero(rate(ours.GENERATOR_REQUESTS, status='~5..', route=PROBES))} / {_REQUESTS}"
_REFUSED = f"{or_zero(rate(ours.GENERATOR_REQUESTS, status='429'))} / {_REQUESTS}"
# One Prometheus may watch others, too.
_FIRING = f'{foreign.ALERTS.name}{{alertname=~"Gmem.+",alertstate="firing"}}'
_OURS_UP = f'{foreign.UP.name}{{job=~"generator|bank|triton|trainer"}}'
_OBJECTIVE = 0.005
"""Share of requests that may fail."""


def _served() -> Row:
    return (
        number("requests / s", "reqps", (_REQUESTS, "requests")),
        number("images / s", "none", (rate(ours.GENERATOR_IMAGES), "images")),
        number(
            "failed",
            "percentunit",
            (_FAILED, "failed"),
            limits=((_OBJECTIVE, "orange"), (0.05, "red")),
            help="Requests answered with 500 or above.",
        ),
        number(
            "refused",
            "percentunit",
            (_REFUSED, "refused"),
            limits=((0.01, "orange"), (0.05, "red")),
            help="Requests answered with 429.",
        ),
        number(
            "p99",
            "s",
            (quantile(0.99, ours.GENERATOR_REQUEST_SECONDS, route=PROBES), "p99"),
            limits=((5, "orange"), (10, "red")),
        ),
        number(
            "alerts",
            "none",
            (f"count({_FIRING}) or vector(0)", "firing"),
            limits=ANY_IS_BAD,
            help=f"What each means: {RUNBOOK}.",
        ),
        lines(
            "requests by status",
            "reqps",
            (rate(ours.GENERATOR_REQUESTS, by=("status",), route=PROBES), "{{status}}"),
            stacked=True,
        ),
        quantiles("latency", ours.GENERATOR_REQUEST_SECONDS, route=PROBES),
        lines(
            "failed and refused",
            "percentunit",
            (_FAILED, "failed"),
            (_REFUSED, "refused"),
            limits=((0.05, "red"),),
        ),
    )


def _there() -> Row:
    return (
        lines(
            "replicas that answer",
            "none",
            (f"sum by (job) ({_OURS_UP})", "{{job}}"),
            width=6,
        ),
        lines(
            "parts ready",
            "bool_on_off",
            (f"min by (part) ({select(ours.GENERATOR_READY)})", "{{part}}"),
            width=6,
            help="0 when a front end finds one away; GET /readyz says why.",
        ),
        lines(
            "bank versions",
            "none",
            (ours.BANK_VERSION.name, "{{bank}}@{{alias}} {{instance}}"),
            width=6,
        ),
        lines(
            "model versions",
            "none",
            (ours.ENGINE_MODEL_VERSION.name, "{{model}}@{{alias}} {{instance}}"),
            width=6,
        ),
    )


def _budget() -> Row:
    return (
        lines(
            "burn rate",
            "none",
            *(
                (f"job:gmem_generator_errors:ratio_rate{window} / {_OBJECTIVE}", window)
                for window in ("5m", "30m", "1h", "6h")
            ),
            limits=((1, "orange"), (6, "red")),
            width=24,
            help="1 spends the budget of 99.5 % exactly; GmemErrorBudgetBurning fires at 6.",
        ),
    )


BOARD = board(
    "overview",
    "Whether users are served, and if not, where to look.",
    jobs="generator",
    rows={
        "Is it served?": _served(),
        "What is there?": _there(),
        "Is there room?": backlog(),
        "How fast is the error budget spent?": _budget(),
    },
)
