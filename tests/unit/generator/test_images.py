from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from gmem_generator.images import encode, grid, png


@pytest.mark.parametrize("channels", [1, 3])
def test_png_keeps_every_pixel_and_the_text(channels) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, channels), np.uint8)
    decoded = Image.open(io.BytesIO(png(pixels, {"gmem": "{}", "Software": "gmem-serving"})))
    np.testing.assert_array_equal(np.asarray(decoded).reshape(8, 6, channels), pixels)
    assert decoded.text == {"gmem": "{}", "Software": "gmem-serving"}


def test_equal_images_are_equal_bytes() -> None:
    pixels = np.full((8, 8, 1), 7, np.uint8)
    assert png(pixels, {"a": "b"}) == png(pixels.copy(), {"a": "b"})


@pytest.mark.parametrize("side", [8, 256])
async def test_encoding_on_or_off_the_loop_gives_the_same_bytes(side) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (side, side, 3), np.uint8)
    assert await encode(pixels, {"a": "b"}) == png(pixels, {"a": "b"})


@pytest.mark.parametrize(
    ("count", "shape"), [(1, (4, 6)), (2, (4, 12)), (5, (8, 18)), (9, (12, 18))]
)
def test_a_grid_holds_the_images_in_reading_order(count, shape) -> None:
    images = [np.full((4, 6, 1), i + 1, np.uint8) for i in range(count)]
    sheet = grid(images)
    assert sheet.shape == (*shape, 1)
    corners = sheet[::4, ::6, 0].ravel()
    assert corners.tolist() == [*range(1, count + 1), *[0] * (len(corners) - count)]
