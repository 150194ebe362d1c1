"""The class of an image when the request names none, specified in docs/formats/class-draw.md.

A label model needs a class for every image. Like every other random choice it is computed from
what it is for, by Philox4x32-10: image ``i`` of a seed's stream has the same class in any request.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from gmem_shared.draw import multiply_high
from gmem_shared.philox import join64, philox4x32, split64

STAGE = 2**32 - 1
"""Counter word 1. Noise counts its stages from 0 and never comes so far, so the words are fresh."""


def draw_classes(
    class_ids: Collection[int], seed: int, indices: NDArray[np.int64]
) -> NDArray[np.int32]:
    """Return a class for each image, uniform over the classes.

    Args:
        class_ids: At least one, in any order.
        seed: 0 … 2^64 - 1.
        indices: int64 ``(n,)``, not negative: the image's number within its seed's stream.

    Returns:
        int32 ``(n,)``; entry i depends on the set of classes, the seed and ``indices[i]`` only.
    """
    ascending = np.array(sorted(set(class_ids)), np.int32)
    counter = np.zeros((len(indices), 4), np.uint32)
    counter[:, 1] = STAGE
    counter[:, 2], counter[:, 3] = split64(indices.astype(np.uint64))
    key = np.stack(split64(np.array([seed], np.uint64)), axis=-1)
    words = philox4x32(counter, key)
    uniform = join64(words[:, 0], words[:, 1])
    return ascending[multiply_high(uniform, np.array(len(ascending), np.uint64))]
