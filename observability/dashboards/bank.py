"""What is drawn, how fast, and from which version."""

from __future__ import annotations

from gmem_shared import telemetry as ours
from observability.dashboards.board import Row, board
from observability.dashboards.panels import ANY_IS_BAD, heat, lines, quantiles
from observability.dashboards.promql import or_zero, quantile, rate, select, total

_P99 = quantile(0.99, ours.BANK_REQUEST_SECONDS, by=("method",))


def _traffic() -> Row:
    return (
        lines(
            "requests by method", "reqps", (rate(ours.BANK_REQUESTS, by=("method",)), "{{method}}")
        ),
        lines(
            "requests by outcome",
            "reqps",
            (rate(ours.BANK_REQUESTS, by=("code",)), "{{code}}"),
            stacked=True,
        ),
        lines(
            "not answered",
            "percentunit",
            (
                f"{or_zero(rate(ours.BANK_REQUESTS, code='!ok'))} / {rate(ours.BANK_REQUESTS)}",
                "of all",
            ),
            limits=((0.05, "red"),),
        ),
        lines(
            "rows / s",
            "none",
            (rate(ours.BANK_ROWS, by=("instance",)), "{{instance}}"),
            width=12,
        ),
        lines(
            "refused for who sent it / s",
            "reqps",
            (rate(ours.BANK_REFUSED, by=("code",)), "{{code}}"),
            width=12,
        ),
    )


def _latency() -> Row:
    return (
        quantiles("a draw", ours.BANK_REQUEST_SECONDS, method="~draw|stream_draw"),
        heat("a draw", "s", ours.BANK_REQUEST_SECONDS, method="~draw|stream_draw"),
        lines(
            "p99 by method",
            "s",
            (_P99, "{{method}}"),
        ),
    )


def _versions() -> Row:
    return (
        lines(
            "served by replica",
            "none",
            (select(ours.BANK_VERSION), "{{bank}}@{{alias}} {{instance}}"),
            help="Replicas that differ for minutes: GmemBankVersionSkew.",
        ),
        lines(
            "taken into use",
            "none",
            (select(ours.BANK_SWAPS), "{{bank}} {{instance}}"),
            help="Versions since the start of the process.",
        ),
        lines(
            "refused / s",
            "none",
            (rate(ours.BANK_SWAP_FAILURES, by=("bank",)), "{{bank}}"),
            limits=ANY_IS_BAD,
            help="Corrupt or unreadable; the version before is served on.",
        ),
    )


def _memory() -> Row:
    return (
        lines(
            "versions mapped",
            "none",
            (total(ours.BANK_OPEN_SNAPSHOTS, by=("instance",)), "{{instance}}"),
            width=12,
        ),
        lines(
            "approximate searches that became exact / s",
            "none",
            (rate(ours.BANK_INEXACT_SEARCHES, by=("instance",)), "{{instance}}"),
            width=12,
            help="Too few rows of the class were found; gmem bank index avoids it.",
        ),
    )


BOARD = board(
    "bank",
    "What is drawn, how fast, and from which version.",
    jobs="bank",
    rows={
        "Traffic": _traffic(),
        "Latency": _latency(),
        "Versions": _versions(),
        "Memory and search": _memory(),
    },
)
