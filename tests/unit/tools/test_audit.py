from __future__ import annotations

from tools.audit import NOT_LOOKED_UP, report

GOOD = {"name": "good", "version": "1", "vulns": []}
FLAWED = {"name": "flawed", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
SKIPPED = {"name": "skipped", "skip_reason": "Dependency not found on PyPI"}


def test_good_packages_are_a_success() -> None:
    assert report([GOOD]) == (["1 of 1 packages looked up, 0 flaws found."], 0)


def test_a_flaw_is_named_with_the_version_that_mends_it() -> None:
    lines, status = report([GOOD, FLAWED])
    assert lines[0] == "flawed 2: CVE-1, fixed in 2.1"
    assert status == 1


def test_packages_nobody_looked_up_are_no_success() -> None:
    lines, status = report([GOOD, SKIPPED])
    assert "1 of 2 packages looked up" in lines[0]
    assert "skipped" in lines[1]
    assert status == NOT_LOOKED_UP
