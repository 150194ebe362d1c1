"""Results of jobs on S3: written while parts are read, fetched by anybody who has the link."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from structlog.testing import capture_logs

from gmem_shared.errors import NotFoundError
from gmem_shared.settings import StoreSettings
from gmem_shared.store import Results
from tests.support.http_server import served
from tests.support.rgw import rados_gateway
from tests.support.s3 import bucket, moto_server
from tests.support.stack import wait_for

JOB = "0123456789abcdef"


@pytest.fixture(
    scope="module", params=["moto", pytest.param("ceph", marks=[pytest.mark.s3, pytest.mark.slow])]
)
def store_url(request, tmp_path_factory) -> Iterator[str]:
    server = (
        moto_server() if request.param == "moto" else rados_gateway(tmp_path_factory.mktemp("c"))
    )
    with server as endpoint, bucket(endpoint) as url:
        yield url


def test_a_result_is_written_while_its_parts_are_read_and_fetched_by_its_link(store_url) -> None:
    results = Results(StoreSettings(url=store_url))
    for number in range(4):
        assert results.put_part(JOB, number, bytes([number]) * 4_000_000)
    assert not results.put_part(JOB, 0, b"another")
    results.finish(JOB, (results.read_part(JOB, number) for number in range(4)))
    fetched = httpx.get(results.link(JOB, 60), trust_env=False)
    assert fetched.content == b"".join(bytes([number]) * 4_000_000 for number in range(4))
    results.delete(JOB)
    assert (results.parts(JOB), results.size(JOB)) == (set(), None)


def test_a_result_that_breaks_off_is_not_there(store_url) -> None:
    def broken() -> Iterator[bytes]:
        yield b"x" * 20_000_000
        raise NotFoundError("a part is missing")

    results = Results(StoreSettings(url=store_url))
    with pytest.raises(NotFoundError):
        results.finish(JOB, broken())
    assert results.size(JOB) is None


def test_a_client_is_sent_to_the_store(store_url) -> None:
    with capture_logs(), served(store_url=store_url, jobs={"part_images": 8}) as front:
        request = {"num_images": 20, "seed": 3}
        headers = {"Prefer": "respond-async"}
        job = httpx.post(f"{front.url}/generate", json=request, headers=headers).json()
        here = f"{front.url}{job['links']['self']}"
        wait_for(lambda: httpx.get(here).json()["status"] == "succeeded", "the job succeeds")
        sent = httpx.get(f"{here}/result")
        assert sent.status_code == 307
        fetched = httpx.get(sent.headers["Location"], trust_env=False)
        assert (fetched.status_code, fetched.content[:2]) == (200, b"PK")
