import math

import numpy as np
import pytest
import torch

from gmem_trainer.scores.resizing import resize


def pixel_by_pixel(image: np.ndarray, side: int) -> np.ndarray:
    """TensorFlow 1's rule for one channel, written out."""
    height, width = image.shape
    result = np.empty((side, side))
    for row in range(side):
        for column in range(side):
            y, x = row * height / side, column * width / side
            top, left = math.floor(y), math.floor(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = image[top, left] + (image[top, right] - image[top, left]) * (x - left)
            lower = image[bottom, left] + (image[bottom, right] - image[bottom, left]) * (x - left)
            result[row, column] = upper + (lower - upper) * (y - top)
    return result


@pytest.mark.parametrize("shape", [(3, 3), (4, 7), (11, 5), (16, 16)])
def test_every_pixel_follows_the_rule(shape) -> None:
    image = np.random.default_rng(0).uniform(0, 255, shape)
    found = resize(torch.tensor(image)[None, None], 11)
    assert found[0, 0].numpy() == pytest.approx(pixel_by_pixel(image, 11))


def test_corners_lie_on_corners_not_centres_on_centres() -> None:
    ramp = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(1, 1, 4, 4)
    assert resize(ramp, 8)[0, 0, 0].tolist() == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3]


def test_an_image_of_the_right_size_stays_as_it_is() -> None:
    image = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(resize(image, 9), image)
