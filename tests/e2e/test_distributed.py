"""Bank service, Triton and front end as separate processes, seen as their tools see them."""

from __future__ import annotations

import grpc
import httpx
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.support.stack import wait_for

pytestmark = pytest.mark.triton


def test_reflection_describes_the_bank(distributed) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{distributed.ports['bank_grpc']}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert "gmem.bank.v1.Bank" in database.get_services()
        service = DescriptorPool(database).FindServiceByName("gmem.bank.v1.Bank")
        assert {"Draw", "Gather", "Search", "Describe"} <= set(service.methods_by_name)


@pytest.mark.parametrize("port", ["bank_grpc", "triton_grpc"])
def test_grpc_health_answers(distributed, port) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{distributed.ports[port]}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=10
        )
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_all_metrics_are_served(distributed) -> None:
    distributed.generate(class_label=2, num_images=2, seed=1)
    ports = distributed.ports
    assert distributed.metric("gmem_generator_images_total") >= 2
    assert distributed.metric("gmem_bank_rows_total", f"http://127.0.0.1:{ports['bank_http']}") >= 2
    triton = f"http://127.0.0.1:{ports['triton_metrics']}"
    assert distributed.metric("nv_inference_request_success", triton) >= 1
    # The engine's processes tell theirs every second.
    wait_for(
        lambda: distributed.metric("gmem_engine_evaluation_rows_count", triton) >= 1,
        "evaluations among Triton's metrics",
    )


def test_the_bank_answers_over_http(distributed) -> None:
    banks = httpx.get(f"http://127.0.0.1:{distributed.ports['bank_http']}/v1/banks", timeout=10)
    assert banks.status_code == 200
    assert "digits" in banks.text


def test_every_part_stops_cleanly(digits_store, tmp_path) -> None:
    from tests.support.stack import running_stack

    with running_stack(str(digits_store), tmp_path, embedded=False) as stack:
        stack.generate(class_label=1)
        assert {part: stack.stop(part) for part in reversed(stack.parts)} == {
            "generator": 0, "triton": 0, "bank": 0,
        }  # fmt: skip
