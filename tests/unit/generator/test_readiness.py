from __future__ import annotations

import pytest

from gmem_generator import readiness
from gmem_shared.errors import NotReadyError


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
