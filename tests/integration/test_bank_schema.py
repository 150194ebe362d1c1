"""Schemathesis: requests made up from the bank's OpenAPI document find no broken promise."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import cast

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from prometheus_client import CollectorRegistry
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from structlog.testing import capture_logs

from gmem_bank.http_app import create_app
from gmem_bank.local import LocalBank
from gmem_shared.store import Store
from tests.support import banks

registry = CollectorRegistry()
app = create_app(cast(LocalBank, None), registry)  # the fixture brings the bank
schema = schemathesis.openapi.from_asgi("/openapi.json", app)


@pytest.fixture(scope="module", autouse=True)
def _bank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("bank")
    store = Store.from_url(str(folder / "store"), folder / "cache")
    with capture_logs():
        banks.publish(store)
        bank = app.state.bank = LocalBank(store, banks.settings(), registry)
        bank.host.refresh()
        yield
        asyncio.run(bank.close())


@schema.parametrize()
@settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_request_finds_a_server_error_or_a_schema_violation(case: schemathesis.Case) -> None:
    excluded = []
    if case.operation.path.endswith(("/draw", "/search")):
        # No schema tells how many rows one answer holds, or the dimension of a bank.
        excluded.append(positive_data_acceptance)
    if len(case.path_parameters.get("bank", "")) % 2:
        case.path_parameters["bank"] = "digits"  # else hardly a request would find a bank
        excluded.append(negative_data_rejection)  # the name may have been what was wrong
    case.call_and_validate(excluded_checks=excluded)
