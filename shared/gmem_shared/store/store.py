"""The store as a whole: a root that holds banks and models."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from gmem_shared.settings import StoreSettings
from gmem_shared.store.backends import connect
from gmem_shared.store.layout import Layout, is_name
from gmem_shared.store.objects import Objects
from gmem_shared.store.opened import BlobOpener
from gmem_shared.store.probe import check_create_only
from gmem_shared.store.repository import Repository
from gmem_shared.store.shelf import Clock, Shelf
from gmem_shared.types import Kind

if TYPE_CHECKING:
    from gmem_shared.store.signing import Signer, TrustedKeys


def utc_now() -> datetime:
    """Return the time of this machine."""
    return datetime.now(UTC)


class Store:
    """Banks and models in an object store. Thread-safe; calls block on the store.

    Args:
        objects: Where everything is kept.
        cache_dir: Where verified copies of remote files are kept, with ``trusted`` also of a local
            folder's, whose writers could change what was verified.
        clock: Time for records, leases and the garbage collector.
        signer: Signs what is published; by default nobody.
        trusted: One of these must have signed what is opened; by default nobody.
        moved: Called whenever an alias was moved through this store.
    """

    def __init__(
        self,
        objects: Objects,
        cache_dir: Path,
        clock: Clock = utc_now,
        *,
        signer: Signer | None = None,
        trusted: TrustedKeys | None = None,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._objects = objects
        self._opener = BlobOpener(objects, cache_dir, in_place=trusted is None)
        self._clock = clock
        self._signer = signer
        self._trusted = trusted
        self._moved = moved

    @classmethod
    def from_url(
        cls,
        url: str,
        cache_dir: Path,
        clock: Clock = utc_now,
        *,
        moved: Callable[[], None] = lambda: None,
    ) -> Store:
        """Connect to a folder path, ``file://``, ``memory://name`` or ``s3://bucket/prefix``.

        Raises:
            InvalidRequestError: The URL is not understood.
            StorageError: The folder cannot be written.
        """
        return cls(connect(url), cache_dir, clock, moved=moved)

    @classmethod
    def from_settings(
        cls, settings: StoreSettings, *, moved: Callable[[], None] = lambda: None
    ) -> Store:
        """Connect to the store that the settings name.

        Raises:
            InvalidRequestError: The URL, or a file with credentials or keys, is not understood.
            StorageError: The folder cannot be written.
        """
        signer = trusted = None
        if settings.signing_key_file or settings.trusted_keys_file:
            from gmem_shared.store.signing import Signer, TrustedKeys  # most stores need no keys

            if settings.signing_key_file:
                signer = Signer.from_file(settings.signing_key_file)
            if settings.trusted_keys_file:
                trusted = TrustedKeys.from_file(settings.trusted_keys_file)
        objects = connect(settings.url, settings.credentials_file)
        return cls(objects, settings.cache_dir, signer=signer, trusted=trusted, moved=moved)

    def check(self) -> None:
        """Try whether the store can be published to safely; leaves nothing behind.

        Raises:
            StorageError: It does not answer, or lets two writers create the same object.
        """
        check_create_only(self._objects, f"probes/{uuid.uuid4().hex}")

    def names(self, kind: Kind) -> list[str]:
        """List the banks or models that have a version."""
        return [
            name
            for name in self._objects.folders(kind)
            if is_name(name) and self._objects.scan(Layout(kind, name).log)
        ]

    def repository(self, kind: Kind, name: str) -> Repository:
        """Return one bank or model, which need not exist yet.

        Raises:
            InvalidRequestError: The name cannot be a folder of the store.
        """
        shelf = Shelf(self._objects, Layout(kind, name), self._clock, self._moved)
        return Repository(shelf, self._opener, signer=self._signer, trusted=self._trusted)
