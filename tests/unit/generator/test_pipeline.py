from __future__ import annotations

import asyncio

import pytest

from gmem_generator.stopwatch import STAGES
from gmem_shared.errors import NotReadyError, OverloadedError
from tests.support.fakes import FakeBackend
from tests.support.front import Front, eventually, running_front

REQUEST = {"class_label": 7, "num_images": 3, "seed": 42}


async def test_the_engine_gets_rows_of_the_asked_class_from_the_pinned_versions(front) -> None:
    answer = (await front.generate(**REQUEST)).json()
    (task,) = front.backend.tasks
    assert task.model == f"digits@{answer['model']['digest']}"
    assert front.bank.draws[0][0] == f"digits@{answer['bank']['digest']}"
    assert task.snippets[:, 0].tolist() == [i["snippets"][0]["row"] for i in answer["images"]]
    assert {row // 10 for row in task.snippets[:, 0]} == {7}
    assert (task.seeds.tolist(), task.indices.tolist()) == ([42] * 3, [0, 1, 2])
    assert (task.sampler, task.num_steps, task.priority) == ("heun", 16, "interactive")
    assert 0 < task.deadline_seconds <= 60


async def test_the_same_request_gives_the_same_bytes_alone_and_in_company(front) -> None:
    alone = (await front.generate(**REQUEST)).json()
    company = [front.generate(class_label=i % 10, seed=i) for i in range(20)]
    again, *_ = await asyncio.gather(front.generate(**REQUEST), *company)
    assert again.json()["images"] == alone["images"]
    assert again.json()["id"] != alone["id"]


async def test_the_first_images_of_a_longer_request_are_those_of_a_shorter_one(front) -> None:
    short = (await front.generate(class_label=7, num_images=2, seed=1)).json()
    long = (await front.generate(class_label=7, num_images=5, seed=1)).json()
    assert long["images"][:2] == short["images"]


async def test_a_replay_makes_each_image_again_even_from_an_old_bank_version(front) -> None:
    images = (await front.generate(**REQUEST, sampler="euler", num_steps=4)).json()["images"]
    front.bank.publish()
    for image in images:
        again = (await front.generate(replay=image["replay"])).json()
        assert again["images"] == [image]
        assert again["bank"]["seq"] == 1


async def test_a_label_model_gets_labels_and_no_bank_is_asked(front) -> None:
    answer = (await front.generate(model="sit", **REQUEST, guidance_scale=4)).json()
    (task,) = front.backend.tasks
    assert (task.snippets, task.encoder) == (None, None)
    assert (task.labels.dtype, task.labels.tolist()) == ("int32", [7, 7, 7])
    assert task.guidance_scale == 4
    assert front.bank.draws == []
    assert answer["bank"] is None
    assert {image["class_name"] for image in answer["images"]} == {"seven"}
    assert [image["snippets"] for image in answer["images"]] == [[], [], []]
    assert front.metric("gmem_generator_stage_seconds_count", stage="denoise") == 1
    assert front.metric("gmem_generator_stage_seconds_count", stage="bank") == 0


async def test_an_unconditional_model_gets_noise_alone(front) -> None:
    answer = (await front.generate(model="edm2", num_images=2)).json()
    (task,) = front.backend.tasks
    assert (task.snippets, task.labels, task.guidance_scale) == (None, None, 2.0)
    assert [image["class_label"] for image in answer["images"]] == [None, None]


@pytest.mark.parametrize("guidance", [{}, {"guidance_scale": 1}, {"guidance_scale": 7.5}])
@pytest.mark.parametrize("model", ["sit", "edm2"])
async def test_an_image_without_memory_is_replayed_with_its_class_and_guidance(
    front, model, guidance
) -> None:
    images = (await front.generate(model=model, num_images=3, seed=5, **guidance)).json()["images"]
    for image in images:
        assert (await front.generate(replay=image["replay"])).json()["images"] == [image]
    first, again = front.backend.tasks[0], front.backend.tasks[-1]
    assert again.guidance_scale == first.guidance_scale


async def test_an_omitted_seed_is_chosen_and_told(front) -> None:
    first, second = [(await front.generate()).json()["images"][0] for _ in range(2)]
    assert first["seed"] != second["seed"]
    repeated = (await front.generate(seed=first["seed"])).json()["images"][0]
    assert repeated == first


async def test_the_answer_counts_evaluations_and_names_every_stage(front) -> None:
    answer = (await front.generate(**REQUEST, num_steps=5)).json()
    assert answer["usage"] == {"network_evaluations": 3 * 5 * 2}
    assert set(answer["timings_ms"]) == {*STAGES, "total"}
    assert front.metric("gmem_generator_images_total") == 3
    assert front.metric("gmem_generator_evaluations_total") == 30
    for stage in {*STAGES} - {"handover"}:  # the double's images take no time at all
        assert front.metric("gmem_generator_stage_seconds_count", stage=stage) == 1


async def test_concurrent_requests_share_draws_and_stream_through_one_backend() -> None:
    async with running_front(draw_window_ms=1) as front:
        front.backend.gate.open.clear()
        asking = [asyncio.create_task(front.generate(class_label=i % 10)) for i in range(16)]
        await eventually(lambda: len(front.backend.running) == 16)
        assert len(front.bank.draws) < 4
        front.backend.gate.open.set()
        assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}


