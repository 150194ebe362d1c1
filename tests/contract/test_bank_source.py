"""One suite, every bank source: in process, and over gRPC to a real server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from gmem_bank.local import LocalBank
from gmem_shared.bank_format import SNIPPETS, tombstone
from gmem_shared.clients.bank import BankClient
from gmem_shared.errors import (
    CorruptVersionError,
    GmemError,
    InvalidRequestError,
    NotReadyError,
    OutOfRangeError,
    TooLargeError,
    UnknownAliasError,
    UnknownBankError,
    UnknownClassError,
    UnknownRowError,
    UnknownVersionError,
)
from gmem_shared.ports import BankSource
from gmem_shared.store import Store
from gmem_shared.types import ClassInfo, DrawSpec, Snippets
from tests.support import banks


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.from_url(str(tmp_path / "store"), tmp_path / "cache")


@pytest.fixture
async def local(store: Store) -> AsyncIterator[LocalBank]:
    bank = LocalBank(store, banks.settings(max_rows=1000), CollectorRegistry())
    await bank.start()
    yield bank
    await bank.close()


@pytest.fixture
async def remote(local: LocalBank) -> AsyncIterator[BankClient]:
    with banks.grpc_service(local) as server:
        client = BankClient(f"127.0.0.1:{server.port}", timeout_seconds=20)
        await client.start()
        yield client
        await client.close()


@pytest.fixture(params=["in process", "over gRPC"])
def source(request: pytest.FixtureRequest, local: LocalBank, remote: BankClient) -> BankSource:
    return local if request.param == "in process" else remote


def assert_same(one: Snippets, other: Snippets) -> None:
    assert one.version == other.version
    assert one.encoder == other.encoder
    for field in ("vectors", "rows", "source_ids", "labels", "weights"):
        left, right = getattr(one, field), getattr(other, field)
        assert left.dtype == right.dtype
        assert left.tobytes() == right.tobytes()


async def test_all_sources_give_the_same_bytes(
    store: Store, local: LocalBank, remote: BankClient
) -> None:
    version = banks.publish(store)
    local.host.refresh()  # else the alias may be seen between the two descriptions
    specs = [DrawSpec(5, 1), DrawSpec(7, 2**64 - 1, (3, 1), 2**40), DrawSpec(1, 3, (0,))]
    for here, there in zip(
        await local.draw("digits", specs), await remote.draw("digits", specs), strict=True
    ):
        assert here.version == version.ref
        assert_same(here, there)
    assert_same(await local.gather("digits", [3, 1]), await remote.gather("digits", [3, 1]))
    assert await local.describe("digits") == await remote.describe("digits")


async def test_draw_gives_each_spec_its_rows(store: Store, source: BankSource) -> None:
    banks.publish(store)
    specs = [DrawSpec(3, 1, (2,)), DrawSpec(1, 1), DrawSpec(4, 9, (0, 1))]
    together = await source.draw("digits", specs)
    assert [len(snippets) for snippets in together] == [3, 1, 4]
    assert set(together[0].labels) == {2}
    assert set(together[2].labels) <= {0, 1}
    for spec, snippets in zip(specs, together, strict=True):
        alone = await source.draw("digits@1", [spec])
        assert_same(snippets, alone[0])


async def test_draws_of_a_stream_fit_together(store: Store, source: BankSource) -> None:
    banks.publish(store)
    whole = (await source.draw("digits", [DrawSpec(64, 5)]))[0]
    parts = await source.draw("digits", [DrawSpec(8, 5, None, i) for i in range(0, 64, 8)])
    assert whole.rows.tolist() == [row for part in parts for row in part.rows.tolist()]


async def test_vectors_arrive_as_stored(store: Store, source: BankSource) -> None:
    arrays = banks.features()
    banks.publish(store, **arrays)
    snippets = await source.gather("digits", list(range(40)))
    order = np.lexsort((arrays["source_ids"], arrays["labels"]))
    assert snippets.vectors.dtype == np.float16
    np.testing.assert_array_equal(snippets.vectors, arrays["vectors"][order])
    np.testing.assert_array_equal(snippets.source_ids, arrays["source_ids"][order])


async def test_describe_tells_classes_and_aliases(store: Store, source: BankSource) -> None:
    version = banks.publish(store)
    await source.draw("digits", [DrawSpec(1, 0)])
    info = await source.describe("digits")
    assert info.version == version.ref
    assert (info.dimension, info.rows, info.dtype) == (banks.DIMENSION, 40, "float16")
    assert (info.encoder, info.normalized) == (banks.ENCODER, False)
    assert info.classes[2] == ClassInfo(2, "class-2", ("alias-2",), rows=10)


async def test_banks_lists_default_versions_only(
    store: Store, local: LocalBank, source: BankSource
) -> None:
    banks.publish(store)
    banks.publish(store, "letters", alias="staging")
    local.host.refresh()
    found = await source.banks()
    assert [str(info.version) for info in found] == ["digits@1"]
    assert found[0].aliases == ("production",)


async def test_search_finds_a_row_by_its_own_vector(store: Store, source: BankSource) -> None:
    banks.publish(store)
    snippets = await source.gather("digits", [4, 33])
    found = await source.search("digits", snippets.vectors.astype(np.float32), 3)
    assert found.version == snippets.version
    assert found.rows[:, 0].tolist() == [4, 33]
    assert found.scores.shape == found.labels.shape == found.source_ids.shape == (2, 3)
    assert (found.labels[:, 0] == snippets.labels).all()
    filtered = await source.search("digits", snippets.vectors.astype(np.float32), 3, [2])
    assert set(filtered.labels.ravel()) == {2}


async def test_deleted_rows_are_gone_from_the_new_version_only(
    store: Store, source: BankSource
) -> None:
    first = banks.publish(store)
    tombstone(store.repository("banks", "digits"), first, rows=[3])
    drawn = await source.draw("digits@2", [DrawSpec(500, 0)])
    assert 3 not in drawn[0].rows
    with pytest.raises(UnknownRowError, match="3 were deleted"):
        await source.gather("digits@2", [3])
    assert len(await source.gather("digits@1", [3])) == 1


@pytest.mark.parametrize(
    ("bank", "spec", "error"),
    [
        ("letters", DrawSpec(1, 0), UnknownBankError),
        ("digits@9", DrawSpec(1, 0), UnknownVersionError),
        ("digits@staging", DrawSpec(1, 0), UnknownAliasError),
        ("Digits!", DrawSpec(1, 0), InvalidRequestError),
        ("digits", DrawSpec(1, 0, (77,)), UnknownClassError),
        ("digits", DrawSpec(1, 0, ()), OutOfRangeError),
        ("digits", DrawSpec(0, 0), OutOfRangeError),
        ("digits", DrawSpec(1001, 0), TooLargeError),
        ("digits", DrawSpec(10**12, 0), TooLargeError),
    ],
)
async def test_draws_that_cannot_be_answered(
    store: Store, source: BankSource, bank: str, spec: DrawSpec, error: type[GmemError]
) -> None:
    banks.publish(store)
    with pytest.raises(GmemError) as caught:
        await source.draw(bank, [spec])
    assert type(caught.value) is error


async def test_impossible_seeds_and_rows_are_refused(store: Store, source: BankSource) -> None:
    banks.publish(store)
    for seed in (-1, 2**64):
        with pytest.raises(OutOfRangeError):
            await source.draw("digits", [DrawSpec(1, seed)])
    for row in (-1, 40):
        with pytest.raises(UnknownRowError, match="expected rows 0 … 39"):
            await source.gather("digits", [row])
    with pytest.raises(InvalidRequestError, match="64-bit"):
        await source.gather("digits", [2**70])


@pytest.mark.parametrize(
    ("queries", "count", "error"),
    [
        (np.zeros((1, banks.DIMENSION), np.float32), 1, InvalidRequestError),
        (np.ones((1, 3), np.float32), 1, InvalidRequestError),
        (np.ones((1, banks.DIMENSION), np.float32), 0, OutOfRangeError),
        (np.ones((1, banks.DIMENSION), np.float32), 10**6, OutOfRangeError),
        (np.ones((2000, banks.DIMENSION), np.float32), 1, TooLargeError),
    ],
)
async def test_searches_that_cannot_be_answered(
    store: Store,
    source: BankSource,
    queries: np.ndarray,
    count: int,
    error: type[GmemError],
) -> None:
    banks.publish(store)
    with pytest.raises(error):
        await source.search("digits", queries, count)


async def test_corrupt_version_is_refused_by_name(
    store: Store, tmp_path: Path, source: BankSource
) -> None:
    banks.publish(store)
    second = banks.publish(store, alias=None, **banks.features(seed=1))
    banks.flip_byte(tmp_path / "store", second, SNIPPETS)
    with pytest.raises(CorruptVersionError, match=SNIPPETS):
        await source.draw("digits@2", [DrawSpec(1, 0)])
    assert len(await source.gather("digits", [0])) == 1


async def test_check_tells_when_there_is_something_to_serve(
    store: Store, local: LocalBank, source: BankSource
) -> None:
    with pytest.raises(NotReadyError, match="no bank can be served"):
        await source.check()
    banks.publish(store)
    local.host.refresh()
    await source.check()
