"""The committed dashboards and rules, as tests look at them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gmem_shared import telemetry
from gmem_shared.telemetry import MetricSpec
from observability.dashboards import foreign
from observability.dashboards.__main__ import FOLDER as DASHBOARDS

FOLDER = Path(__file__).parents[2] / "observability"
PROMETHEUS = FOLDER / "prometheus"
RULES = PROMETHEUS / "rules" / "gmem.yml"
RULE_TESTS = sorted((PROMETHEUS / "tests").glob("*.yml"))

OURS = [spec for spec in vars(telemetry).values() if isinstance(spec, MetricSpec)]


@dataclass(frozen=True)
class Expression:
    """One expression and where it stands."""

    place: str
    text: str


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """The rules of a kind, ``alert`` or ``record``, by name."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule[kind]: rule for group in groups for rule in group["rules"] if kind in rule}


def panel_expressions() -> Iterator[Expression]:
    """What every panel and annotation of every dashboard asks."""
    for path in sorted(DASHBOARDS.glob("*.json")):
        board = json.loads(path.read_text())
        for panel in board["panels"]:
            for target in panel.get("targets", ()):
                place = f"{path.stem}: {panel['title']} {target['refId']}"
                yield Expression(place, target["expr"])
        for mark in board["annotations"]["list"]:
            yield Expression(f"{path.stem}: mark {mark['name']}", mark["expr"])


def rule_expressions(kind: str) -> Iterator[Expression]:
    """What every rule of a kind asks."""
    for name, rule in rules(kind).items():
        yield Expression(name, rule["expr"])


def known_names() -> set[str]:
    """Every name that may be asked for: ours, those of others that we use, recorded ones."""
    series = {name for spec in (*OURS, *foreign.ALL) for name in spec.series}
    return series | set(rules("record"))
