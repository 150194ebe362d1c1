from __future__ import annotations


async def test_alive_whatever_bank_and_engine_do(front) -> None:
    front.bank.gate.open.clear()
    front.backend.gate.open.clear()
    assert (await front.client.get("/livez")).json() == {"status": "alive"}


async def test_metrics_are_prometheus_text_with_every_name_of_the_contract(front) -> None:
    await front.generate()
    answer = await front.client.get("/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'gmem_generator_requests_total{route="/generate",status="200"} 1.0' in answer.text
