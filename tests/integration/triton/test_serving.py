"""The real tritonserver at work: same images, own metrics, hot swap, raw messages."""

from __future__ import annotations

import asyncio
import json
import struct
import sys

import grpc
import httpx
import pytest
from tritonclient.grpc.service_pb2 import ModelInferRequest
from tritonclient.grpc.service_pb2_grpc import GRPCInferenceServiceStub

from gmem_shared import triton_io
from tests.support.backends import (
    embedded_backend,
    images_of,
    pixels_of,
    until,
)
from tests.support.engine import make_task
from tests.support.models import publish_tiny_model
from tests.support.triton import TritonServer

pytestmark = pytest.mark.triton


@pytest.mark.parametrize("sampler", ["euler", "heun", "ab2", "euler-maruyama"])
async def test_images_equal_the_embedded_engines_byte_for_byte(
    backend, store_url, tmp_path, sampler
) -> None:
    embedded = embedded_backend(store_url, tmp_path)
    await embedded.start()
    task = make_task(9, seed=3, sampler=sampler, num_steps=6)
    try:
        assert await pixels_of(backend, task) == await pixels_of(embedded, task)
    finally:
        await embedded.close()


async def test_both_metrics_are_served_by_triton(backend, server) -> None:
    await images_of(backend, make_task(8))

    async def counted() -> bool:
        evaluated = server.metric("gmem_engine_evaluation_rows_sum", server.metrics_url)
        return evaluated >= 32 and rows_running(server) == 0

    await until(counted)
    assert server.metric("nv_inference_request_success", server.metrics_url) >= 1


VANISHING_CLIENT = """
import asyncio, sys
from gmem_generator.triton_backend import TritonBackend
from tests.support.backends import long_task

async def main():
    backend = TritonBackend(sys.argv[1])
    await backend.start()
    async for _ in backend.generate(long_task()):
        print("begun", flush=True)

asyncio.run(main())
"""


async def test_a_client_that_vanishes_frees_its_rows(server) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", VANISHING_CLIENT, server.address, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"begun\n"

    async def busy() -> bool:
        return rows_running(server) > 0

    async def free() -> bool:
        return rows_running(server) == 0

    await until(busy)
    process.kill()
    await process.communicate()
    await until(free)


def rows_running(server: TritonServer) -> float:
    return server.metric("gmem_engine_rows_running", server.metrics_url)


async def test_models_are_swapped_under_load_without_a_failure(backend, store, server) -> None:
    versions = [publish_tiny_model(store, seed=seed, alias=None) for seed in (1, 2, 3)]
    repository = store.repository("models", "tiny")
    seen: set[int] = set()
    swapping = True

    async def client() -> None:
        while swapping:
            images = await images_of(backend, make_task(4, num_steps=3))
            assert len({image.model for image in images}) == 1
            seen.add(images[0].model.seq)

    clients = [asyncio.create_task(client()) for _ in range(8)]
    for version in versions:
        repository.set_alias("production", version)

        async def served(seq: int = version.seq) -> bool:
            return seq in seen or any(task.done() for task in clients)

        await until(served)
    swapping = False
    await asyncio.gather(*clients)
    assert {version.seq for version in versions} <= seen


def raw_request(content: bytes) -> ModelInferRequest:
    request = ModelInferRequest(model_name=triton_io.MODEL_NAME, id="raw")
    request.inputs.add(name=triton_io.OPERATION, datatype="BYTES", shape=[1])
    request.raw_input_contents.append(struct.pack("<I", len(content)) + content)
    return request


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"{", "operation"),
        (b'{"op": "dance"}', "operation"),
        (b'{"op": "generate", "id": "a", "model": "tiny", "encoder": "e"}', "SEEDS"),
        (b"\xff", "operation"),
    ],
)
async def test_a_foreign_client_learns_what_was_wrong(server, content, word) -> None:
    async def requests():
        yield raw_request(content)

    async with grpc.aio.insecure_channel(server.address) as channel:
        call = GRPCInferenceServiceStub(channel).ModelStreamInfer(requests())
        answers = [answer async for answer in call]
    (answer,) = answers
    assert answer.infer_response.id == "raw"
    problem = json.loads(answer.error_message)
    assert problem["code"] == "invalid_request"
    assert word in problem["detail"]


def test_the_probe_says_ready(server) -> None:
    assert server.probe().returncode == 0


def test_triton_is_ready_over_http(server) -> None:
    assert httpx.get(f"{server.http_url}/v2/models/{triton_io.MODEL_NAME}/ready").status_code == 200
