from __future__ import annotations

from pathlib import Path

import pytest

from gmem_shared.errors import InvalidRequestError, NotFoundError
from gmem_shared.settings import StoreSettings
from gmem_shared.store import Results

JOB = "0123456789abcdef"


@pytest.fixture(params=["folder", "memory"])
def results(request, tmp_path: Path) -> Results:
    url = str(tmp_path) if request.param == "folder" else f"memory://{tmp_path}"
    return Results(StoreSettings(url=url))


def test_of_a_part_that_is_made_twice_the_first_is_kept(results) -> None:
    assert results.put_part(JOB, 3, b"first")
    assert results.put_part(JOB, 3, b"first")
    assert not results.put_part(JOB, 3, b"second")
    assert results.read_part(JOB, 3) == b"first"
    assert (results.has_part(JOB, 3), results.has_part(JOB, 2)) == (True, False)


def test_the_parts_that_are_there_are_known(results) -> None:
    assert results.parts(JOB) == set()
    for number in (0, 7, 100_000):
        results.put_part(JOB, number, b"x")
    results.finish(JOB, [b"x"])
    assert results.parts(JOB) == {0, 7, 100_000}


def test_a_result_is_written_from_what_is_read_meanwhile(results) -> None:
    for number in range(5):
        results.put_part(JOB, number, bytes([number]) * 3_000_000)
    results.finish(JOB, (results.read_part(JOB, number) for number in range(5)))
    assert results.size(JOB) == 15_000_000
    read = b"".join(results.read(JOB))
    assert read == b"".join(bytes([number]) * 3_000_000 for number in range(5))


def test_a_result_that_breaks_off_is_not_there(results, tmp_path) -> None:
    def broken():
        yield b"x" * 20_000_000
        raise NotFoundError("a part is missing")

    with pytest.raises(NotFoundError, match="missing"):
        results.finish(JOB, broken())
    assert results.size(JOB) is None
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_parts_go_alone_or_with_the_job(results) -> None:
    results.put_part(JOB, 0, b"x")
    results.finish(JOB, [b"y"])
    results.delete_parts(JOB)
    assert (results.parts(JOB), results.size(JOB)) == (set(), 1)
    for _ in range(2):
        results.delete(JOB)
    assert results.size(JOB) is None
    with pytest.raises(NotFoundError):
        list(results.read(JOB))


def test_a_folder_has_no_links(results) -> None:
    results.finish(JOB, [b"x"])
    assert results.link(JOB, 60) is None


@pytest.mark.parametrize("job", ["", "../banks", "a/b", "A" * 20])
def test_an_id_that_could_lead_elsewhere_is_refused(results, job) -> None:
    with pytest.raises(InvalidRequestError):
        results.delete(job)


def test_nothing_is_connected_to_before_it_is_needed(tmp_path) -> None:
    Results(StoreSettings(url=str(tmp_path / "later")))
    assert not (tmp_path / "later").exists()


def test_nothing_is_left_of_a_job_in_a_folder(tmp_path) -> None:
    results = Results(StoreSettings(url=str(tmp_path)))
    results.put_part(JOB, 0, b"x")
    results.finish(JOB, [b"y"])
    results.delete_parts(JOB)
    assert [path.name for path in (tmp_path / "jobs" / JOB).iterdir()] == ["result"]
    results.delete(JOB)
    assert list((tmp_path / "jobs").iterdir()) == []
    assert results.put_part(JOB, 0, b"x")
