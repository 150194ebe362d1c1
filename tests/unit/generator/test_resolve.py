from __future__ import annotations

from dataclasses import replace

import pytest

from gmem_generator.memo import Memo
from gmem_generator.plan import Plan
from gmem_generator.resolve import Resolver
from gmem_generator.schemas import GenerateRequest
from gmem_shared.errors import (
    EncoderMismatchError,
    OutOfRangeError,
    UnknownSamplerError,
)
from gmem_shared.types import BankInfo, ModelInfo
from tests.support.fakes import FakeBackend, FakeBank


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
    assert (resolved.indices, resolved.labels, resolved.guidance_scale) == ((0,), None, None)
    assert (resolved.query.labels, resolved.query.rows) == (None, None)


async def test_seed_zero_is_a_seed() -> None:
    assert (await plan(seed=0)).seed == 0


async def test_rows_take_turns() -> None:
    assert (await plan(memory={"rows": [3, 9]})).query.rows == (3, 9)
    assert (await plan(memory={"rows": [3, 9]}, num_images=5)).query.rows == (3, 9, 3, 9, 3)


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

    assert (await plan(Moved(), Trained())).query.bank.encoder == "fake-encoder"
    with pytest.raises(EncoderMismatchError, match="newer-encoder"):
        await plan(Moved(), Trained(), bank="digits@production")


async def test_a_bank_of_another_encoder_is_refused_by_name() -> None:
    with pytest.raises(EncoderMismatchError, match=r"'fake-encoder'.*'other-encoder'"):
        await plan(FakeBank(encoder="other-encoder"))


async def test_a_class_of_a_label_model_is_the_class_of_every_image() -> None:
    resolved = await plan(model="sit", class_label="SEVEN", num_images=3)
    assert (resolved.labels, resolved.query, resolved.bank) == ((7, 7, 7), None, None)


async def test_a_label_model_draws_the_same_classes_for_the_same_seed() -> None:
    drawn = (await plan(model="sit", seed=42, num_images=64)).labels
    assert drawn[:4] == (3, 6, 6, 1)
    assert set(drawn) == set(range(10))
    assert (await plan(model="sit", seed=42, num_images=4)).labels == drawn[:4]
    assert (await plan(model="sit", seed=43, num_images=64)).labels != drawn


async def test_an_unconditional_model_has_neither_labels_nor_a_bank() -> None:
    resolved = await plan(model="edm2", num_images=2)
    assert (resolved.labels, resolved.query, resolved.classes) == (None, None, ())


@pytest.mark.parametrize(
    ("request_", "scale"),
    [
        ({"model": "sit"}, 1.5),
        ({"model": "sit", "guidance_scale": 4}, 4),
        ({"model": "sit", "guidance_scale": 1}, 1),
        ({"model": "digits", "guidance_scale": 1}, None),
        ({"model": "digits"}, None),
    ],
)
async def test_guidance_is_the_asked_or_the_models_own(request_, scale) -> None:
    assert (await plan(**request_)).guidance_scale == scale


async def test_a_snippet_model_can_be_guided_too() -> None:
    assert (await plan(backend=FakeBackend(guidance_scale=1.0))).guidance_scale == 1
    guided = await plan(backend=FakeBackend(guidance_scale=1.0), guidance_scale=7.75)
    assert guided.guidance_scale == 7.75
