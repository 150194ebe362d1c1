from __future__ import annotations

from dataclasses import replace

import pytest

from gmem_generator.memo import Memo
from gmem_generator.resolve import Plan, Resolver, find_class
from gmem_generator.schemas import GenerateRequest
from gmem_shared.errors import (
    EncoderMismatchError,
    OutOfRangeError,
    UnknownClassError,
    UnknownSamplerError,
)
from gmem_shared.types import BankInfo, ModelInfo
from tests.support.fakes import FakeBackend, FakeBank


@pytest.fixture
async def bank_info():
    return await FakeBank().describe("digits")


async def plan(
    source: FakeBank | None = None, backend: FakeBackend | None = None, **request
) -> Plan:
    source, backend = source or FakeBank(), backend or FakeBackend()
    resolver = Resolver(
        Memo(source.describe, 1.0, lambda: 0.0),
        Memo(backend.describe, 1.0, lambda: 0.0),
        default_model="digits@production",
        max_images=64,
        random_seed=lambda: 1234,
    )
    return await resolver.plan(GenerateRequest(**request))


async def test_defaults_are_the_models() -> None:
    resolved = await plan()
    assert (resolved.sampler, resolved.steps, resolved.seed) == ("heun", 16, 1234)
    assert (resolved.indices, resolved.labels, resolved.rows) == ((0,), None, None)


@pytest.mark.parametrize("label", [7, "seven", "SEVEN", "Seven", "n00000007"])
async def test_a_class_is_found_by_id_name_or_alias_in_any_case(bank_info, label) -> None:
    assert find_class(bank_info, label).id == 7


@pytest.mark.parametrize(
    ("label", "nearest"), [("sevn", "'seven'"), ("THREA", "'three'"), ("n00000077", "'n00000007'")]
)
async def test_an_unknown_name_is_answered_with_the_nearest(bank_info, label, nearest) -> None:
    with pytest.raises(UnknownClassError, match=nearest) as unknown:
        find_class(bank_info, label)
    assert "GET /classes?bank=digits@1" in unknown.value.detail


@pytest.mark.parametrize("label", [10, -1, 10**30, "", "\ud800", "x" * 100_000])
async def test_whatever_is_no_class_is_an_unknown_one(bank_info, label) -> None:
    with pytest.raises(UnknownClassError, match="ids 0 to 9"):
        find_class(bank_info, label)


async def test_seed_zero_is_a_seed() -> None:
    assert (await plan(seed=0)).seed == 0


async def test_rows_take_turns() -> None:
    assert (await plan(memory={"rows": [3, 9]})).rows == (3, 9)
    assert (await plan(memory={"rows": [3, 9]}, num_images=5)).rows == (3, 9, 3, 9, 3)


async def test_a_sampler_the_model_lacks_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownSamplerError, match="did you mean 'euler'"):
        await plan(sampler="eulr")


@pytest.mark.parametrize(
    ("request_", "field"), [({"num_images": 65}, "num_images"), ({"num_steps": 1001}, "num_steps")]
)
async def test_more_than_is_served_is_out_of_range(request_, field) -> None:
    with pytest.raises(OutOfRangeError) as refused:
        await plan(**request_)
    assert refused.value.errors[0]["field"] == field


async def test_the_training_bank_stands_in_while_the_default_one_is_of_another_encoder() -> None:
    class Moved(FakeBank):
        async def describe(self, bank: str) -> BankInfo:
            encoder = "fake-encoder" if bank == "digits@7" else "newer-encoder"
            return replace(await super().describe("digits"), encoder=encoder)

    class Trained(FakeBackend):
        async def describe(self, model: str) -> ModelInfo:
            return replace(await super().describe(model), training_bank="digits@7")

    assert (await plan(Moved(), Trained())).bank.encoder == "fake-encoder"
    with pytest.raises(EncoderMismatchError, match="newer-encoder"):
        await plan(Moved(), Trained(), bank="digits@production")


async def test_a_bank_of_another_encoder_is_refused_by_name() -> None:
    with pytest.raises(EncoderMismatchError, match=r"'fake-encoder'.*'other-encoder'"):
        await plan(FakeBank(encoder="other-encoder"))