async def test_a_swap_between_describing_and_drawing_mixes_no_versions(front) -> None:
    front.backend.gate.open.clear()
    asking = asyncio.create_task(front.generate(**REQUEST))
    await eventually(lambda: front.backend.running)
    front.bank.publish()
    front.backend.gate.open.set()
    assert (await asking).json()["bank"]["seq"] == 1
    assert (await front.generate(**REQUEST)).json()["bank"]["seq"] == 2


@pytest.mark.parametrize("part", ["bank", "backend"])
async def test_the_deadline_covers_bank_and_engine(front: Front, part) -> None:
    getattr(front, part).gate.open.clear()
    answer = await front.generate(deadline_ms=20)
    assert answer.status_code == 504
    assert answer.json()["code"] == "deadline_exceeded"
    assert front.metric("gmem_generator_cancelled_total", reason="deadline") == 1
    assert front.metric("gmem_generator_images_waiting") == 0
    assert not front.backend.running


async def test_a_full_queue_answers_429_and_takes_requests_again_when_it_empties() -> None:
    async with running_front(max_waiting_images=8) as front:
        front.backend.gate.open.clear()
        held = [asyncio.create_task(front.generate(num_images=4)) for _ in range(2)]
        await eventually(lambda: len(front.backend.running) == 2)
        refused = await front.generate()
        assert refused.status_code == 429
        assert int(refused.headers["Retry-After"]) >= 1
        assert refused.json()["retry_after_seconds"] > 0
        front.backend.gate.open.set()
        await asyncio.gather(*held)
        assert (await front.generate()).status_code == 200


@pytest.mark.parametrize(
    ("failure", "status"),
    [(NotReadyError("engine is loading", retry_after_seconds=3.2), 503),
     (OverloadedError("engine is full", retry_after_seconds=1.0), 429)],
)  # fmt: skip
async def test_a_refusal_of_the_engine_reaches_the_client_as_it_is(front, failure, status) -> None:
    front.backend.fail_after = (0, failure)
    answer = await front.generate()
    assert answer.status_code == status
    assert answer.json()["detail"] == failure.detail
    assert int(answer.headers["Retry-After"]) >= failure.retry_after_seconds
    front.backend.fail_after = None
    assert (await front.generate()).status_code == 200


async def test_an_engine_that_forgets_an_image_is_a_defect_not_a_short_answer(
    front, monkeypatch
) -> None:
    make = FakeBackend.generate

    async def forgetful(self, task):
        images = make(self, task)
        yield await anext(images)
        await images.aclose()

    monkeypatch.setattr(FakeBackend, "generate", forgetful)
    assert (await front.generate(num_images=2)).status_code == 500
