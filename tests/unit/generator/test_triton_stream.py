"""The shared stream, against a scripted server that speaks Triton's protocol."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest, ModelInferResponse
from tritonclient.grpc.service_pb2 import ModelStreamInferResponse as Message
from tritonclient.grpc.service_pb2_grpc import (
    GRPCInferenceServiceServicer,
    GRPCInferenceServiceStub,
    add_GRPCInferenceServiceServicer_to_server,
)

from gmem_generator.triton_stream import MAX_UNSENT, TritonStream
from gmem_shared.errors import NotReadyError, UnknownModelError, to_problem

Script = Callable[[AsyncIterator[ModelInferRequest]], AsyncIterator[Message]]


class ScriptedTriton(GRPCInferenceServiceServicer):
    def __init__(self, script: Script) -> None:
        self.script = script
        self.streams = 0
        self.received: list[str] = []

    async def ModelStreamInfer(self, requests, context):
        self.streams += 1
        async for message in self.script(self.noted(requests)):
            yield message

    async def noted(self, requests):
        async for request in requests:
            self.received.append(request.model_name)
            yield request


def message(request_id: str, *, final: bool, content: bool = True, error: str = "") -> Message:
    response = ModelInferResponse(id=request_id)
    response.parameters["triton_final_response"].bool_param = final
    if content:
        response.outputs.add(name=request_id)
    return Message(infer_response=response, error_message=error)


class Client:
    """Opens streams as the backend does: a new one when the present one accepts no more."""

    def __init__(
        self, stub: GRPCInferenceServiceStub, heartbeat_seconds: float, linger_seconds: float = 0.0
    ) -> None:
        self._stub = stub
        self._seconds = heartbeat_seconds, linger_seconds
        self.stream: TritonStream | None = None

    def exchange(self, name: str = "task", seconds: float | None = 60.0):
        if self.stream is None or not self.stream.accepting:
            heartbeat = ModelInferRequest(model_name="heartbeat")
            self.stream = TritonStream(self._stub, heartbeat, *self._seconds)
        request, cancel = (ModelInferRequest(model_name=n) for n in (name, "cancel"))
        return self.stream.exchange(request, seconds, cancel)

    async def ask(self, name: str = "task", seconds: float | None = 60.0) -> list[str]:
        """The names of all outputs that answer a request."""
        return [r.outputs[0].name async for r in self.exchange(name, seconds)]


@contextlib.asynccontextmanager
async def triton(script: Script, heartbeat_seconds: float = 60.0, linger_seconds: float = 0.0):
    server = grpc.aio.server()
    scripted = ScriptedTriton(script)
    add_GRPCInferenceServiceServicer_to_server(scripted, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        client = Client(GRPCInferenceServiceStub(channel), heartbeat_seconds, linger_seconds)
        yield client, scripted
    await server.stop(None)


async def echo(requests):
    async for request in requests:
        yield message(request.id, final=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while True:
            if condition():
                return
            await asyncio.sleep(0.005)


async def test_answers_find_their_requests() -> None:
    async def mixed(requests):
        first, second = await anext(requests), await anext(requests)
        yield message(second.id, final=False)
        yield message(first.id, final=False)
        yield message(second.id, final=True)
        yield message(first.id, final=True, content=False)

    async with triton(mixed) as (client, _):
        first, second = await asyncio.gather(client.ask(), client.ask())
    assert first == ["1"]
    assert second == ["2", "2"]


async def test_requests_in_flight_share_a_stream_that_closes_when_it_is_idle() -> None:
    async with triton(echo) as (client, server):
        await asyncio.gather(*(client.ask() for _ in range(5)))
        assert server.streams == 1
        assert not client.stream.accepting
        await asyncio.wait_for(client.stream.reader, 60)
        await client.ask()
        assert server.streams == 2


async def test_an_error_of_the_model_reaches_its_request_only() -> None:
    problem = json.dumps(to_problem(UnknownModelError("no such model")))

    async def refuse_first(requests):
        first, second = await anext(requests), await anext(requests)
        yield message(first.id, final=True, content=False, error=problem)
        yield message(second.id, final=True)

    async with triton(refuse_first) as (client, _):
        refused, good = await asyncio.gather(client.ask(), client.ask(), return_exceptions=True)
    assert isinstance(refused, UnknownModelError)
    assert refused.detail == "no such model"
    assert good == ["2"]


async def test_an_error_of_triton_itself_means_not_ready_and_a_new_stream() -> None:
    async def refuse(requests):
        async for request in requests:
            yield message(request.id, final=False, content=False, error="stub is not healthy")

    async with triton(refuse) as (client, server):
        for streams in (1, 2):
            with pytest.raises(NotReadyError, match="stub is not healthy"):
                await client.ask()
            assert server.streams == streams


@pytest.mark.parametrize("end", ["returns", "aborts"])
async def test_a_broken_stream_fails_every_request_in_flight(end) -> None:
    async def leave(requests):
        await anext(requests)
        await anext(requests)
        if end == "aborts":
            raise RuntimeError("crash")
        return
        yield

    async with triton(leave) as (client, _):
        results = await asyncio.gather(client.ask(), client.ask(), return_exceptions=True)
    for result in results:
        assert isinstance(result, NotReadyError)
        assert result.retry_after_seconds is not None


async def test_silence_breaks_the_stream() -> None:
    async def ignore(requests):
        async for _ in requests:
            pass
        return
        yield

    async with triton(ignore, heartbeat_seconds=0.02) as (client, server):
        with pytest.raises(NotReadyError, match="no sign of life"):
            await client.ask()
    assert server.received == ["task", "heartbeat"]


async def test_a_sign_of_life_keeps_a_slow_request_waiting() -> None:
    async def slow(requests):
        task = await anext(requests)
        for _ in range(5):
            yield message((await anext(requests)).id, final=True)
        yield message(task.id, final=True)

    async with triton(slow, heartbeat_seconds=0.1) as (client, server):
        assert await client.ask() == ["1"]
    assert server.received == ["task"] + ["heartbeat"] * 5


async def test_a_dead_model_behind_a_live_triton_is_no_sign_of_life() -> None:
    async def dead(requests):
        async for request in requests:
            if request.model_name == "heartbeat":
                yield message(request.id, final=False, content=False, error="not healthy")

    async with triton(dead, heartbeat_seconds=0.02) as (client, _):
        with pytest.raises(NotReadyError, match="no sign of life"):
            await client.ask()


async def test_an_abandoned_request_is_cancelled() -> None:
    async def endless(requests):
        task = await anext(requests)
        yield message(task.id, final=False)
        async for _ in requests:
            yield message(task.id, final=True, content=False)

    async with triton(endless) as (client, server):
        answers = client.exchange()
        await anext(answers)
        await answers.aclose()
        await until(lambda: server.received == ["task", "cancel"])
        await asyncio.wait_for(client.stream.reader, 60)


async def test_a_request_waits_no_longer_than_it_was_told_to() -> None:
    async def ignore(requests):
        async for _ in requests:
            pass
        return
        yield

    async with triton(ignore) as (client, server):
        with pytest.raises(TimeoutError):
            await client.ask(seconds=0.01)
        await until(lambda: server.received == ["task", "cancel"])


async def test_no_server_means_not_ready() -> None:
    async with grpc.aio.insecure_channel("127.0.0.1:1") as channel:
        with pytest.raises(NotReadyError, match="Triton does not answer"):
            await Client(GRPCInferenceServiceStub(channel), 60.0).ask()


async def test_a_finished_request_is_not_cancelled() -> None:
    async with triton(echo) as (client, server):
        await client.ask()
        await asyncio.wait_for(client.stream.reader, 60)
    assert server.received == ["task"]


async def test_a_stream_lingers_for_the_next_request_and_not_for_ever() -> None:
    async with triton(echo, linger_seconds=0.2) as (client, server):
        await client.ask()
        await client.ask()
        assert server.streams == 1
        await asyncio.wait_for(client.stream.reader, 60)
        assert not client.stream.accepting


async def test_a_retired_stream_ends_at_once_when_it_is_idle() -> None:
    async with triton(echo, linger_seconds=600.0) as (client, _):
        await client.ask()
        client.stream.retire()
        await asyncio.wait_for(client.stream.reader, 60)


async def test_a_triton_that_does_not_read_holds_up_requests_not_memory() -> None:
    async def deaf(requests):
        await asyncio.sleep(600)
        yield

    async with triton(deaf) as (client, _):
        asking = [asyncio.create_task(client.ask("x" * 100_000)) for _ in range(3 * MAX_UNSENT)]
        await asyncio.sleep(0.1)
        assert client.stream._outgoing.qsize() <= MAX_UNSENT
        client.stream.reader.cancel()
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(outcome, NotReadyError) for outcome in outcomes)


async def test_a_request_whose_time_is_over_before_it_was_sent_is_not_cancelled() -> None:
    async def deaf(requests):
        await asyncio.sleep(600)
        yield

    async with triton(deaf) as (client, _):
        asking = [
            asyncio.create_task(client.ask("x" * 100_000, seconds=0.05))
            for _ in range(3 * MAX_UNSENT)
        ]
        outcomes = await asyncio.gather(*asking, return_exceptions=True)
        assert all(isinstance(outcome, TimeoutError) for outcome in outcomes)
        client.stream.reader.cancel()
