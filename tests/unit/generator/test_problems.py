"""Bad input, of every kind we could think of: each a precise problem, never a 5xx."""

from __future__ import annotations

import json

import pytest

from tests.support.front import Front, running_front

JSON = {"Content-Type": "application/json"}

BAD = [
    # body, status, code, field, a word of the detail
    ({"class_label": "sevn"}, 404, "unknown_class", "class_label", "'seven'"),
    ({"class_label": 10}, 404, "unknown_class", "class_label", "ids 0 to 9"),
    ({"class_label": True}, 400, "invalid_request", "class_label", "found true"),
    ({"class_label": 7.5}, 400, "invalid_request", "class_label", "found 7.5"),
    ({"class_label": [7]}, 400, "invalid_request", "class_label", "class id"),
    ({"num_steps": 0}, 422, "out_of_range", "num_steps", "at least 1"),
    ({"num_steps": 10**6}, 422, "out_of_range", "num_steps", "at most 1000"),
    ({"num_steps": "7"}, 400, "invalid_request", "num_steps", "integer"),
    ({"num_steps": 7.5}, 400, "invalid_request", "num_steps", "integer"),
    ({"num_images": 10**9}, 422, "out_of_range", "num_images", "at most 1024"),
    ({"num_images": -1}, 422, "out_of_range", "num_images", "at least 1"),
    ({"num_images": True}, 400, "invalid_request", "num_images", "integer"),
    ({"seed": 2**64}, 422, "out_of_range", "seed", str(2**64 - 1)),
    ({"seed": -1}, 422, "out_of_range", "seed", "at least 0"),
    ({"steps": 7}, 400, "invalid_request", "steps", "did you mean 'num_steps'?"),
    ({"class": 7}, 400, "invalid_request", "class", "did you mean 'class_label'?"),
    ({"guidance": 4}, 400, "invalid_request", "guidance", "did you mean 'guidance_scale'?"),
    ({"guidance_scale": 4}, 400, "invalid_request", "guidance_scale", "cannot be guided"),
    ({"guidance_scale": -1}, 422, "out_of_range", "guidance_scale", "at least 0"),
    ({"guidance_scale": 101}, 422, "out_of_range", "guidance_scale", "at most 100"),
    ({"guidance_scale": True}, 400, "invalid_request", "guidance_scale", "number"),
    ({"guidance_scale": "4"}, 400, "invalid_request", "guidance_scale", "number"),
    ({"model": "sit", "class_label": "sevn"}, 404, "unknown_class", "class_label", "'seven'"),
    ({"model": "sit", "class_label": -1}, 404, "unknown_class", "class_label", "model=sit@3"),
    ({"model": "sit", "bank": "digits"}, 409, "condition_mismatch", "bank", "class label"),
    ({"model": "sit", "memory": {"rows": [1]}}, 409, "condition_mismatch", "memory", "sit@3"),
    (
        {"model": "edm2", "class_label": 7},
        409,
        "condition_mismatch",
        "class_label",
        "unconditional",
    ),
    ({"model": "edm2", "bank": "digits"}, 409, "condition_mismatch", "bank", "unconditional"),
    ({"memory": {"row": [1]}}, 400, "invalid_request", "memory.row", "did you mean 'rows'?"),
    ({"memory": {"rows": [1, "2"]}}, 400, "invalid_request", "memory.rows.1", "integer"),
    ({"memory": {"rows": []}}, 422, "out_of_range", "memory.rows", "at least 1"),
    ({"memory": {"rows": [2**63]}}, 422, "out_of_range", "memory.rows.0", "at most"),
    ({"memory": {"rows": [100]}}, 404, "unknown_row", None, "100"),
    ({"memory": {}}, 400, "invalid_request", "memory", "exactly one"),
    ({"memory": {"rows": [1], "exclude": [1]}}, 400, "invalid_request", "memory", "exactly one"),
    ({"memory": {"rows": [1]}, "class_label": 7}, 400, "invalid_request", "body", "found both"),
    ({"memory": {"exclude": list(range(100))}}, 422, "out_of_range", "memory.exclude", "fewer"),
    ({"sampler": "eulr"}, 404, "unknown_sampler", "sampler", "'euler'"),
    ({"bank": "digits@99"}, 404, "unknown_version", None, "99"),
    ({"bank": "nobody"}, 404, "unknown_bank", None, "nobody"),
    ({"bank": "../../etc"}, 400, "invalid_request", "bank", "digits@production"),
    ({"model": "nobody"}, 404, "unknown_model", None, "nobody"),
    ({"model": 7}, 400, "invalid_request", "model", "string"),
    ({"deadline_ms": 0}, 422, "out_of_range", "deadline_ms", "at least 1"),
    ({"priority": "urgent"}, 400, "invalid_request", "priority", "'interactive'"),
    ({"replay": "abc"}, 400, "invalid_request", "replay", "token"),
    ({"replay": 7}, 400, "invalid_request", "replay", "string"),
    ({"replay": "abc", "seed": 1}, 400, "invalid_request", "seed", "known fields"),
    ({"\ud800": 1}, 400, "invalid_request", "body", "unicode"),
    ({"sampler": "\ud800"}, 400, "invalid_request", "sampler", "expected"),
    ([], 400, "invalid_request", "body", "expected an object"),
    ("seven", 400, "invalid_request", "body", "expected an object"),
    ({"memory": [[[[[[]]]]]]}, 400, "invalid_request", "memory", "expected an object"),
]


