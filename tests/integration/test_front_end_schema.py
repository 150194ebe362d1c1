"""Schemathesis: requests made up from the OpenAPI document find no 5xx and no broken promise."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from structlog.testing import capture_logs

from gmem_generator.app import create_app
from tests.support.fakes import FakeBackend, FakeBank
from tests.support.front import settings as front_settings
from tests.support.http_server import served

# Jobs are taken and not made; how many images they may have no schema tells from an answer's.
JOBS = {"concurrency": 0, "max_unfinished": 100_000, "max_images": 1024}
KEY = "Idempotency-Key"


# Whether a model can be guided no schema knows; these can.
app = create_app(front_settings(jobs=JOBS), FakeBank(), FakeBackend(guidance_scale=1.0))
schema = schemathesis.openapi.from_dict(app.openapi())


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A real server: its event loop has to live from one request to the next."""
    backend = FakeBackend(guidance_scale=1.0)
    with capture_logs(), served(backend=backend, jobs=JOBS) as front:
        yield front.url


@schema.parametrize()
@settings(
    max_examples=50,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_request_finds_a_server_error_or_a_schema_violation(
    case: schemathesis.Case, url
) -> None:
    body = case.body if isinstance(case.body, dict) else {}
    deadline = body.get("deadline_ms")
    if type(deadline) in (int, float) and deadline in range(1, 10_000):
        body["deadline_ms"] = 10_000  # a shorter one may rightly be answered by 504
    if re.fullmatch("[!#-~]{1,255}", str((case.headers or {}).get(KEY, ""))):
        case.headers[KEY] = uuid.uuid4().hex  # one that came with another body is rightly refused
    # A replay token is opaque: no schema tells a real one from any other text.
    excluded = [positive_data_acceptance] if "replay" in body else []
    case.call_and_validate(base_url=url, excluded_checks=excluded)
