from __future__ import annotations

import pytest

from gmem_shared.errors import NotReadyError


async def test_classes_are_those_of_the_default_models_bank(front) -> None:
    answer = (await front.client.get("/classes")).json()
    assert answer["bank"]["name"] == "digits"
    assert len(answer["classes"]) == 10
    assert answer["classes"][7] == {
        "id": 7, "name": "seven", "aliases": ["n00000007"], "rows": 10,
    }  # fmt: skip


async def test_classes_of_an_older_version_can_be_asked_for(front) -> None:
    front.bank.publish()
    assert (await front.client.get("/classes")).json()["bank"]["seq"] == 2
    assert (await front.client.get("/classes?bank=digits@1")).json()["bank"]["seq"] == 1


async def test_banks_and_models_are_listed(front) -> None:
    (bank,) = (await front.client.get("/banks")).json()["banks"]
    assert (bank["rows"], bank["classes"], bank["aliases"]) == (100, 10, ["production"])
    models = (await front.client.get("/models")).json()
    assert models["default"] == "digits@production"
    assert models["models"][0]["default_sampler"] == "heun"


async def test_samplers_are_those_of_a_model(front) -> None:
    answer = (await front.client.get("/samplers?model=digits@7")).json()
    assert answer["samplers"] == ["heun", "euler"]
    assert answer["max_steps"] == 1000


@pytest.mark.parametrize("path", ["/classes", "/banks"])
async def test_a_bank_that_is_away_is_503_and_comes_back(front, path) -> None:
    front.bank.gate.failure = NotReadyError("the bank is away", retry_after_seconds=2)
    away = await front.client.get(path)
    assert (away.status_code, away.headers["Retry-After"]) == (503, "2")
    assert away.json()["detail"] == "the bank is away"
    front.bank.gate.failure = None
    assert (await front.client.get(path)).status_code == 200
