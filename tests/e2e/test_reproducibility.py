"""The same request with the same seed is the same PNG, byte for byte, wherever and whenever."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from tests.support.load import Load
from tests.support.stack import running_stack

REQUEST = {"class_label": "seven", "num_images": 3, "seed": 42}


def pngs(answer: dict) -> list[str]:
    return [image["b64_png"] for image in answer["images"]]


@pytest.mark.parametrize("sampler", ["euler", "heun", "ab2", "euler-maruyama"])
def test_alone_and_among_64_others(stack, sampler) -> None:
    request = REQUEST | {"sampler": sampler, "num_steps": 20}
    alone = pngs(stack.generate(**request))

    async def crowded() -> list[str]:
        async with Load(stack.url, clients=64, request={"num_steps": 13}) as load:
            await load.answered(64)
            async with httpx.AsyncClient(timeout=60) as client:
                answer = await client.post(f"{stack.url}/generate", json=request)
        assert not load.failures
        return pngs(answer.json())

    assert asyncio.run(crowded()) == alone


@pytest.mark.triton
@pytest.mark.parametrize("sampler", ["euler", "heun", "ab2", "euler-maruyama"])
def test_embedded_and_through_triton(embedded, distributed, sampler) -> None:
    request = REQUEST | {"sampler": sampler, "num_steps": 10}
    assert pngs(embedded.generate(**request)) == pngs(distributed.generate(**request))


def test_before_and_after_a_restart(embedded, digits_store, tmp_path) -> None:
    with running_stack(str(digits_store), tmp_path, embedded=True) as restarted:
        assert pngs(restarted.generate(**REQUEST)) == pngs(embedded.generate(**REQUEST))


def test_another_seed_is_another_image(stack) -> None:
    first = pngs(stack.generate(class_label=3, seed=1, num_images=1))
    second = pngs(stack.generate(class_label=3, seed=2, num_images=1))
    assert first != second


def test_a_replay_token_makes_the_same_image(stack) -> None:
    answer = stack.generate(class_label=5, seed=9, num_images=2)
    again = stack.generate(replay=answer["images"][1]["replay"])
    assert pngs(again) == pngs(answer)[1:]


def test_png_answers_are_the_same_bytes_too(stack) -> None:
    def png() -> bytes:
        answer = httpx.post(
            f"{stack.url}/generate",
            json={"class_label": 0, "seed": 5},
            headers={"Accept": "image/png"},
            timeout=60,
        )
        assert answer.headers["content-type"] == "image/png"
        return answer.content

    assert png() == png()
