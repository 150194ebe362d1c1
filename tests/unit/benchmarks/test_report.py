from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness import report
from benchmarks.harness.report import MARKER, Claim, Plot, Result, Table


def result() -> Result:
    return Result(
        name="two_sides",
        title="Two sides",
        setting="Nothing was run.",
        claims=[Claim("p50 of new against old", [0.3, 0.2, 0.4], "at most", 0.3)],
        tables=[Table("Latency", ["side", "p50 ms"], [["old", 12.345], ["new", 1234.5]])],
        plots=[Plot("Cost against load", "clients", "images/s", {"new": ([1, 2], [3, 4])})],
        raw={"p50": [1.0, 2.0]},
        environment={"commit": "abc", "cores": 2},
    )


@pytest.mark.parametrize(
    ("bound", "goal", "met"),
    [("at most", 2.0, True), ("at most", 1.9, False), ("at least", 2.0, True)],
)
def test_the_median_decides_whether_a_claim_is_met(bound, goal, met) -> None:
    assert Claim("x", [1.0, 2.0, 9.0], bound, goal).met is met


def test_a_result_survives_the_file(tmp_path: Path) -> None:
    path = report.save(result(), tmp_path)
    assert report.chapter(report.load(path)) == report.chapter(result())


def test_a_chapter_shows_claims_tables_pictures_and_the_machine() -> None:
    text = report.chapter(result())
    assert "| p50 of new against old | 0.3 (0.2 … 0.4) | ≤ 0.3 | met |" in text
    assert "| old | 12.3 |" in text
    assert "| new | 1234 |" in text
    assert "![Cost against load](results/two_sides-cost-against-load.png)" in text
    assert "*commit abc, cores 2*" in text


def test_the_readme_keeps_its_preface_and_gets_every_chapter(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"# Benchmarks\n\n{MARKER}old")
    report.save(result(), tmp_path)
    report.main(tmp_path, readme, pages=tmp_path / "pages")
    text = readme.read_text()
    assert text.startswith("# Benchmarks")
    assert "## Two sides" in text
    assert "old\n" not in text.partition(MARKER)[2][:10]
    assert (tmp_path / "two_sides-cost-against-load.png").stat().st_size > 0


def test_a_page_gets_the_claims_where_it_has_a_place_for_them() -> None:
    page = "Text.\n<!-- claims: two_sides -->\nold\n<!-- end -->\nMore.\n<!-- end -->\n"
    filled = report.with_claims(page, [result()])
    assert "| p50 of new against old |" in filled
    assert "old\n<!-- end -->" not in filled
    assert filled.endswith("<!-- end -->\nMore.\n<!-- end -->\n")
    assert report.with_claims(filled, [result()]) == filled


def test_the_environment_names_commit_machine_and_versions() -> None:
    facts = report.environment()
    assert {"date", "commit", "processor", "cores", "python", "numpy"} <= facts.keys()
