from __future__ import annotations

import pytest

from gmem_generator import readiness
from gmem_shared.errors import NotReadyError
from tests.support.front import running_front


async def test_ready_when_every_part_is(front) -> None:
    answer = await front.client.get("/readyz")
    assert answer.status_code == 200
    assert all(part["ready"] for part in answer.json()["parts"].values())


@pytest.mark.parametrize(("fake", "part"), [("bank", "bank"), ("backend", "engine")])
async def test_a_part_that_is_away_is_named_with_its_reason_and_comes_back(
    front, fake, part
) -> None:
    gate = getattr(front, fake).gate
    gate.failure = NotReadyError("the channel is down", retry_after_seconds=4.2)
    away = await front.client.get("/readyz")
    assert away.status_code == 503
    assert away.headers["Retry-After"] == "5"
    assert f"{part}: the channel is down" in away.json()["detail"]
    assert away.json()["parts"][part] == {"ready": False, "reason": "the channel is down"}
    assert front.metric("gmem_generator_ready", part=part) == 0
    gate.failure = None
    assert (await front.client.get("/readyz")).status_code == 200
    assert front.metric("gmem_generator_ready", part=part) == 1


async def test_a_part_that_does_not_answer_is_not_ready(front, monkeypatch) -> None:
    monkeypatch.setattr(readiness, "TIMEOUT_SECONDS", 0.01)
    front.bank.gate.open.clear()
    away = await front.client.get("/readyz")
    assert away.status_code == 503
    assert "bank: does not answer" in away.json()["detail"]


async def test_draining_is_alive_but_not_ready(front) -> None:
    front.app.state.drain.begin()
    assert (await front.client.get("/livez")).status_code == 200
    ready = await front.client.get("/readyz")
    assert ready.status_code == 503
    assert "server: " in ready.json()["detail"]
    assert (await front.generate()).status_code == 503
    assert (await front.client.get("/classes")).status_code == 200


@pytest.mark.parametrize(("model", "status"), [("sit", 200), ("edm2", 200), ("digits", 503)])
async def test_a_bank_that_is_away_matters_only_to_a_model_that_draws_from_one(
    model, status
) -> None:
    async with running_front(default_model=f"{model}@production") as front:
        front.bank.gate.failure = NotReadyError("no bank in the store", retry_after_seconds=1)
        answer = await front.client.get("/readyz")
        assert answer.status_code == status
        assert answer.json()["parts"]["bank"] == {"ready": False, "reason": "no bank in the store"}
        assert front.metric("gmem_generator_ready", part="bank") == (status == 200)
        assert (await front.generate()).status_code == status


async def test_a_default_model_that_cannot_be_asked_may_need_the_bank() -> None:
    async with running_front(default_model="nobody@production") as front:
        front.bank.gate.failure = NotReadyError("no bank in the store", retry_after_seconds=1)
        assert (await front.client.get("/readyz")).status_code == 503
