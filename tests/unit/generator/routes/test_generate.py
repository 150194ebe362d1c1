from __future__ import annotations


async def test_the_versioned_path_is_the_same_operation(front) -> None:
    request = {"class_label": 3, "seed": 5}
    bare = await front.client.post("/generate", json=request)
    versioned = await front.client.post("/v1/generate", json=request)
    assert versioned.json()["images"] == bare.json()["images"]


async def test_an_empty_request_is_one_image_of_any_class(front) -> None:
    answer = (await front.generate()).json()
    assert len(answer["images"]) == 1


async def test_answers_are_not_stored_by_caches(front) -> None:
    for accept in ("application/json", "image/png", "text/event-stream"):
        assert (await front.generate(accept)).headers["Cache-Control"] == "no-store"
