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


@pytest.mark.parametrize("query", ["model=digits", "model=digits&bank=digits@1", "bank=digits"])
async def test_classes_of_a_snippet_model_are_its_banks(front, query) -> None:
    answer = (await front.client.get(f"/classes?{query}")).json()
    assert answer["bank"]["seq"] == 1
    assert answer["classes"][7]["rows"] == 10


async def test_classes_of_a_label_model_are_its_own_and_have_no_rows(front) -> None:
    answer = (await front.client.get("/classes?model=sit")).json()
    assert (answer["bank"], answer["model"]["seq"]) == (None, 3)
    assert answer["classes"][7] == {
        "id": 7, "name": "seven", "aliases": ["n00000007"], "rows": None,
    }  # fmt: skip
    assert (await front.client.get("/classes?model=edm2")).json()["classes"] == []
    assert front.bank.describes == 0


async def test_classes_of_a_bank_for_a_model_without_one_are_a_conflict(front) -> None:
    answer = await front.client.get("/classes?model=sit&bank=digits")
    assert (answer.status_code, answer.json()["code"]) == (409, "condition_mismatch")


async def test_models_say_what_they_are_conditioned_on(front) -> None:
    models = (await front.client.get("/models")).json()["models"]
    facts = ("condition", "classes", "default_guidance_scale", "default_bank", "encoder")
    assert [tuple(model[fact] for fact in facts) for model in models] == [
        ("snippet", None, None, "digits@production", "fake-encoder"),
        ("label", 10, 1.5, None, None),
        ("none", None, 2.0, None, None),
    ]


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
