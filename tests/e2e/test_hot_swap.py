"""Banks change under load: nothing fails, nothing mixes, nothing piles up."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import psutil
import pytest

from gmem_shared.bank_format import open_bank, write_bank
from gmem_shared.store import Store
from tests.support.load import Load
from tests.support.stack import running_stack

SWAPS = 10


def publish_variant(repository, number: int, directory: Path):
    """The production bank with only every second row, other ones each time."""
    bank = open_bank(repository.open(repository.resolve("1")))
    keep = np.arange(number % 2, len(bank.labels), 2)
    folder = directory / f"variant-{number}"
    folder.mkdir()
    files, metadata = write_bank(
        folder,
        vectors=np.asarray(bank.vectors[keep]),
        labels=np.asarray(bank.labels[keep]),
        source_ids=np.asarray(bank.source_ids[keep]),
        classes=bank.classes,
        encoder=bank.encoder,
        weights=np.full(len(keep), number + 1, np.uint64),
        provenance=None,
        normalized=bank.normalized,
    )
    return repository.publish(files, metadata=metadata, message=f"variant {number}")


@pytest.mark.slow
@pytest.mark.parametrize(
    "embedded", [True, pytest.param(False, marks=pytest.mark.triton)], ids=["embedded", "triton"]
)
def test_ten_swaps_under_32_clients(own_store, tmp_path, embedded) -> None:
    store = Store.from_url(str(own_store), cache_dir=tmp_path / "cache")
    repository = store.repository("banks", "digits")

    async def run(stack) -> Load:
        async with Load(stack.url, clients=32, request={"num_images": 2}) as load:
            await load.answered(64)
            memory.append(resident(stack))
            for number in range(SWAPS):
                version = await asyncio.to_thread(publish_variant, repository, number, tmp_path)
                repository.set_alias("production", version, reason="test")
                goal = version.seq
                while not any(a["bank"]["seq"] == goal for a in load.answers[-64:]):
                    await load.answered(16)
                    assert load.failures == []
            memory.append(resident(stack))
        return load

    memory: list[int] = []
    with running_stack(str(own_store), tmp_path / "stack", embedded=embedded) as stack:
        load = asyncio.run(run(stack))

    assert load.failures == []
    assert len({answer["bank"]["seq"] for answer in load.answers}) == SWAPS + 1
    rows = {
        version.digest: open_bank(repository.open(version)) for version in repository.versions()
    }
    for answer in load.answers:
        bank = rows[answer["bank"]["digest"]]
        for image in answer["images"]:
            (snippet,) = image["snippets"]
            assert bank.source_ids[snippet["row"]] == snippet["source_id"]
            assert bank.labels[snippet["row"]] == snippet["label"] == image["class_label"]
    assert memory[1] - memory[0] < 64 * 2**20, f"memory grew from {memory[0]} to {memory[1]} bytes"


def resident(stack) -> int:
    """Bytes of memory that the stack's processes hold, shared file pages excluded."""
    total = 0
    for process in stack.processes.values():
        family = [
            psutil.Process(process.pid),
            *psutil.Process(process.pid).children(recursive=True),
        ]
        total += sum(member.memory_full_info().uss for member in family)
    return total
