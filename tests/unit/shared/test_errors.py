from __future__ import annotations

import pytest

from gmem_shared.errors import (
    STATUS,
    EncoderMismatchError,
    GmemError,
    OutOfRangeError,
    OverloadedError,
    OverQuotaError,
    ReachedLimit,
    UnauthenticatedError,
    UnknownClassError,
    error_classes,
    from_problem,
    status_of,
    to_headers,
    to_problem,
)


def test_every_class_has_its_own_code_and_title() -> None:
    classes = error_classes()
    assert len({cls.code for cls in classes}) == len(classes)
    assert all(cls.title for cls in classes)


def test_every_class_but_the_root_leaves_with_a_deliberate_status() -> None:
    for cls in error_classes()[1:]:
        ancestors = [base for base in cls.__mro__ if base in STATUS and base is not GmemError]
        assert ancestors, f"{cls.__name__} has no row in STATUS"


def test_nearest_row_of_the_table_wins() -> None:
    assert status_of(EncoderMismatchError("x")).grpc.name == "FAILED_PRECONDITION"
    assert status_of(UnknownClassError("x")).http == 404


@pytest.mark.parametrize("cls", error_classes(), ids=lambda cls: cls.code)
def test_an_error_survives_the_wire(cls: type[GmemError]) -> None:
    sent = cls(
        "expected a, found b",
        errors=[{"field": "num_steps", "message": "too small"}],
        retry_after_seconds=1.5,
    )
    received = from_problem(to_problem(sent))
    assert type(received) is cls
    assert received.detail == sent.detail
    assert received.errors == sent.errors
    assert received.retry_after_seconds == 1.5


def test_an_unknown_code_is_still_an_error_of_ours() -> None:
    error = from_problem({"code": "from_the_future", "detail": "who knows"})
    assert type(error) is GmemError
    assert error.detail == "who knows"


def test_a_problem_is_also_an_openai_error() -> None:
    problem = to_problem(OutOfRangeError("no", errors=[{"field": "n", "message": "no"}]))
    assert problem["status"] == 422
    assert problem["error"] == {
        "message": "no", "type": "out_of_range", "param": "n", "code": "out_of_range",
    }  # fmt: skip


def test_the_headers_say_how_to_come_in_and_when_to_come_back() -> None:
    assert to_headers(OutOfRangeError("no")) == {}
    assert to_headers(UnauthenticatedError("who?")) == {"WWW-Authenticate": "Bearer"}
    assert to_headers(OverloadedError("full", retry_after_seconds=0.2)) == {"Retry-After": "1"}
    limit = ReachedLimit("images", amount=100, window_seconds=3600, remaining=7)
    assert to_headers(OverQuotaError("no more", limit=limit, retry_after_seconds=61.5)) == {
        "Retry-After": "62",
        "RateLimit-Policy": '"images";q=100;w=3600',
        "RateLimit": '"images";r=7;t=62',
    }


def test_retry_after_is_only_there_when_known() -> None:
    assert "retry_after_seconds" not in to_problem(OverloadedError("full"))
    assert to_problem(OverloadedError("full", retry_after_seconds=2.0))["retry_after_seconds"] == 2
