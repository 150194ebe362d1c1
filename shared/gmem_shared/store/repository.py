"""One bank or model in the store: publish, resolve, open, alias."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import structlog

from gmem_shared.errors import ConflictError, InvalidRequestError
from gmem_shared.store import publish
from gmem_shared.store.aliases import AliasRecord
from gmem_shared.store.canonical import digest_of
from gmem_shared.store.gc import Collector, Retention
from gmem_shared.store.layout import is_alias
from gmem_shared.store.leases import Lease
from gmem_shared.store.manifest import CHUNK_SIZE, FileEntry, Manifest
from gmem_shared.store.objects import ObjectInfo
from gmem_shared.store.opened import BlobOpener, OpenVersion
from gmem_shared.store.shelf import Shelf
from gmem_shared.store.verify import check_object
from gmem_shared.store.version import LogRecord, Version

if TYPE_CHECKING:
    from gmem_shared.store.signing import Signer, TrustedKeys

_log = structlog.get_logger(__name__)
_NUMBER = re.compile(r"[0-9]{1,20}")
_DIGEST_PREFIX = re.compile(r"sha256-[0-9a-f]{6,64}")


class Repository:
    """The versions and aliases of one bank or model. Thread-safe; calls block on the store.

    Every method may raise `StorageError`. ``selector`` is an alias, a sequence number, a digest
    (``sha256-…``), or a prefix of one with at least six hexadecimal digits.
    """

    def __init__(
        self,
        shelf: Shelf,
        opener: BlobOpener,
        *,
        signer: Signer | None = None,
        trusted: TrustedKeys | None = None,
    ) -> None:
        self._shelf = shelf
        self._opener = opener
        self._signer = signer
        self._trusted = trusted

    def publish(
        self,
        files: Mapping[str, bytes | Path],
        *,
        metadata: Mapping[str, Any] | None = None,
        message: str = "",
        publish_id: str | None = None,
        expected_parent: int | None = None,
        reuse: Mapping[str, FileEntry] | None = None,
        chunk_size: int = CHUNK_SIZE,
    ) -> Version:
        """Publish a new version; a crash at any point leaves the store as it was or complete.

        Args:
            files: Content by file name.
            metadata: Any JSON object.
            message: For people.
            publish_id: Repeat it to repeat a publish whose outcome is unknown: the version
                exists once, however often it is tried.
            expected_parent: Sequence number that must be the newest (0 for none). `None`
                publishes after whatever is the newest.
            reuse: Files taken over from an older manifest of this repository, by name.
            chunk_size: Bytes per verified chunk.

        Raises:
            InvalidRequestError: A name, a file or the metadata cannot be published.
            PublishConflictError: The newest version is not ``expected_parent``, or the
                ``publish_id`` was used for other content.
            ConflictError: A garbage collection is about to delete content of this version.
        """
        reuse = dict(reuse or {})
        if not (files or reuse) or files.keys() & reuse.keys():
            raise InvalidRequestError(
                f"expected at least one file and none both new and reused, "
                f"found {sorted(files)} and {sorted(reuse)}"
            )
        entries = {name: FileEntry.of(source, chunk_size) for name, source in files.items()}
        manifest = Manifest.build(
            kind=self._shelf.layout.kind,
            name=self._shelf.layout.name,
            files=entries | reuse,
            metadata=metadata or {},
        )
        digest = digest_of(manifest.to_bytes())
        # An id made here can only occur in records created from now on.
        seen = 0 if publish_id else self._shelf.log.newest()
        publish_id = publish_id or uuid4().hex
        record = publish.find_commit(self._shelf, publish_id, digest, after=seen)
        if record is None:
            publish.upload(self._shelf, manifest, digest, files)
            if self._signer is not None:  # before the commit: nobody finds it unsigned
                publish.sign(self._shelf, self._signer, digest)
            record = publish.commit(self._shelf, digest, publish_id, message, expected_parent, seen)
        _log.info(
            "store.version.published",
            repository=self._shelf.layout.root,
            seq=record.seq,
            digest=digest,
        )
        return self._version(record)

    def sign(self, version: Version) -> str:
        """Sign a published version; return the id of the key.

        Raises:
            InvalidRequestError: There is no key to sign with.
            ConflictError: The version is about to be garbage collected.
            CorruptVersionError: Its manifest is not the published one.
        """
        if self._signer is None:
            raise InvalidRequestError(
                "expected a key to sign with, found none; set GMEM_STORE__SIGNING_KEY_FILE"
            )
        self._shelf.manifest(self._make_live(version).digest)
        publish.sign(self._shelf, self._signer, version.digest)
        return self._signer.key_id

    def versions(self) -> list[Version]:
        """Return all versions, oldest first."""
        return [self._version(record) for record in self._shelf.log.read_all()]

    def latest(self) -> Version:
        """Return the newest version; raises `UnknownBankError` or `UnknownModelError`."""
        newest = self._shelf.log.newest()
        if not newest:
            raise self._shelf.unknown("latest")
        return self._version(self._shelf.log.read(newest))

    def resolve(self, selector: str | int) -> Version:
        """Return the version that a selector names; of equal digests, the newest.

        Raises:
            NotFoundError: `UnknownBankError` or `UnknownModelError` if there is no version at
                all, `UnknownAliasError` or `UnknownVersionError` otherwise.
            ConflictError: The digest prefix fits several versions.
        """
        text = str(selector)
        if is_alias(text):
            return self._resolve_alias(text)
        if _NUMBER.fullmatch(text):
            record = self._shelf.log.find(int(text))
            if record is None:
                raise self._shelf.unknown(selector)
            return self._version(record)
        return self._resolve_digest(text)

    def _resolve_alias(self, alias: str) -> Version:
        if not self._shelf.log.newest():
            raise self._shelf.unknown(alias)
        target = self._shelf.aliases.current(alias)
        return self._version(self._shelf.log.read(target.seq))

    def _resolve_digest(self, prefix: str) -> Version:
        if not _DIGEST_PREFIX.fullmatch(prefix):
            raise self._shelf.unknown(prefix)
        fitting = {r.digest: r for r in self._shelf.log.read_all() if r.digest.startswith(prefix)}
        if not fitting:
            raise self._shelf.unknown(prefix)
        if len(fitting) > 1:
            raise ConflictError(
                f"expected the prefix of one digest, found {prefix!r} fitting {sorted(fitting)}: "
                f"give more digits"
            )
        return self._version(next(iter(fitting.values())))

    def open(self, version: Version, *, cores: int | None = None) -> OpenVersion:
        """Bring a version's files onto this machine and verify every byte of them.

        A local store's files are used where they lie. Of a remote store, and of any if signatures
        are asked for, verified copies are kept in the cache folder. By default all cores verify; a
        process that serves something else meanwhile leaves some to that.

        Raises:
            CorruptVersionError: Names the file and chunk that differ from what was published.
            UnsupportedVersionError: A newer release wrote the version.
            UntrustedVersionError: Signatures are asked for, and no trusted key signed it.
        """
        self._check_signature(version)
        return OpenVersion(
            version,
            {
                file: self._opener.open(
                    self._shelf.layout.blob(e.sha256), str(version.ref), file, e, cores
                )
                for file, e in version.manifest.files.items()
            },
        )

    def verify(self, version: Version) -> None:
        """Read and check every byte of a version in the store itself.

        Raises:
            CorruptVersionError: Names the file and chunk that differ from what was published.
            UntrustedVersionError: As in `open`.
        """
        self._check_signature(version)
        for file, entry in version.manifest.files.items():
            path = self._shelf.layout.blob(entry.sha256)
            check_object(self._shelf.objects, path, str(version.ref), file, entry)

    def set_alias(
        self,
        alias: str,
        target: str | int | Version,
        reason: str = "",
        expected_generation: int | None = None,
    ) -> AliasRecord:
        """Point an alias at a version.

        Raises:
            AliasConflictError: The alias is not at ``expected_generation`` (0: does not exist).
            ConflictError: The version is about to be garbage collected.
            NotFoundError: There is no such version.
        """
        version = self._make_live(target if isinstance(target, Version) else self.resolve(target))
        return self._shelf.aliases.move(alias, version, reason, expected_generation)

    def rollback(self, alias: str, reason: str = "") -> AliasRecord:
        """Point an alias back at the version before; repeated, walk further back.

        Raises:
            AliasConflictError: Nothing to go back to, or the alias was moved meanwhile.
            ConflictError: The version is about to be garbage collected.
            NotFoundError: The version before was garbage collected.
        """
        current, earlier = self._shelf.aliases.before(alias)
        version = self._make_live(self.resolve(earlier.seq))
        return self._shelf.aliases.move(
            alias, version, reason, current.generation, restores=earlier.origin
        )

    def alias(self, alias: str) -> AliasRecord:
        """Return where an alias points; raises `UnknownAliasError`. One listing if unchanged."""
        return self._shelf.aliases.current(alias)

    def aliases(self) -> dict[str, AliasRecord]:
        """Return where every alias points."""
        return {name: self._shelf.aliases.current(name) for name in self._shelf.aliases.names()}

    def alias_history(self, alias: str) -> list[AliasRecord]:
        """Return all moves of an alias, oldest first; raises `UnknownAliasError`."""
        return self._shelf.aliases.history(alias)

    def lease(self, holder: str, digests: Iterable[str], ttl: timedelta) -> Lease:
        """Keep versions from the garbage collector for a while; replaces the holder's lease.

        Raises:
            ConflictError: A version is about to be garbage collected.
            NotFoundError: There is no such version.
        """
        self._shelf.plans.refuse_planned([self._shelf.layout.lease(holder)])
        held = {self._make_live(self._resolve_digest(digest)).digest for digest in digests}
        return self._shelf.leases.renew(holder, held, ttl)

    def release(self, holder: str) -> None:
        """Give up a holder's lease."""
        self._shelf.leases.release(holder)

    def garbage(self, retention: Retention) -> list[ObjectInfo]:
        """Return what a garbage collection would delete now."""
        return Collector(self._shelf, retention).garbage()

    def collect_garbage(
        self, retention: Retention, sleep: Callable[[float], None]
    ) -> list[ObjectInfo]:
        """Delete what nothing refers to; see `Collector.collect`."""
        return Collector(self._shelf, retention).collect(sleep)

    def _check_signature(self, version: Version) -> None:
        if self._trusted is not None:
            layout, objects = self._shelf.layout, self._shelf.objects
            self._trusted.check(objects, layout, version.digest, str(version.ref))

    def _make_live(self, version: Version) -> Version:
        """Check that an alias or lease may rely on a version from now on."""
        self._shelf.plans.refuse_planned([self._shelf.log.path(version.seq)])
        if self._shelf.log.find(version.seq) is None:
            raise self._shelf.unknown(version.seq)
        return version

    def _version(self, record: LogRecord) -> Version:
        layout = self._shelf.layout
        return Version(
            kind=layout.kind,
            name=layout.name,
            seq=record.seq,
            digest=record.digest,
            parent=record.parent,
            publish_id=record.publish_id,
            message=record.message,
            published_at=record.published_at,
            load_manifest=self._shelf.manifest,
        )
