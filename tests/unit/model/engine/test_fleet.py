"""Which engines are kept."""

from __future__ import annotations

import pytest

from gmem_model.engine.engine import Engine
from gmem_model.engine.fleet import Fleet
from gmem_shared.types import Reference, VersionRef
from tests.support.engine import EngineMaker

PRODUCTION = Reference("tiny")


def version(seq: int) -> VersionRef:
    return VersionRef("tiny", seq, f"sha256-{seq}")


@pytest.fixture
def engines(make_engine: EngineMaker) -> dict[int, Engine]:
    made = {seq: make_engine() for seq in range(1, 5)}
    for seq, engine in made.items():
        engine.version = version(seq)
    return made


def test_a_reference_leads_to_the_engine_put_last(engines: dict[int, Engine]) -> None:
    fleet = Fleet(max_demanded=1)
    assert fleet.find(PRODUCTION) is None
    for seq in (1, 2):
        fleet.put(PRODUCTION, engines[seq], follow=True)
        assert fleet.find(PRODUCTION) is engines[seq]
        assert fleet.followed() == {PRODUCTION: version(seq)}


def test_an_engine_retires_when_no_reference_leads_to_it(engines: dict[int, Engine]) -> None:
    fleet = Fleet(max_demanded=1)
    fleet.put(PRODUCTION, engines[1], follow=True)
    fleet.put(Reference("tiny", "staging"), engines[1], follow=True)
    fleet.put(PRODUCTION, engines[2], follow=True)
    assert fleet.get(version(1)) is engines[1]
    fleet.put(Reference("tiny", "staging"), engines[2], follow=True)
    assert fleet.get(version(1)) is None
    engines[1].close(drain_seconds=60)
    assert fleet.engines() == [engines[2]]


def test_the_version_asked_for_longest_ago_goes_first(engines: dict[int, Engine]) -> None:
    fleet = Fleet(max_demanded=2)
    for seq in (1, 2):
        fleet.put(Reference("tiny", str(seq)), engines[seq], follow=False)
    fleet.find(Reference("tiny", "1"))
    fleet.put(Reference("tiny", "3"), engines[3], follow=False)
    assert fleet.get(version(2)) is None
    assert fleet.get(version(1)) is engines[1]


def test_a_followed_version_is_not_pushed_out_by_demand(engines: dict[int, Engine]) -> None:
    fleet = Fleet(max_demanded=1)
    fleet.put(PRODUCTION, engines[1], follow=True)
    for seq in (2, 3, 4):
        fleet.put(Reference("tiny", str(seq)), engines[seq], follow=False)
    assert fleet.find(PRODUCTION) is engines[1]
    assert fleet.followed() == {PRODUCTION: version(1)}


def test_pinned_references_to_followed_versions_push_nothing_out(
    engines: dict[int, Engine],
) -> None:
    fleet = Fleet(max_demanded=1)
    pinned = [Reference("tiny", "1"), Reference("tiny", "sha256-1"), Reference("tiny", "2")]
    fleet.put(PRODUCTION, engines[1], follow=True)
    for reference, seq in zip(pinned, (1, 1, 2), strict=True):
        fleet.put(reference, engines[seq], follow=False)
    assert [fleet.find(reference) for reference in pinned] == [engines[1], engines[1], engines[2]]


def test_several_references_to_a_version_count_once(engines: dict[int, Engine]) -> None:
    fleet = Fleet(max_demanded=2)
    fleet.put(Reference("tiny", "1"), engines[1], follow=False)
    for selector in ("2", "sha256-2"):
        fleet.put(Reference("tiny", selector), engines[2], follow=False)
    assert fleet.get(version(1)) is engines[1]


def test_a_version_left_by_its_alias_is_one_asked_for(engines: dict[int, Engine]) -> None:
    fleet = Fleet(max_demanded=1)
    fleet.put(PRODUCTION, engines[1], follow=True)
    fleet.put(Reference("tiny", "1"), engines[1], follow=False)
    fleet.put(PRODUCTION, engines[2], follow=True)
    assert fleet.find(Reference("tiny", "1")) is engines[1]
    fleet.put(Reference("tiny", "3"), engines[3], follow=False)
    assert fleet.find(Reference("tiny", "1")) is None


def test_retiring_all_returns_those_with_work_left(engines: dict[int, Engine]) -> None:
    fleet = Fleet(max_demanded=1)
    fleet.put(PRODUCTION, engines[1], follow=True)
    for engine in fleet.retire_all():
        engine.close(drain_seconds=60)
    assert fleet.engines() == []
