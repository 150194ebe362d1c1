"""The engine behind as many Tritons as a host name has addresses."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass
from typing import ClassVar

import structlog

from gmem_generator.triton_backend import TritonBackend
from gmem_generator.triton_stream import RETRY_AFTER_SECONDS
from gmem_shared.errors import GmemError, NotReadyError
from gmem_shared.ports import Backend
from gmem_shared.settings import Settings
from gmem_shared.types import GeneratedImage, GenerationTask, ModelInfo

REFRESH_SECONDS = 2.0
"""How often the name is looked up and every Triton asked for a sign of life."""

_CLOSED = "the backend was not started or is shutting down"

Resolve = Callable[[], Awaitable[set[str]]]
"""Returns the addresses, ``host:port``, that there are now."""

_log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class Replica:
    """One Triton, as one front end sees it.

    Attributes:
        reason: Why it is not ready, None if it is.
        suspect: Whether it failed a task since its last sign of life.
        images: What it owes.
    """

    address: str
    backend: Backend
    reason: str | None = "not asked yet"
    suspect: bool = False
    images: int = 0


class TritonReplicas:
    """A `gmem_shared.ports.Backend` over every Triton that a host name stands for.

    A stream to Triton stays where it was opened, so a name alone would tie a front end to one
    Triton. This has a `TritonBackend` for each address, follows the name as replicas come and go,
    and hands a task to the one that owes the fewest images. A task none of whose images came yet
    is handed to another if its Triton goes away: images do not depend on who makes them.

    Args:
        resolve: Finds the addresses.
        connect: Makes the backend of an address; it is started here.
    """

    SHAREABLE: ClassVar[bool] = True

    def __init__(
        self,
        resolve: Resolve,
        connect: Callable[[str], Backend],
        *,
        refresh_seconds: float = REFRESH_SECONDS,
    ) -> None:
        self._resolve = resolve
        self._connect = connect
        self._refresh_seconds = refresh_seconds
        self._replicas: dict[str, Replica] = {}
        self._away = _CLOSED
        self._following: asyncio.Task[None] | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @classmethod
    def from_settings(cls, settings: Settings) -> TritonReplicas:
        """Build the backend; connects at start."""
        host, _, port = settings.generator.triton_address.rpartition(":")

        def connect(address: str) -> Backend:
            return TritonBackend.from_settings(settings, address)

        return cls(lambda: addresses_of(host, int(port)), connect)

    async def start(self) -> None:
        """Begin to follow the name."""
        self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Take nothing more, let the tasks in flight end."""
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.wait([following])
        self._away = _CLOSED
        for address in list(self._replicas):
            self._part_with(address)
        if self._closing:
            await asyncio.wait(self._closing)

    async def check(self) -> None:
        """Return when a generation would be accepted by at least one Triton.

        Raises:
            NotReadyError: None is ready; the message says why.
        """
        if not self._ready():
            await self._refresh()
        self._next()

    async def models(self) -> list[ModelInfo]:
        """Describe the default version of every model in the store."""
        return await self._next().backend.models()

    async def describe(self, model: str) -> ModelInfo:
        """Describe one model version."""
        return await self._next().backend.describe(model)

    async def generate(self, task: GenerationTask) -> AsyncGenerator[GeneratedImage]:
        """Yield each image as it finishes. Closing the iterator cancels what is left.

        Raises:
            NotReadyError: No Triton is ready, or one went away with some images made.
            GmemError: The engine refused or failed the task.
        """
        tried: set[Replica] = set()
        while True:
            replica = self._next(tried)
            owed = len(task)
            replica.images += owed
            try:
                async with aclosing(replica.backend.generate(task)) as images:
                    async for image in images:
                        owed -= 1
                        replica.images -= 1
                        yield image
                return
            except NotReadyError:
                replica.suspect = True
                tried.add(replica)
                if owed < len(task) or tried.issuperset(self._ready()):
                    raise
            finally:
                replica.images -= owed

    def _ready(self) -> list[Replica]:
        return [replica for replica in self._replicas.values() if replica.reason is None]

    def _next(self, tried: Collection[Replica] = ()) -> Replica:
        """Return who owes the fewest images, any of them if several do; a suspect only if need be.

        To be suspected is not to be away: what failed may have been the task's own doing.
        """
        ready = [replica for replica in self._ready() if replica not in tried]
        if not ready:
            reasons = [f"{r.address}: {r.reason}" for r in self._replicas.values()]
            raise NotReadyError(
                f"expected a Triton that is ready, found none ({'; '.join(reasons) or self._away})",
                retry_after_seconds=RETRY_AFTER_SECONDS,
            )
        return min(ready, key=lambda r: (r.suspect, r.images, random.random()))  # noqa: S311

    async def _follow(self) -> None:
        while True:
            await self._refresh()
            await asyncio.sleep(self._refresh_seconds)

    async def _refresh(self) -> None:
        """Look the name up, and ask whoever it stands for."""
        try:
            found = await self._resolve()
        except OSError as error:  # those that were found before may still be there
            self._away = f"the name is not known: {error}"
            found = set(self._replicas)
        else:
            self._away = "the name has no address"
        if self._following is None:  # closed meanwhile
            self._away = _CLOSED
            return
        for address in self._replicas.keys() - found:
            self._part_with(address)
        for address in found - self._replicas.keys():
            replica = self._replicas[address] = Replica(address, self._connect(address))
            await replica.backend.start()
            _log.info("triton.replica.found", address=address)
        await asyncio.gather(*map(_ask, list(self._replicas.values())))

    def _part_with(self, address: str) -> None:
        """Let a Triton finish what it has; it gets nothing more."""
        closing = asyncio.create_task(self._replicas.pop(address).backend.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)
        _log.info("triton.replica.gone", address=address)


async def addresses_of(host: str, port: int) -> set[str]:
    """Look a name up.

    Raises:
        OSError: It is not known.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = {str(socket_address[0]) for *_, socket_address in found}
    return {f"[{a}]:{port}" if ":" in a else f"{a}:{port}" for a in addresses}


async def _ask(replica: Replica) -> None:
    try:
        await replica.backend.check()
    except GmemError as error:
        replica.reason = error.detail
    else:
        replica.reason, replica.suspect = None, False
