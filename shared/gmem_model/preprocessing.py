"""From photographs to what the encoders read."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody knows it by)
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gmem_shared.errors import OutOfRangeError

EXTERNAL_SIDE = 256
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)


def center_crop(image: Image.Image, side: int) -> NDArray[np.uint8]:
    """Crop the centre square as the ADM data set does, uint8 ``(side, side, channels)``.

    Halving by box filter until less than twice too large keeps the bicubic step from aliasing
    (Dhariwal and Nichol, arXiv 2105.05233).
    """
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return np.asarray(image.crop((left, top, left + side, top + side)))


def external_image(
    image: Image.Image, *, value_range: Literal["signed", "unit"] = "signed"
) -> Tensor:
    """Bring a user's image to float32 ``(3, 256, 256)`` for the snippet encoder.

    Args:
        image: Any size and mode.
        value_range: ``signed`` gives [-1, 1], what banks and training are made with. ``unit``
            gives [0, 1], which makes the encoder see a washed-out image; only for reproducing
            results of the original GMem v2 code, which did so.
    """
    width, height = (EXTERNAL_SIDE * length // min(image.size) for length in image.size)
    resized = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((length - EXTERNAL_SIDE) / 2) for length in resized.size)
    square = resized.crop((left, top, left + EXTERNAL_SIDE, top + EXTERNAL_SIDE))
    unit = torch.from_numpy(np.array(square)).permute(2, 0, 1) / 255
    return unit if value_range == "unit" else 2 * unit - 1


def dinov2_input(images: Tensor) -> Tensor:
    """Prepare images for DINOv2 (arXiv 2304.07193).

    Args:
        images: ``(N, 3, side, side)`` in [-1, 1], side at least 256.

    Returns:
        ``(N, 3, s, s)``, normalised, with s = 224 (side // 256): 16 patches of 14 pixels per 256.

    Raises:
        OutOfRangeError: The images are smaller than 256 pixels.
    """
    side = images.shape[-1]
    if side < 256:
        raise OutOfRangeError(f"expected images of at least 256 pixels for DINOv2, found {side}")
    mean = images.new_tensor(_IMAGENET_MEAN).view(1, 3, 1, 1)
    std = images.new_tensor(_IMAGENET_STD).view(1, 3, 1, 1)
    normalized = ((images + 1) / 2 - mean) / std
    target = 224 * (side // 256)
    return F.interpolate(normalized, size=(target, target), mode="bicubic")
