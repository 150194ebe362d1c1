from __future__ import annotations

import subprocess
import sys

import pytest

from gmem_generator.app import create_app
from tests.support.fakes import FakeBackend, FakeBank
from tests.support.front import running_front, settings


def test_the_front_end_imports_neither_torch_nor_faiss() -> None:
    program = (
        "import sys, gmem_generator.app, gmem_generator.cli\n"
        "found = {'torch', 'faiss', 'gmem_model', 'gmem_bank'} & set(sys.modules)\n"
        "sys.exit(f'imported: {found}' if found else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


async def test_bank_and_engine_start_and_close_with_the_application() -> None:
    async with running_front() as front:
        assert front.bank.running
        assert front.backend.started
    assert not front.bank.running
    assert not front.backend.started


async def test_a_bank_is_closed_when_the_engine_does_not_start(monkeypatch) -> None:
    bank, backend = FakeBank(), FakeBackend()

    async def broken() -> None:
        raise RuntimeError("no engine")

    monkeypatch.setattr(backend, "start", broken)
    app = create_app(settings(), bank, backend)
    with pytest.raises(RuntimeError, match="no engine"):
        async with app.router.lifespan_context(app):
            raise AssertionError("started")
    assert not bank.running


async def test_a_request_can_never_be_larger_than_the_queue() -> None:
    async with running_front(max_images=100, max_waiting_images=10) as front:
        answer = await front.generate(num_images=11)
        assert answer.status_code == 422
        assert "at most 10" in answer.json()["detail"]
