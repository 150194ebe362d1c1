"""The two seams of the product, and how an implementation is chosen by import string.

The front end knows these protocols only. ``gmem_shared.clients.bank:BankClient`` and
``gmem_bank.local:LocalBank`` are the bank sources; ``gmem_generator.triton_backend:TritonBackend``,
``gmem_generator.triton_replicas:TritonReplicas`` and ``gmem_model.embedded:EmbeddedBackend`` the
backends. Each is built by its class method
``from_settings``, so that one process can embed everything while no static import leads from the
front end to torch or faiss.
"""

from __future__ import annotations

import importlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gmem_shared.settings import Settings
from gmem_shared.types import (
    BankInfo,
    DrawSpec,
    GeneratedImage,
    GenerationTask,
    ModelInfo,
    Neighbours,
    Snippets,
)


class BankSource(Protocol):
    """Serves memory snippets. ``bank`` is a reference such as ``digits@production``."""

    @classmethod
    def from_settings(cls, settings: Settings) -> BankSource:
        """Build the source; connects lazily."""
        ...

    async def start(self) -> None:
        """Begin background work (watching aliases, opening channels)."""
        ...

    async def close(self) -> None:
        """Stop background work and let requests in flight end."""
        ...

    async def check(self) -> None:
        """Return when the source can answer; raise `NotReadyError` with the reason otherwise."""
        ...

    async def banks(self) -> list[BankInfo]:
        """Describe the default version of every bank in the store."""
        ...

    async def describe(self, bank: str) -> BankInfo:
        """Describe one bank version."""
        ...

    async def draw(self, bank: str, specs: Sequence[DrawSpec]) -> list[Snippets]:
        """Draw rows for several requests at once, all from one and the same version."""
        ...

    async def gather(self, bank: str, rows: Sequence[int]) -> Snippets:
        """Return the named rows in the order asked for."""
        ...

    async def search(
        self,
        bank: str,
        queries: NDArray[np.float32],
        count: int,
        labels: Sequence[int] | None = None,
    ) -> Neighbours:
        """Return the ``count`` rows most similar to each query, float32 ``(q, d)``."""
        ...


class Backend(Protocol):
    """Turns rows into images: the engine, in process or behind Triton."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Backend:
        """Build the backend; loads nothing yet."""
        ...

    async def start(self) -> None:
        """Load the default model or open the connection; does not wait for readiness."""
        ...

    async def close(self) -> None:
        """Finish what is running and release the engine."""
        ...

    async def check(self) -> None:
        """Return when a generation would be accepted; raise `NotReadyError` otherwise."""
        ...

    async def models(self) -> list[ModelInfo]:
        """Describe the default version of every model in the store."""
        ...

    async def describe(self, model: str) -> ModelInfo:
        """Describe one model version."""
        ...

    def generate(self, task: GenerationTask) -> AsyncGenerator[GeneratedImage]:
        """Yield each image as it finishes. Closing the generator cancels what is left."""
        ...


def load(target: str) -> Any:
    """Import ``module:attribute``.

    Raises:
        ValueError: The string does not name an importable attribute.
    """
    module_name, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"expected 'module:attribute', cannot load {target!r}: {error}") from error