def check(answer, status, code, says) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["code"] == code
    assert problem["type"] == f"urn:gmem:error:{code}"
    assert problem["error"] == {
        "message": problem["detail"],
        "type": code,
        "param": problem["error"]["param"],
        "code": code,
    }
    assert problem["request_id"] == answer.headers["X-Request-Id"]
    assert says in problem["detail"]
    return problem


@pytest.mark.parametrize(("body", "status", "code", "field", "says"), BAD, ids=str)
async def test_a_bad_value_is_told_field_by_field(front, body, status, code, field, says) -> None:
    content = json.dumps(body).encode()  # httpx's own encoder cannot send a lone surrogate
    answer = await front.client.post("/generate", content=content, headers=JSON)
    problem = check(answer, status, code, says)
    if field is not None:
        assert [error["field"] for error in problem["errors"]] == [field]
        assert problem["error"]["param"] == field
    assert not front.backend.tasks


async def test_every_wrong_field_is_named_and_malformed_outweighs_out_of_range(front) -> None:
    answer = await front.generate(num_steps=0, seeds=1, memory={"rows": ["x"]})
    problem = check(answer, 400, "invalid_request", "num_steps: ")
    fields = {error["field"] for error in problem["errors"]}
    assert fields == {"num_steps", "seeds", "memory.rows.0"}


async def test_ten_thousand_unknown_fields_do_not_make_a_long_answer(front) -> None:
    answer = await front.generate(**{f"field{i}": i for i in range(10_000)})
    check(answer, 400, "invalid_request", "and 9997 more")
    assert len(answer.content) < 20_000


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "broken JSON"),
        (b"{", "line 1, column 2"),
        (b'{"seed": NaN}', "NaN"),
        (b'{"seed": 1, "seed": 1}', "'seed' twice"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"[" * 200_000, "deep nesting"),
        (b"null", "found null"),
    ],
)
async def test_what_is_not_a_json_object_is_malformed(front, content, says) -> None:
    answer = await front.client.post("/generate", content=content, headers=JSON)
    check(answer, 400, "invalid_request", says)


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "", "x"])
async def test_a_body_not_said_to_be_json_is_refused(front, media_type) -> None:
    headers = {"Content-Type": media_type}
    answer = await front.client.post("/generate", content=b"{}", headers=headers)
    check(answer, 415, "unsupported_media_type", "with curl")


async def test_a_huge_body_is_refused_by_its_announced_length() -> None:
    async with running_front(max_body_bytes=2048) as front:
        answer = await front.client.post("/generate", content=b" " * 4096, headers=JSON)
        check(answer, 413, "too_large", "2048 bytes")


async def test_a_huge_chunked_body_is_refused_without_being_read() -> None:
    sent = 0

    async def chunks():
        nonlocal sent
        for _ in range(1000):
            sent += 1
            yield b" " * 1024

    async with running_front(max_body_bytes=2048) as front:
        answer = await front.client.post("/generate", content=chunks(), headers=JSON)
        check(answer, 413, "too_large", "2048 bytes")
    assert sent < 5


async def test_an_unknown_path_and_a_wrong_method_are_problems_too(front: Front) -> None:
    check(await front.client.get("/nowhere"), 404, "no_such_path", "'/nowhere'")
    check(await front.client.get("/web/nothing.js"), 404, "no_such_path", "nothing.js")
    answer = await front.client.get("/generate")
    check(answer, 405, "method_not_allowed", "expected POST")
    assert answer.headers["Allow"] == "POST"


async def test_an_unacceptable_representation_is_refused(front) -> None:
    check(await front.generate("text/html"), 406, "not_acceptable", "image/png")


@pytest.mark.parametrize("path", ["/classes?bank=BAD!", "/samplers?model=BAD!"])
async def test_a_bad_query_is_a_problem_too(front, path) -> None:
    check(await front.client.get(path), 400, "invalid_request", "expected a reference")
