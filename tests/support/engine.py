"""What the engine's tests share: tasks, a listener that remembers, a network that can wait."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmem_model.engine.engine import Engine
from gmem_model.engine.host import EngineHost
from gmem_model.sit import SiT
from gmem_shared.errors import GmemError, NotReadyError
from gmem_shared.types import GeneratedImage, GenerationTask
from tests.support.models import TEST_ENCODER, tiny_config, tiny_network

PATIENCE_SECONDS = 60.0

EngineMaker = Callable[..., Engine]

_ids = itertools.count()


def make_task(n: int = 1, seed: int = 0, **changes: Any) -> GenerationTask:
    """A task whose images depend on ``seed`` and their position only."""
    snippets = np.random.default_rng(seed).standard_normal((n, 64)).astype(np.float32)
    fields: dict[str, Any] = {
        "id": f"task-{next(_ids)}",
        "model": "tiny",
        "snippets": snippets,
        "encoder": TEST_ENCODER,
        "seeds": np.full(n, seed, dtype=np.uint64),
        "indices": np.arange(n),
    }
    return GenerationTask(**(fields | changes))


class Recorder:
    """Remembers what it was told, and fails the test when told twice that a task ended."""

    def __init__(self) -> None:
        self.images: list[GeneratedImage] = []
        self.error: GmemError | None = None
        self.endings = 0
        self._ended = threading.Event()

    def image(self, image: GeneratedImage) -> None:
        assert not self._ended.is_set()
        self.images.append(image)

    def done(self) -> None:
        self.endings += 1
        self._ended.set()

    def failed(self, error: GmemError) -> None:
        self.error = error
        self.done()

    def wait(self) -> Recorder:
        assert self._ended.wait(PATIENCE_SECONDS), "the task did not end"
        return self

    def pixels(self) -> list[bytes]:
        """The images of a task that succeeded, in the order of their positions."""
        self.wait()
        assert self.error is None, self.error
        ordered = sorted(self.images, key=lambda image: image.position)
        assert [image.position for image in ordered] == list(range(len(ordered)))
        return [image.pixels.tobytes() for image in ordered]


class SteppedNetwork(SiT):
    """Evaluates only when allowed, and remembers how many rows each evaluation had."""

    def __init__(self) -> None:
        config = tiny_config()
        super().__init__(config.architecture)
        self.load_state_dict(tiny_network(config).state_dict())
        self.rows: list[int] = []
        self.spoil: Callable[[Tensor], Tensor] = lambda velocity: velocity
        self._allowed = threading.Semaphore(0)
        self._begun = threading.Semaphore(0)

    def core(self, x_NCSS: Tensor, modulation_NM: Tensor) -> Tensor:
        self.rows.append(len(x_NCSS))
        self._begun.release()
        assert self._allowed.acquire(timeout=PATIENCE_SECONDS)
        return self.spoil(super().core(x_NCSS, modulation_NM))

    def wait_until_begun(self) -> None:
        """Wait until the next evaluation has begun, with its rows fixed."""
        assert self._begun.acquire(timeout=PATIENCE_SECONDS)

    def allow(self, evaluations: int = 1) -> None:
        self._allowed.release(evaluations)


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition, generously."""
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.005)


def is_ready(host: EngineHost) -> bool:
    try:
        host.check()
    except NotReadyError:
        return False
    return True


def first_row_not_finite(velocity: Tensor) -> Tensor:
    return torch.cat([torch.full_like(velocity[:1], torch.nan), velocity[1:]])
