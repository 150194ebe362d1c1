"""Code, dashboards, alerts and their page name the same things."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from gmem_bank.service import BankService
from gmem_generator.metrics import Metrics
from gmem_model.engine.metrics import EngineMetrics
from gmem_shared import telemetry
from gmem_trainer.monitor import Monitor
from observability.dashboards import promql
from observability.dashboards.__main__ import FOLDER as DASHBOARDS
from observability.dashboards.__main__ import rendered
from tests.support.observability import (
    FOLDER,
    OURS,
    PROMETHEUS,
    RULE_TESTS,
    RULES,
    known_names,
    panel_expressions,
    rule_expressions,
    rules,
)
from tests.support.promql import for_prometheus, names

PAGES = FOLDER.parent / "docs" / "operations"
EXPRESSIONS = [*panel_expressions(), *rule_expressions("alert"), *rule_expressions("record")]


def test_the_committed_dashboards_are_what_the_code_makes() -> None:
    committed = {path.name: path.read_text() for path in DASHBOARDS.glob("*.json")}
    assert committed == rendered(), "run make dashboards"


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=lambda expression: expression.place)
def test_every_expression_asks_for_what_exists(expression) -> None:
    asked = names(for_prometheus(expression.text, window="1m"))
    assert asked
    assert asked <= known_names()


@pytest.mark.parametrize("spec", OURS, ids=lambda spec: spec.name)
def test_a_metric_that_is_renamed_is_missed_and_none_is_measured_for_nobody(spec) -> None:
    """Take a metric away: some dashboard or alert then asks for what does not exist."""
    left = known_names() - set(spec.series)
    assert any(names(for_prometheus(e.text, window="1m")) - left for e in EXPRESSIONS)


@pytest.mark.parametrize(
    ("expression", "asked"),
    [
        ("up", {"up"}),
        (
            'sum by (job, le) (rate(a_bucket{x=~"b c",y!="}"}[5m])) / b_total',
            {"a_bucket", "b_total"},
        ),
        ("histogram_quantile(0.99, sum by (le) (rate(a_bucket[1m])))", {"a_bucket"}),
        ("max by (x) (a) == 1 unless on (job, instance) b", {"a", "b"}),
        ('count_values by (x) ("seq", a) > bool 1', {"a"}),
        ('absent(up{job="x"}) or (job:a:ratio_rate5m / 0.005)', {"up", "job:a:ratio_rate5m"}),
        ("a / ignoring (reason) group_left b offset 5m", {"a", "b"}),
        ("rate(a[$__rate_interval]) or vector(0)", {"a"}),
    ],
)
def test_names_are_found_in_any_expression(expression, asked) -> None:
    assert names(expression) == asked


def test_a_panel_cannot_ask_for_a_label_or_a_series_that_is_not_there() -> None:
    with pytest.raises(ValueError, match="expected labels of gmem_bank_rows_total"):
        promql.rate(telemetry.BANK_ROWS, by=("bank",))
    with pytest.raises(ValueError, match="expected one of the series"):
        promql.select(telemetry.GENERATOR_REQUEST_SECONDS)


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    page = (PAGES / "alerts.md").read_text()
    sections = dict(
        re.findall(r"^## (Gmem\w+)\n\n(.+?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    )
    assert list(sections) == list(rules("alert"))
    for name, text in sections.items():
        assert "**Means**" in text, name
        assert "**Do**" in text, name


@pytest.mark.parametrize("name", rules("alert"))
def test_an_alert_says_what_is_wrong_and_where_to_read_on(name) -> None:
    alert = rules("alert")[name]
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    told = alert["annotations"]
    assert set(told) == {"summary", "description", "runbook_url"}
    assert told["runbook_url"] == f"docs/operations/alerts.md#{name.lower()}"


def test_every_alert_is_tested_to_fire_and_not_to() -> None:
    found: dict[str, set[bool]] = {name: set() for name in rules("alert")}
    for path in RULE_TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for case in test["promql_expr_test"]:
                (name,) = re.findall(r'alertname="(\w+)"', case["expr"])
                found[name].add(bool(case["exp_samples"]))
    assert found == {name: {True, False} for name in found}


def test_the_pages_name_only_what_exists() -> None:
    labels = {"gmem_shared", "gmem_bank", "gmem_generator", "gmem_trainer", "gmem_model"}
    for path in PAGES.glob("*.md"):
        named = set(re.findall(r"\b(gmem_[a-z0-9_]*[a-z0-9])\b(?![./])", path.read_text()))
        assert named - labels <= known_names() | {spec.name for spec in OURS}, path.name


@pytest.mark.prometheus
def test_promtool_accepts_configuration_and_rules() -> None:
    for command in (["config", "prometheus.yml"], ["rules", str(RULES)]):
        subprocess.run(["promtool", "check", *command], check=True, cwd=PROMETHEUS)


@pytest.mark.prometheus
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should_and_only_then(path) -> None:
    done = subprocess.run(
        ["promtool", "test", "rules", path.name], cwd=path.parent, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.prometheus
def test_promtool_finds_nothing_to_improve_in_our_metrics() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    EngineMetrics(registry)
    Monitor(registry)
    BankService(None, max_rows=1, registry=registry)  # type: ignore[arg-type]
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=generate_latest(registry), capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")
