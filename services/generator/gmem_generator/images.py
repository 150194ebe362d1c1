"""Pixels to PNG. The bytes depend on pixels and text only: no clock, no identity of a request."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

Pixels = NDArray[np.uint8]

_INLINE_BYTES = 4096  # encoded in well under a millisecond; a thread would take longer to begin


def png(pixels: Pixels, text: dict[str, str]) -> bytes:
    """Encode one image.

    Args:
        pixels: uint8 ``(height, width, channels)``, channels 1 or 3.
        text: ASCII text chunks, in this order.
    """
    chunks = PngInfo()
    for keyword, value in text.items():
        chunks.add_text(keyword, value)
    encoded = io.BytesIO()
    grey = pixels.shape[2] == 1
    Image.fromarray(pixels[:, :, 0] if grey else pixels).save(encoded, "PNG", pnginfo=chunks)
    return encoded.getvalue()


async def encode(pixels: Pixels, text: dict[str, str]) -> bytes:
    """Encode one image as `png` does, without holding up the event loop."""
    if pixels.nbytes <= _INLINE_BYTES:
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
