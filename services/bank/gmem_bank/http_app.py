"""The HTTP door. Rows come as JSON, or as one safetensors file for octet-stream in Accept."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Depends, FastAPI, Path, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from safetensors.numpy import save

from gmem_bank import problems
from gmem_bank.access import Access
from gmem_bank.local import LocalBank
from gmem_bank.schemas import (
    MAX_ROWS,
    AliasAnswer,
    AliasBody,
    BankAnswer,
    DrawBody,
    GatherBody,
    ReadyAnswer,
    Row,
    SearchAnswer,
    SearchBody,
    SnippetsAnswer,
    VersionAnswer,
    VersionRecordAnswer,
)
from gmem_shared import __version__
from gmem_shared.errors import InvalidRequestError, TooLargeError
from gmem_shared.request_scope import RequestScope
from gmem_shared.security_headers import security_headers
from gmem_shared.types import Neighbours, Snippets, VersionRef

_BYTES = "application/octet-stream"
_PROBLEM = {"description": "A problem (RFC 9457)", "content": {"application/problem+json": {}}}
_ROWS: dict[int | str, dict[str, Any]] = {
    200: {"content": {_BYTES: {}}, "description": "Rows, as JSON or safetensors"}
}


def create_app(
    bank: LocalBank,
    registry: CollectorRegistry,
    access: Access | None = None,
    *,
    tls: bool = False,
) -> FastAPI:
    """Make the application; the caller starts and closes ``bank``.

    Args:
        bank: Answers the requests.
        registry: What ``/metrics`` shows.
        access: Who may ask; by default everybody.
        tls: Whether the server speaks TLS.
    """
    app = FastAPI(
        title="gmem bank",
        version=__version__,
        responses={"default": _PROBLEM},
        docs_url=None,  # its page loads scripts from elsewhere
        redoc_url=None,
    )
    app.state.bank = bank
    app.state.registry = registry
    problems.install(app)
    app.include_router(_banks)
    app.include_router(_health)
    if access is not None:
        app.add_middleware(access.http)
    app.add_middleware(
        RequestScope,
        headers=security_headers(tls=tls),
        respond=problems.respond,
        begins=False,
    )
    return app


def _bank(request: Request) -> LocalBank:
    bank: LocalBank = request.app.state.bank
    return bank


Bank = Annotated[LocalBank, Depends(_bank)]

# Documented, not enforced: what reads a reference describes a bad one better than a pattern.
_NAME, _SELECTOR = "[a-z0-9][a-z0-9._-]{0,62}", "[A-Za-z0-9][A-Za-z0-9._-]{0,79}"
Name = Annotated[str, Path(examples=["digits"], json_schema_extra={"pattern": f"^{_NAME}$"})]
Selector = Annotated[str, Path(examples=["3"], json_schema_extra={"pattern": f"^{_SELECTOR}$"})]
Reference = Annotated[
    str,
    Path(
        examples=["digits", "digits@production", "digits@3"],
        json_schema_extra={"pattern": f"^{_NAME}(@{_SELECTOR})?$"},
    ),
]

_banks = APIRouter(prefix="/v1/banks", tags=["banks"], route_class=problems.LimitedRoute)
_health = APIRouter(tags=["operation"])


@_banks.get("")
async def list_banks(source: Bank) -> list[BankAnswer]:
    """Describe the default version of every bank."""
    return [BankAnswer.of(info) for info in await source.banks()]


@_banks.get("/{bank}")
async def describe(source: Bank, bank: Reference) -> BankAnswer:
    """Describe one version, e.g. ``digits``, ``digits@3``."""
    return BankAnswer.of(await source.describe(bank))


@_banks.get("/{bank}/versions")
async def list_versions(source: Bank, bank: Name) -> list[VersionRecordAnswer]:
    """List the versions of a bank, oldest first."""
    found = await source.run(source.service.versions, bank)
    return [VersionRecordAnswer.of(published) for published in found]


@_banks.get("/{bank}/versions/{version}")
async def describe_version(source: Bank, bank: Name, version: Selector) -> BankAnswer:
    """Describe one version by alias, number or digest."""
    return BankAnswer.of(await source.describe(f"{bank}@{version}"))


@_banks.post("/{bank}/draw", response_model=SnippetsAnswer, responses=_ROWS)
async def draw(source: Bank, bank: Reference, body: DrawBody, request: Request) -> Response:
    """Draw rows for one or several requests, all from one version."""
    specs = [spec.to_spec() for spec in body.specs]
    snippets, counts = await source.run(source.service.draw, bank, specs)
    return await source.run(_rows, request, snippets, counts)


@_banks.post("/{bank}/gather", response_model=SnippetsAnswer, responses=_ROWS)
async def gather(source: Bank, bank: Reference, body: GatherBody, request: Request) -> Response:
    """Return the named rows in the order asked for."""
    snippets = await source.run(source.service.gather, bank, body.rows)
    return await source.run(_rows, request, snippets, [len(snippets)])


@_banks.get("/{bank}/snippets/{row}", response_model=SnippetsAnswer, responses=_ROWS)
async def snippet(source: Bank, bank: Reference, row: Row, request: Request) -> Response:
    """Return one row."""
    snippets = await source.gather(bank, [row])
    return await source.run(_rows, request, snippets, [1])


@_banks.post("/{bank}/search", response_model=SearchAnswer)
async def search(source: Bank, bank: Reference, body: SearchBody) -> Response:
    """Return the rows most similar to each query."""
    if len({len(query) for query in body.queries}) > 1:
        raise InvalidRequestError("queries: expected vectors of one length")
    if len(body.queries) * body.count > MAX_ROWS:
        raise TooLargeError(
            f"expected at most {MAX_ROWS} neighbours in one answer, found {body.count} of each of "
            f"{len(body.queries)} queries; send several requests, or use gRPC"
        )
    with np.errstate(over="ignore"):  # becomes infinite, which the search refuses
        queries = np.asarray(body.queries, np.float32)
    found = await source.search(bank, queries, body.count, body.labels)
    return await source.run(_found, found)


@_banks.put("/{bank}/aliases/{alias}")
async def set_alias(source: Bank, bank: Name, alias: str, body: AliasBody) -> AliasAnswer:
    """Point an alias to a version; it is opened first and served at once."""
    record = await source.run(source.service.set_alias, bank, alias, body.selector, body.reason)
    version = VersionAnswer.of(VersionRef(bank, record.seq, record.digest))
    return AliasAnswer(bank=version, alias=alias, generation=record.generation)


@_health.get("/livez", response_class=PlainTextResponse)
async def livez() -> str:
    """Tell that the process runs."""
    return "ok"


@_health.get("/readyz")
async def readyz(source: Bank) -> ReadyAnswer:
    """Tell whether banks can be served, and what is wrong even so."""
    await source.check()
    return ReadyAnswer(ready=True, problems=source.host.problems())


@_health.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """Expose the metrics for Prometheus."""
    return Response(generate_latest(request.app.state.registry), media_type=CONTENT_TYPE_LATEST)


def _found(found: Neighbours) -> Response:
    return Response(SearchAnswer.of(found).model_dump_json(), media_type="application/json")


def _rows(request: Request, snippets: Snippets, counts: list[int]) -> Response:
    version = snippets.version
    headers = {"Gmem-Bank-Version": f"{version}; digest={version.digest}"}
    if _BYTES not in request.headers.get("accept", ""):
        answer = SnippetsAnswer.of(snippets, counts)
        return Response(answer.model_dump_json(), headers=headers, media_type="application/json")
    tensors = {
        "vectors": snippets.vectors,
        "rows": snippets.rows,
        "source_ids": snippets.source_ids,
        "labels": snippets.labels,
        "weights": snippets.weights,
        "counts": np.asarray(counts, np.int64),
    }
    metadata = {
        "bank": version.name,
        "seq": str(version.seq),
        "digest": version.digest,
        "encoder": snippets.encoder,
    }
    return Response(save(tensors, metadata), headers=headers, media_type=_BYTES)
