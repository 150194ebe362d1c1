"""What the dashboards have in common: where they lead, what can be chosen, what is marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models

from gmem_shared import telemetry as ours
from gmem_shared.telemetry import MetricSpec
from observability.dashboards import foreign
from observability.dashboards.panels import SOURCE

RUNBOOK = "docs/operations/alerts.md"

Row = Sequence[Any]
"""Panels beside each other; a new line begins where 24 columns are full."""


def board(name: str, help: str, *, jobs: str, rows: Mapping[str, Row]) -> models.Dashboard:
    """Make a dashboard.

    Args:
        name: Of its file and in its address.
        help: What it answers.
        jobs: Pattern of the jobs whose instances can be chosen.
        rows: Panels by the question they answer.
    """
    made = (
        dashboard.Dashboard(f"GMem {name}")
        .uid(f"gmem-{name}")
        .description(help)
        .tags(["gmem"])
        .readonly()
        .refresh("10s")
        .time("now-30m", "now")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .with_variable(dashboard.DatasourceVariable("source").label("source").type("prometheus"))
        .with_variable(_instances(jobs))
        .link(
            dashboard.DashboardLink("GMem")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags(["gmem"])
            .as_dropdown(True)
            .keep_time(True)
        )
        .link(
            dashboard.DashboardLink("What alerts mean")
            .type(models.DashboardLinkType.LINK)
            .url(RUNBOOK)
            .tooltip("in the repository")
        )
        .annotation(_swaps("bank version changed", ours.BANK_VERSION, "blue"))
        .annotation(_swaps("model version changed", ours.ENGINE_MODEL_VERSION, "purple"))
    )
    for title, panels in rows.items():
        made.with_row(dashboard.Row(title))
        for panel in panels:
            made.with_panel(panel)
    return made.build()


def _instances(jobs: str) -> dashboard.QueryVariable:
    everything = models.VariableOption(selected=True, text="All", value="$__all")
    return (
        dashboard.QueryVariable("instance")
        .label("instance")
        .datasource(SOURCE)
        .query(f'label_values({foreign.UP.name}{{job=~"{jobs}"}}, instance)')
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(everything)
    )


def _swaps(title: str, spec: MetricSpec, color: str) -> dashboard.AnnotationQuery:
    return (
        dashboard.AnnotationQuery()
        .name(title)
        .datasource(SOURCE)
        .enable(True)
        .icon_color(color)
        .expr(f"changes({spec.name}[1m]) > 0")
    )
