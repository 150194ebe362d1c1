"""Content negotiation by ``Accept`` (RFC 9110, section 12.5.1)."""

from __future__ import annotations

from starlette.exceptions import HTTPException

JSON = "application/json"
PNG = "image/png"
EVENTS = "text/event-stream"
OFFERED = (JSON, PNG, EVENTS)


def negotiate(accept: str | None) -> str:
    """Choose the representation the client likes best; JSON when it does not care.

    Raises:
        HTTPException: 406, none of the offered ones is acceptable.
    """
    if accept is None or not accept.strip():
        return JSON
    ranges = [_parse(part) for part in accept.split(",")[:50]]
    best = max(OFFERED, key=lambda offer: _quality(offer, ranges))
    if _quality(best, ranges) <= 0:
        raise HTTPException(
            406, f"expected 'Accept' to allow one of {', '.join(OFFERED)}, found {accept[:100]!r}"
        )
    return best


def _parse(media_range: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in media_range.split(";"))
    quality = next((p[2:] for p in parameters if p.startswith("q=")), "1")
    try:
        value = float(quality)
    except ValueError:
        value = 0.0
    return name, value if 0 <= value <= 1 else 0.0


def _quality(offer: str, ranges: list[tuple[str, float]]) -> float:
    """The quality of the most specific range that covers the offer."""
    stars = (offer, offer.partition("/")[0] + "/*", "*/*")
    for star in stars:
        for name, quality in ranges:
            if name == star:
                return quality
    return 0.0
