from __future__ import annotations

import asyncio

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from structlog.contextvars import bound_contextvars

from gmem_generator.drawing import Drawer
from gmem_generator.metrics import Metrics
from gmem_shared import tracing
from gmem_shared.errors import NotReadyError, OutOfRangeError
from gmem_shared.types import DrawSpec
from tests.support.fakes import FakeBank
from tests.support.front import eventually

BANK = "digits@1"


@pytest.fixture
def bank() -> FakeBank:
    return FakeBank()


@pytest.fixture
def drawer(bank: FakeBank) -> Drawer:
    return Drawer(bank, Metrics(CollectorRegistry()), window_seconds=0.0)


def specs(count: int) -> list[DrawSpec]:
    return [DrawSpec(2, seed=seed, labels=(seed % 10,)) for seed in range(count)]


async def test_a_bank_that_answers_at_once_keeps_nobody_waiting_for_company(bank, drawer) -> None:
    answers = await asyncio.gather(*(drawer.draw(BANK, spec) for spec in specs(8)))
    assert [len(asked) for _, asked in bank.draws] == [1] * 8
    assert [set(answer.labels) for answer in answers] == [{seed} for seed in range(8)]


async def test_requests_that_arrive_during_a_draw_share_the_next(bank, drawer) -> None:
    bank.gate.open.clear()
    first = asyncio.create_task(drawer.draw(BANK, specs(1)[0]))
    await eventually(lambda: bank.gate.waiting == 1)
    later = [asyncio.create_task(drawer.draw(BANK, spec)) for spec in specs(5)]
    await asyncio.sleep(0.01)
    assert len(bank.draws) == 1
    bank.gate.open.set()
    await asyncio.gather(first, *later)
    assert [len(asked) for _, asked in bank.draws] == [1, 5]


async def test_a_shared_draw_gives_the_rows_of_a_lone_one(bank, drawer) -> None:
    shared = await asyncio.gather(*(drawer.draw(BANK, spec) for spec in specs(4)))
    for answer, spec in zip(shared, specs(4), strict=True):
        alone = await drawer.draw(BANK, spec)
        np.testing.assert_array_equal(answer.rows, alone.rows)


async def test_a_draw_may_wait_for_company(bank) -> None:
    drawer = Drawer(bank, Metrics(CollectorRegistry()), window_seconds=0.001)
    await asyncio.gather(*(drawer.draw(BANK, spec) for spec in specs(8)))
    assert [len(asked) for _, asked in bank.draws] == [8]


async def test_different_versions_never_share_a_draw(bank, drawer) -> None:
    bank.publish()
    await asyncio.gather(*(drawer.draw(f"digits@{v}", s) for v in (1, 2) for s in specs(2)))
    assert {name for name, _ in bank.draws} == {"digits@1", "digits@2"}


async def test_a_request_that_leaves_does_not_take_its_neighbours_rows(bank, drawer) -> None:
    bank.gate.open.clear()
    leaver, stayer = [asyncio.create_task(drawer.draw(BANK, spec)) for spec in specs(2)]
    await eventually(lambda: bank.gate.waiting == 1)
    leaver.cancel()
    bank.gate.open.set()
    assert len(await stayer) == 2


async def test_one_bad_spec_does_not_fail_its_neighbours(bank, drawer, monkeypatch) -> None:
    draw = bank.draw

    async def strict(reference, asked):
        if any(spec.count > 100 for spec in asked):
            raise OutOfRangeError("too many rows")
        return await draw(reference, asked)

    monkeypatch.setattr(bank, "draw", strict)
    good, bad = await asyncio.gather(
        drawer.draw(BANK, DrawSpec(3, 1)), drawer.draw(BANK, DrawSpec(101, 1)),
        return_exceptions=True,
    )  # fmt: skip
    assert len(good) == 3
    assert isinstance(bad, OutOfRangeError)


async def test_a_bank_that_goes_away_is_asked_once_for_all_who_wait(bank, drawer) -> None:
    bank.gate.open.clear()
    draws = [asyncio.create_task(drawer.draw(BANK, spec)) for spec in specs(6)]
    await eventually(lambda: bank.gate.waiting == 1)
    bank.gate.failure = NotReadyError("away")
    bank.gate.open.set()
    failures = await asyncio.gather(*draws, return_exceptions=True)
    assert all(isinstance(failure, NotReadyError) for failure in failures)
    assert len(bank.draws) == 2


async def test_excluded_rows_are_never_drawn_and_the_rest_keep_their_order(bank, drawer) -> None:
    spec = DrawSpec(20, seed=3)
    free = (await drawer.draw(BANK, spec)).rows.tolist()
    exclude = frozenset(free[::3])
    rows = (await drawer.draw_except(BANK, spec, exclude)).rows.tolist()
    assert len(rows) == 20
    assert not exclude & set(rows)
    kept = [row for row in free if row not in exclude]
    assert rows[: len(kept)] == kept


async def test_excluding_every_row_is_refused(drawer) -> None:
    with pytest.raises(OutOfRangeError, match="exclude fewer"):
        await drawer.draw_except(BANK, DrawSpec(1, seed=3), frozenset(range(100)))


async def test_a_shared_draw_goes_on_with_the_ids_of_all_who_share_it(bank, monkeypatch) -> None:
    went_along: list[str | None] = []
    draw = bank.draw

    async def noting(name: str, asked: tuple[DrawSpec, ...]):
        went_along.append(tracing.outgoing().get(tracing.REQUEST_ID))
        return await draw(name, asked)

    monkeypatch.setattr(bank, "draw", noting)
    drawer = Drawer(bank, Metrics(CollectorRegistry()), window_seconds=0.0)

    async def request(number: int) -> None:
        with bound_contextvars(request_id=f"r{number}"):
            await drawer.draw(BANK, DrawSpec(1, seed=number))

    bank.gate.open.clear()
    first = asyncio.create_task(request(1))
    await eventually(lambda: bank.gate.waiting == 1)
    others = [asyncio.create_task(request(number)) for number in range(2, 102)]
    await asyncio.sleep(0.01)
    bank.gate.open.set()
    await asyncio.gather(first, *others)
    assert went_along == ["r1", ",".join(f"r{number}" for number in range(2, 66))]
