"""How a panel looks: one function per kind, so that all dashboards look alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, timeseries
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import heatmap as heatmaps
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from gmem_shared.telemetry import MetricSpec
from observability.dashboards import promql

SOURCE = models.DataSourceRef(type_val="prometheus", uid="${source}")
"""The dashboard's variable: whichever Prometheus the reader chose."""

Query = tuple[str, str]
"""Expression and legend."""

Limit = tuple[float, str]
"""A value and the colour from there on."""

ANY_IS_BAD: Sequence[Limit] = ((1e-9, "red"),)

_HEIGHT = 8


def lines(
    title: str,
    unit: str,
    *queries: Query,
    help: str = "",
    limits: Sequence[Limit] = (),
    stacked: bool = False,
    width: int = 8,
) -> timeseries.Panel:
    """Curves over time."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(help)
        .datasource(SOURCE)
        .unit(unit)
        .min(0)
        .span(width)
        .height(_HEIGHT)
        .line_width(1)
        .fill_opacity(60 if stacked else 10)
        .show_points(shapes.VisibilityMode.NEVER)
        .legend(_legend())
        .tooltip(
            common.VizTooltipOptions()
            .mode(shapes.TooltipDisplayMode.MULTI)
            .sort(shapes.SortOrder.DESCENDING)
        )
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL))
    if limits:
        panel.thresholds(_thresholds(limits)).thresholds_style(
            common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.LINE)
        )
    for number, query in enumerate(queries):
        panel.with_target(_target(number, *query))
    return panel


def quantiles(
    title: str, spec: MetricSpec, *, help: str = "", width: int = 8, **where: str
) -> timeseries.Panel:
    """The median and what one in ten and one in a hundred exceed."""
    return lines(
        title,
        "s",
        *((promql.quantile(q, spec, **where), f"p{q * 100:.0f}") for q in (0.5, 0.9, 0.99)),
        help=help,
        width=width,
    )


def heat(
    title: str, unit: str, spec: MetricSpec, *, help: str = "", width: int = 8, **where: str
) -> heatmap.Panel:
    """A histogram over time."""
    target = _target(0, promql.buckets(spec, **where), "{{le}}").format(PromQueryFormat.HEATMAP)
    return (
        heatmap.Panel()
        .title(title)
        .description(help)
        .datasource(SOURCE)
        .span(width)
        .height(_HEIGHT)
        .calculate(False)
        .y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(shapes.AxisPlacement.LEFT))
        .color(
            heatmap.HeatmapColorOptions()
            .mode(heatmaps.HeatmapColorMode.SCHEME)
            .scheme("Oranges")
            .steps(64)
        )
        .show_legend()
        .with_target(target)
    )


def number(
    title: str,
    unit: str,
    *queries: Query,
    help: str = "",
    limits: Sequence[Limit] = (),
    width: int = 4,
) -> stat.Panel:
    """What is the case now."""
    panel = (
        stat.Panel()
        .title(title)
        .description(help)
        .datasource(SOURCE)
        .unit(unit)
        .span(width)
        .height(4)
        .color_mode(shapes.BigValueColorMode.VALUE)
        .graph_mode(shapes.BigValueGraphMode.AREA)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(_thresholds(limits))
    )
    for index, query in enumerate(queries):
        panel.with_target(_target(index, *query))
    return panel


def _target(index: int, expression: str, legend: str) -> prometheus.Dataquery:
    return (
        prometheus.Dataquery()
        .ref_id(chr(ord("A") + index))
        .datasource(SOURCE)
        .expr(expression)
        .legend_format(legend)
        .range()
    )


def _thresholds(limits: Sequence[Limit]) -> dashboard.ThresholdsConfig:
    steps: list[Any] = [models.Threshold(value=None, color="green")]
    steps += [models.Threshold(value=value, color=color) for value, color in limits]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def _legend() -> common.VizLegendOptions:
    return (
        common.VizLegendOptions()
        .display_mode(shapes.LegendDisplayMode.LIST)
        .placement(shapes.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs([])
    )
