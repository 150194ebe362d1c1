"""Parts die and come back: the front end says so, recovers by itself, loses nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx
import pytest

from gmem_shared.store import Repository, Store, Version
from tests.support.load import Load
from tests.support.stack import running_stack, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.triton]


@pytest.fixture(scope="module")
def stack(digits_store, tmp_path_factory):
    directory = tmp_path_factory.mktemp("faults")
    with running_stack(str(digits_store), directory, embedded=False) as running:
        yield running


def refused(stack) -> httpx.Response | None:
    answer = httpx.post(
        f"{stack.url}/generate", json={"class_label": 1, "deadline_ms": 15_000}, timeout=30
    )
    return answer if answer.status_code == 503 else None


@pytest.mark.parametrize("part", ["triton", "bank"])
def test_a_killed_part_is_named_with_retry_after_and_the_service_recovers(stack, part) -> None:
    before = stack.generate(class_label=4, seed=11)
    stack.kill(part)
    answers: list[httpx.Response] = []
    wait_for(lambda: bool((a := refused(stack)) and answers.append(a) is None), "503", 60)
    answer = answers[-1]
    assert answer.headers["content-type"].startswith("application/problem+json")
    assert int(answer.headers["retry-after"]) >= 1
    assert answer.json()["detail"]
    wait_for(lambda: not stack.is_ready(), "/readyz is 503", 30)
    assert httpx.get(f"{stack.url}/livez", timeout=30).status_code == 200

    stack.launch(part)
    stack.wait_ready()
    after = stack.generate(class_label=4, seed=11)
    assert after["images"][0]["b64_png"] == before["images"][0]["b64_png"]


@pytest.mark.parametrize("part", ["triton", "bank"])
def test_a_kill_under_load_gives_answers_or_503_and_nothing_else(stack, part) -> None:
    async def run() -> Load:
        async with Load(stack.url, clients=8, request={"num_steps": 50}) as load:
            await load.answered(20)
            await asyncio.to_thread(stack.kill, part)
            await load.answered(10)
            stack.launch(part)
            await asyncio.to_thread(stack.wait_ready)
            good = len(load.answers)
            while len(load.answers) < good + 20:
                await load.answered(1)
        return load

    load = asyncio.run(run())
    assert {status for status, _ in load.failures} <= {503}
    for _, body in load.failures:
        assert json.loads(body)["code"] == "not_ready"


def test_a_corrupt_version_is_never_served(own_store, tmp_path) -> None:
    repository = Store.from_url(str(own_store), cache_dir=tmp_path / "cache").repository(
        "banks", "digits"
    )
    good = repository.resolve("production")
    bad = repository.publish(
        {"classes.json": b"[]"},
        metadata=good.manifest.metadata,
        reuse={n: f for n, f in good.manifest.files.items() if n != "classes.json"},
    )
    entry = bad.manifest.files["classes.json"]
    blob = own_store / "banks/digits/blobs/sha256" / entry.sha256[:2] / entry.sha256
    blob.chmod(0o644)
    blob.write_bytes(b"[ ")
    with running_stack(str(own_store), tmp_path / "stack", embedded=True) as stack:
        before = stack.generate(class_label=1, seed=3)
        repository.set_alias("production", bad, reason="test")
        named = httpx.post(
            f"{stack.url}/generate",
            json={"class_label": 1, "bank": f"digits@{bad.seq}"},
            timeout=60,
        )
        assert named.status_code == 503
        assert named.json()["code"] == "corrupt_version"
        assert "classes.json" in named.json()["detail"]
        after = stack.generate(class_label=1, seed=3)
        assert after["bank"] == before["bank"]
        assert after["images"][0]["b64_png"] == before["images"][0]["b64_png"]


def with_foreign_bank(store: Path, directory: Path) -> tuple[Repository, Version, Version]:
    """The digits banks: the one in production, and its copy that names another encoder."""
    repository = Store.from_url(str(store), cache_dir=directory / "cache").repository(
        "banks", "digits"
    )
    good = repository.resolve("production")
    foreign = repository.publish(
        {},
        metadata=dict(good.manifest.metadata) | {"encoder": "another-encoder"},
        reuse=dict(good.manifest.files),
    )
    return repository, good, foreign


def test_a_bank_of_another_encoder_is_refused_by_name(own_store, tmp_path) -> None:
    _, _, foreign = with_foreign_bank(own_store, tmp_path)
    with running_stack(str(own_store), tmp_path / "stack", embedded=True) as stack:
        answer = httpx.post(
            f"{stack.url}/generate",
            json={"class_label": 1, "bank": f"digits@{foreign.seq}"},
            timeout=60,
        )
        assert answer.status_code == 409
        assert answer.json()["code"] == "encoder_mismatch"
        assert "another-encoder" in answer.json()["detail"]


def test_a_model_draws_from_its_training_bank_until_the_default_one_fits(
    own_store, tmp_path
) -> None:
    repository, good, foreign = with_foreign_bank(own_store, tmp_path)
    with running_stack(str(own_store), tmp_path / "stack", embedded=True) as stack:
        before = stack.generate(class_label=1, seed=3)
        repository.set_alias("production", foreign, reason="test")
        banks = f"{stack.url}/banks"
        wait_for(
            lambda: httpx.get(banks, timeout=5).json()["banks"][0]["version"]["seq"] == foreign.seq,
            "the foreign bank is in use",
        )
        after = stack.generate(class_label=1, seed=3)
        assert after["bank"]["digest"] == good.digest
        assert after["images"][0]["b64_png"] == before["images"][0]["b64_png"]
