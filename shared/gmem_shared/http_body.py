"""Reading the body of an HTTP request that nobody has vouched for yet."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request

from gmem_shared.errors import CancelledError, TooLargeError


async def read_body(request: Request, max_bytes: int, advice: str = "") -> bytes:
    """Read a body of at most so many bytes, announced or not.

    Args:
        request: The request.
        max_bytes: Beyond, reading stops.
        advice: Follows what the error says.

    Raises:
        TooLargeError: It is larger.
        CancelledError: The client left before it was complete.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and len(declared) < 20 and int(declared) > max_bytes:
        raise too_large(f"{max_bytes} bytes", advice)
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > max_bytes:
                raise too_large(f"{max_bytes} bytes", advice)
    except ClientDisconnect as error:
        raise CancelledError("the client left before its request was complete") from error
    return bytes(body)


def too_large(most: str, advice: str = "") -> TooLargeError:
    """Return the error of a body that is larger than ``most``."""
    return TooLargeError(f"expected a body of at most {most}, found a larger one{advice}")
