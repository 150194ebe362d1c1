"""The studio page, its assets and the API reference: plain files, nothing built."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

WEB = Path(__file__).parent.parent / "web"
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""What browsers may load into the pages."""

_NO_CACHE = {"Cache-Control": "no-cache"}


def router() -> APIRouter:
    """Return the page routes."""
    api = APIRouter(include_in_schema=False)

    @api.get("/")
    async def studio() -> FileResponse:
        """Return the studio page."""
        return FileResponse(WEB / "index.html", headers=_NO_CACHE)

    @api.get("/docs")
    async def reference() -> FileResponse:
        """Return the API reference, which renders ``/openapi.json``."""
        return FileResponse(WEB / "docs.html", headers=_NO_CACHE)

    return api


def assets() -> Mount:
    """Return the mount of scripts, styles and icons."""
    return Mount("/web", StaticFiles(directory=WEB), name="web")
