"""HTTP headers that tell browsers what they must not do with an answer."""

from __future__ import annotations

NOTHING = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Content policy of answers that are data and no page."""

_YEAR_SECONDS = 365 * 24 * 3600


def security_headers(policy: str = NOTHING, *, tls: bool) -> list[tuple[bytes, bytes]]:
    """Return the headers of every answer, as ASGI has them.

    Args:
        policy: The content security policy.
        tls: Whether the server speaks TLS; browsers then must not come back without.
    """
    headers = {
        "content-security-policy": policy,
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    if tls:
        headers["strict-transport-security"] = f"max-age={_YEAR_SECONDS}"
    return [(name.encode(), value.encode()) for name, value in headers.items()]
