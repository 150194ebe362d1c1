import numpy as np
import pytest
import torch
from PIL import Image

from gmem_model.preprocessing import center_crop, dinov2_input, external_image
from gmem_shared.errors import OutOfRangeError


def plain(width: int, height: int, level: int = 51) -> Image.Image:
    return Image.fromarray(np.full((height, width, 3), level, np.uint8))


@pytest.mark.parametrize("size", [(64, 64), (64, 200), (333, 64), (127, 129), (1000, 700)])
def test_center_crop_gives_the_asked_square_from_any_size(size) -> None:
    cropped = center_crop(plain(*size), 64)
    assert cropped.shape == (64, 64, 3)
    assert (cropped == 51).all()


@pytest.mark.parametrize("size", [(256, 256), (7, 5), (257, 1001), (641, 300)])
def test_external_image_has_the_range_that_banks_are_made_with(size) -> None:
    image = external_image(plain(*size))
    assert image.shape == (3, 256, 256)
    torch.testing.assert_close(image, torch.full_like(image, 51 / 127.5 - 1))


def test_grey_and_transparent_images_become_rgb() -> None:
    assert external_image(plain(300, 300).convert("L")).shape == (3, 256, 256)
    assert external_image(plain(300, 300).convert("RGBA")).shape == (3, 256, 256)


@pytest.mark.parametrize(("side", "target"), [(256, 224), (511, 224), (512, 448)])
def test_dinov2_reads_16_patches_per_256_pixels(side, target) -> None:
    assert dinov2_input(torch.zeros(1, 3, side, side)).shape == (1, 3, target, target)


def test_images_too_small_for_dinov2_are_refused() -> None:
    with pytest.raises(OutOfRangeError, match="256"):
        dinov2_input(torch.zeros(1, 3, 255, 255))
