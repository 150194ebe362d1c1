"""Which scope a request needs; see `gmem_shared.guard`."""

from __future__ import annotations

from gmem_shared.keys import Scope

_OPEN = frozenset({"/", "/docs", "/openapi.json", "/livez", "/readyz", "/metrics"})
"""For orchestrators, Prometheus and browsers: none of them sends a key, none of it is a secret."""

_ASSETS = "/web/"
_JOBS = ("/jobs", "/v1/jobs")


def scope_needed(method: str, path: str) -> Scope | None:
    """Return the scope that a request needs; `None` for what is open to all."""
    if path in _OPEN or path.startswith(_ASSETS):
        return None
    if method in ("GET", "HEAD") and not path.startswith(_JOBS):
        return "read"
    return "generate"
