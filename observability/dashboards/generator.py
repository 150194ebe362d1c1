"""Where the time of a request goes, and what the engine makes of it."""

from __future__ import annotations

from gmem_shared import telemetry as ours
from observability.dashboards import foreign
from observability.dashboards.board import Row, board
from observability.dashboards.panels import ANY_IS_BAD, heat, lines, quantiles
from observability.dashboards.promql import PROBES, mean, or_zero, quantile, rate, select, total

_WASTED = (
    f"{or_zero(rate(ours.ENGINE_WASTED_EVALUATIONS))}"
    f" / {rate(ours.ENGINE_EVALUATION_ROWS, suffix='sum')}"
)
_P99 = quantile(0.99, ours.GENERATOR_REQUEST_SECONDS, by=("route",), route=PROBES)


def _traffic() -> Row:
    return (
        lines(
            "requests by route",
            "reqps",
            (rate(ours.GENERATOR_REQUESTS, by=("route",)), "{{route}}"),
        ),
        lines(
            "requests by status",
            "reqps",
            (rate(ours.GENERATOR_REQUESTS, by=("status",), route=PROBES), "{{status}}"),
            stacked=True,
        ),
        lines(
            "delivered",
            "none",
            (rate(ours.GENERATOR_IMAGES), "images / s"),
            (rate(ours.GENERATOR_EVALUATIONS), "evaluations / s"),
        ),
    )


def _latency() -> Row:
    return (
        quantiles("latency", ours.GENERATOR_REQUEST_SECONDS, route=PROBES),
        heat("latency", "s", ours.GENERATOR_REQUEST_SECONDS, route=PROBES),
        lines(
            "p99 by route",
            "s",
            (
                quantile(0.99, ours.GENERATOR_REQUEST_SECONDS, by=("route",), route=PROBES),
                "{{route}}",
            ),
            limits=((10, "red"),),
        ),
    )


def _time() -> Row:
    return (
        lines(
            "mean time by stage",
            "s",
            (mean(ours.GENERATOR_STAGE_SECONDS, by=("stage",)), "{{stage}}"),
            stacked=True,
            width=12,
            help="Of one request; the stages add up to its whole time.",
        ),
        lines(
            "p99 by stage",
            "s",
            (quantile(0.99, ours.GENERATOR_STAGE_SECONDS, by=("stage",)), "{{stage}}"),
            width=12,
        ),
    )


def _batching() -> Row:
    return (
        heat(
            "rows per evaluation",
            "none",
            ours.ENGINE_EVALUATION_ROWS,
            help="How much company a row has: the reason for continuous batching.",
        ),
        lines(
            "mean rows per evaluation",
            "none",
            (mean(ours.ENGINE_EVALUATION_ROWS, by=("instance",)), "{{instance}}"),
        ),
        lines(
            "rows",
            "none",
            (total(ours.ENGINE_ROWS_RUNNING, by=("instance",)), "running {{instance}}"),
            (total(ours.ENGINE_ROWS_WAITING, by=("instance",)), "waiting {{instance}}"),
        ),
        quantiles("time of an evaluation", ours.ENGINE_EVALUATION_SECONDS),
        heat("time of an evaluation", "s", ours.ENGINE_EVALUATION_SECONDS),
        lines(
            "row evaluations / s",
            "none",
            (rate(ours.ENGINE_EVALUATION_ROWS, by=("instance",), suffix="sum"), "{{instance}}"),
        ),
        heat(
            "requests per draw",
            "none",
            ours.GENERATOR_DRAW_REQUESTS,
            width=24,
            help="Requests that arrive during a draw share the next one.",
        ),
    )


def backlog() -> Row:
    """Whether there is room for more work."""
    return (
        lines(
            "backlog",
            "s",
            (select(ours.GENERATOR_BACKLOG_SECONDS), "{{instance}}"),
            limits=((30, "red"),),
            width=12,
            help="Time to finish what was admitted: what to scale the engine by.",
        ),
        lines(
            "images admitted and unfinished",
            "none",
            (select(ours.GENERATOR_IMAGES_WAITING), "{{instance}}"),
            width=12,
        ),
    )


