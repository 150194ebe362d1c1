"""Pixels to PNG. The bytes depend on pixels and text only: no clock, no identity of a request."""

from __future__ import annotations

import asyncio
import io
import math
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

Pixels = NDArray[np.uint8]

_SMALL_BYTES = 4096  # encoded in well under a millisecond; a thread would take longer to begin
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOUR_TYPES = {1: 0, 3: 2}  # channels: PNG (RFC 2083), section 4.1.1


def png(pixels: Pixels, text: dict[str, str]) -> bytes:
    """Encode one image.

    Args:
        pixels: uint8 ``(height, width, channels)``, channels 1 or 3.
        text: ASCII text chunks, in this order.
    """
    return (_small_png if pixels.nbytes <= _SMALL_BYTES else _filtered_png)(pixels, text)


def _small_png(pixels: Pixels, text: dict[str, str]) -> bytes:
    """Leave out what makes large images smaller and costs a small one five times its encoding."""
    height, width, channels = pixels.shape
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOUR_TYPES[channels], 0, 0, 0)
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with its filter: none
    lines[:, 1:] = pixels.reshape(height, -1)
    texts = [_chunk(b"tEXt", f"{name}\0{value}".encode("ascii")) for name, value in text.items()]
    parts = [
        _chunk(b"IHDR", head),
        *texts,
        _chunk(b"IDAT", _deflated(lines.tobytes())),
        _chunk(b"IEND"),
    ]
    return b"".join([_SIGNATURE, *parts])


def _deflated(content: bytes) -> bytes:
    """Compress little, in 10 KB of working memory where `zlib.compress` clears 256 KB."""
    deflate = zlib.compressobj(wbits=9, memLevel=1)
    return deflate.compress(content) + deflate.flush()


def _chunk(kind: bytes, content: bytes = b"") -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def _filtered_png(pixels: Pixels, text: dict[str, str]) -> bytes:
    chunks = PngInfo()
    for keyword, value in text.items():
        chunks.add_text(keyword, value)
    encoded = io.BytesIO()
    grey = pixels.shape[2] == 1
    Image.fromarray(pixels[:, :, 0] if grey else pixels).save(encoded, "PNG", pnginfo=chunks)
    return encoded.getvalue()


async def encode(pixels: Pixels, text: dict[str, str]) -> bytes:
    """Encode one image as `png` does, without holding up the event loop."""
    if pixels.nbytes <= _SMALL_BYTES:
        return png(pixels, text)
    return await asyncio.to_thread(png, pixels, text)


def grid(images: Sequence[Pixels]) -> Pixels:
    """Lay images of one shape out in rows, as square as possible; free places stay black."""
    columns = math.ceil(math.sqrt(len(images)))
    lines = math.ceil(len(images) / columns)
    height, width, channels = images[0].shape
    canvas: NDArray[Any] = np.zeros((lines, columns, height, width, channels), np.uint8)
    for place, image in enumerate(images):
        canvas[divmod(place, columns)] = image
    return canvas.swapaxes(1, 2).reshape(lines * height, columns * width, channels)
