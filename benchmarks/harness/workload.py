"""What the clients ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.harness.servers import Request

CLASSES = 10


@dataclass(frozen=True)
class Mix:
    """Requests with step counts and numbers of images drawn uniformly from these.

    Attributes:
        name: As the tables show it.
        steps: Step counts.
        images: Images per request.
    """

    name: str
    steps: tuple[int, ...]
    images: tuple[int, ...] = (1,)

    def requests(self, count: int, seed: int) -> list[Request]:
        """Draw requests; the same seed gives the same."""
        rng = np.random.default_rng(seed)
        return [
            {
                "class_label": int(rng.integers(CLASSES)),
                "num_images": int(rng.choice(self.images)),
                "num_steps": int(rng.choice(self.steps)),
            }
            for _ in range(count)
        ]


def evaluations(requests: Sequence[Request]) -> list[float]:
    """Return the network evaluations that each request asks for; one per image and step of AB2."""
    return [float(request["num_images"] * request["num_steps"]) for request in requests]


MIXED = Mix("8/16/25/50 steps", (8, 16, 25, 50))
WIDER = Mix("8/16/32/50 steps", (8, 16, 32, 50))
MIXED_IMAGES = Mix("8/16/25/50 steps, 1/2/4/8 images", (8, 16, 25, 50), (1, 2, 4, 8))
UNIFORM = Mix("25 steps", (25,))
