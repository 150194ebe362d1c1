from __future__ import annotations

from tests.support.front import running_front


async def test_every_error_of_every_route_is_a_documented_problem(front) -> None:
    document = (await front.client.get("/openapi.json")).json()
    assert "Problem" in document["components"]["schemas"]
    assert "HTTPValidationError" not in document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for status, response in operation["responses"].items():
                if not status.startswith(("2", "3")):
                    assert list(response["content"]) == ["application/problem+json"], path


async def test_generate_documents_every_representation(front) -> None:
    document = (await front.client.get("/openapi.json")).json()
    responses = document["paths"]["/generate"]["post"]["responses"]
    assert set(responses["200"]["content"]) == {
        "application/json", "image/png", "text/event-stream",
    }  # fmt: skip
    assert "Retry-After" in responses["429"]["headers"]
    assert set(responses) >= {"400", "404", "406", "409", "413", "415", "422", "429", "503", "504"}


async def test_the_document_states_this_servers_limit() -> None:
    async with running_front(max_images=12) as front:
        document = (await front.client.get("/openapi.json")).json()
    request = document["components"]["schemas"]["GenerateRequest"]
    assert request["properties"]["num_images"]["anyOf"][0]["maximum"] == 12


async def test_every_example_request_works(front) -> None:
    document = (await front.client.get("/openapi.json")).json()
    body = document["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]
    for example in body["examples"].values():
        answer = await front.client.post("/generate", json=example["value"])
        assert answer.status_code == 200, example
