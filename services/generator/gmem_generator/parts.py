"""Large answers, sent piece by piece."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

_PIECE_BYTES = 1 << 18


class PartsResponse(Response):
    """A response whose content is given in parts.

    What does not fit one piece is never joined, and the client's pace is kept: a piece is written
    when the one before has left.
    """

    def __init__(self, parts: Sequence[bytes], media_type: str, headers: Mapping[str, str]) -> None:
        self._pieces = _pieces(parts)
        length = {"Content-Length": str(sum(map(len, self._pieces)))}
        super().__init__(None, media_type=media_type, headers={**headers, **length})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the pieces."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for piece in self._pieces[:-1]:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body", "body": self._pieces[-1]})


def _pieces(parts: Sequence[bytes]) -> list[bytes]:
    pieces: list[bytes] = []
    gathered: list[bytes] = []
    size = 0
    for part in parts:
        gathered.append(part)
        size += len(part)
        if size >= _PIECE_BYTES:
            pieces.append(b"".join(gathered))
            gathered, size = [], 0
    return [*pieces, b"".join(gathered)]
