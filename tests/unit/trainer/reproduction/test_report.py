from __future__ import annotations

import json
from pathlib import Path

import pytest

from gmem_trainer.evaluation import Figures
from gmem_trainer.reproduction.curves import Curve
from gmem_trainer.reproduction.report import markdown, write_report
from tests.unit.trainer.reproduction.test_curves import curve

REFERENCE = Figures(1.0, 0.25, 0.125, 0.9, 0.9, 0.0, 1.0)
ARMS: dict[str, tuple[Curve, ...]] = {
    "SiT": (curve(8.0, seed=0), curve(8.0, seed=1)),
    "GMem": (curve(4.0, seed=0), curve(4.0, seed=1)),
}


def test_tables_state_cost_and_gain_at_each_level() -> None:
    text = markdown(ARMS, REFERENCE)
    assert "| SiT | 80.00 (80.00 to 80.00) | 160.00 (160.00 to 160.00) |" in text
    gains = text.split("### Steps, as multiples of GMem")[1].split("###")[0]
    assert "| SiT |  | 2.00 (2.00 to 2.00) | 2.00 (2.00 to 2.00)" in gains


def test_a_level_that_no_run_reached_is_called_never() -> None:
    assert "never" in markdown({"SiT": (curve(800.0),), "GMem": (curve(4.0),)}, REFERENCE)


def test_report_keeps_every_look_and_draws_it(tmp_path: Path) -> None:
    write_report(tmp_path / "new", ARMS, REFERENCE, {"data": "digits"})
    numbers = json.loads((tmp_path / "new" / "digits.json").read_text())
    assert numbers["protocol"] == {"data": "digits"}
    assert [len(run["points"]) for run in numbers["runs"]] == [5, 5, 5, 5]
    assert numbers["runs"][0]["points"][0]["figures"]["frechet_features"] == pytest.approx(16)
    assert (tmp_path / "new" / "digits.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "new" / "digits.md").read_text() == markdown(ARMS, REFERENCE)


def test_what_copying_scores_stands_beside_the_arms() -> None:
    assert "| the training images | 1.00 | 0.25 | 0.12 |" in markdown(ARMS, REFERENCE)


def test_both_distances_are_compared_at_levels_of_their_own() -> None:
    text = markdown(ARMS, REFERENCE)
    assert text.index("judge's features") < text.index("| arm | 10 | 5 |")
    assert text.index("pixel components") < text.index("| arm | 1 | 0.8 |")