def _waste() -> Row:
    return (
        lines(
            "evaluations that came to nothing",
            "percentunit",
            (
                _WASTED,
                "of all",
            ),
            limits=((0.2, "red"),),
        ),
        lines(
            "wasted evaluations by reason",
            "none",
            (rate(ours.ENGINE_WASTED_EVALUATIONS, by=("reason",)), "{{reason}}"),
            stacked=True,
        ),
        lines(
            "requests ended early",
            "reqps",
            (rate(ours.GENERATOR_CANCELLED, by=("reason",)), "{{reason}}"),
        ),
    )


def _model() -> Row:
    return (
        lines(
            "version",
            "none",
            (select(ours.ENGINE_MODEL_VERSION), "{{model}}@{{alias}} {{instance}}"),
        ),
        lines(
            "taken into use",
            "none",
            (f"{select(ours.ENGINE_SWAPS)}", "{{model}} {{instance}}"),
            help="Versions since the start of the process.",
        ),
        lines(
            "could not follow the alias / s",
            "none",
            (rate(ours.ENGINE_SWAP_FAILURES, by=("model",)), "{{model}}"),
            limits=ANY_IS_BAD,
        ),
    )


def _triton() -> Row:
    return (
        lines(
            "requests",
            "reqps",
            (rate(foreign.TRITON_SUCCESS), "answered"),
            (rate(foreign.TRITON_FAILURE, by=("reason",)), "failed: {{reason}}"),
            width=6,
        ),
        lines(
            "mean time in Triton",
            "µs",
            (
                f"{rate(foreign.TRITON_QUEUE_MICROSECONDS)} / {rate(foreign.TRITON_SUCCESS)}",
                "waiting",
            ),
            (
                f"{rate(foreign.TRITON_REQUEST_MICROSECONDS)} / {rate(foreign.TRITON_SUCCESS)}",
                "whole",
            ),
            width=6,
            help="Triton hands a request over at once; the engine's queue is the stage `queue`.",
        ),
        lines(
            "waiting in Triton",
            "none",
            (total(foreign.TRITON_PENDING, by=("instance",)), "{{instance}}"),
            width=6,
        ),
        lines(
            "since Triton heard of its engine",
            "s",
            (f"time() - {select(ours.ENGINE_SEEN)}", "{{instance}}"),
            limits=((45, "red"),),
            width=6,
            help="Triton does not notice that its engine is dead, and goes on showing its numbers.",
        ),
    )


def _jobs() -> Row:
    return (
        lines(
            "images made for jobs / s", "none", (rate(ours.GENERATOR_JOB_IMAGES), "images"), width=6
        ),
        lines(
            "what is left to do",
            "none",
            (f"max ({select(ours.GENERATOR_JOBS_UNFINISHED)})", "jobs"),
            (f"max ({select(ours.GENERATOR_JOB_PARTS_QUEUED)})", "parts"),
            width=6,
            help="Of all front ends: each reads the same from Redis.",
        ),
        lines(
            "parts by outcome",
            "none",
            (rate(ours.GENERATOR_JOB_PARTS, by=("outcome",)), "{{outcome}}"),
            stacked=True,
            width=6,
        ),
        lines("jobs", "none", (total(ours.GENERATOR_JOBS, by=("event",)), "{{event}}"), width=6),
    )


def _shared() -> Row:
    return (
        lines("Redis answers", "bool_on_off", (select(ours.GENERATOR_REDIS_UP), "{{instance}}")),
        lines(
            "refused for who sent it / s",
            "reqps",
            (rate(ours.GENERATOR_REFUSED, by=("code",)), "{{code}}"),
        ),
        lines(
            "quotas that could not be counted / s",
            "reqps",
            (rate(ours.GENERATOR_QUOTA_UNCOUNTED, by=("outcome",)), "{{outcome}}"),
            limits=ANY_IS_BAD,
            help="While Redis is away.",
        ),
    )


BOARD = board(
    "generator",
    "Where the time of a request goes, and what the engine makes of it.",
    jobs="generator|triton",
    rows={
        "Traffic": _traffic(),
        "Latency": _latency(),
        "Where the time goes": _time(),
        "Batching": _batching(),
        "Backlog": backlog(),
        "Waste": _waste(),
        "Jobs": _jobs(),
        "What replicas share": _shared(),
        "Model": _model(),
        "Triton": _triton(),
    },
)
