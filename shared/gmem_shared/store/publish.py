"""Publishing: upload what is missing, then commit by creating one log record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gmem_shared.errors import (
    CorruptVersionError,
    NotFoundError,
    PublishConflictError,
    StorageError,
)
from gmem_shared.store.manifest import FileEntry, Manifest
from gmem_shared.store.shelf import Shelf
from gmem_shared.store.verify import check_object
from gmem_shared.store.version import LogRecord

if TYPE_CHECKING:
    from gmem_shared.store.signing import Signer

_UPLOAD_PASSES = 5


def find_commit(shelf: Shelf, publish_id: str, digest: str, after: int) -> LogRecord | None:
    """Return the log record above number ``after`` that carries this publish_id, if any.

    Raises:
        PublishConflictError: The id was used for other content.
    """
    for record in shelf.log.read_all(after):
        if record.publish_id == publish_id:
            if record.digest != digest:
                raise PublishConflictError(
                    f"publish_id {publish_id!r} already published {record.digest} as version "
                    f"{record.seq}, not {digest}: use a new publish_id for new content"
                )
            return record
    return None


def upload(
    shelf: Shelf, manifest: Manifest, digest: str, sources: Mapping[str, bytes | Path]
) -> None:
    """Bring every blob and the manifest into the store; :func:`commit` has to follow at once.

    What the store already has of ``sources`` is read back, and replaced if it is damaged; so
    publishing a version again repairs it. The last pass finds everything in place after it saw
    that no garbage collection is about to delete any of it.

    Raises:
        ConflictError: A garbage collection is about to delete part of it.
        StorageError: A reused file is gone, or objects keep vanishing.
    """
    path = shelf.layout.manifest(digest)
    blobs = {name: shelf.layout.blob(entry.sha256) for name, entry in manifest.files.items()}
    wanted = {name for name in sources if not _is_intact(shelf, blobs[name], manifest.files[name])}
    for _ in range(_UPLOAD_PASSES):
        shelf.plans.refuse_planned([path, *blobs.values()])
        wanted |= {n for n in blobs if not _is_stored(shelf, blobs[n], manifest.files[n].size)}
        for name in sorted(wanted):
            if name not in sources:
                raise StorageError(
                    f"expected the reused file {name!r} at {blobs[name]}, but it is missing: "
                    f"publish its content instead"
                )
            shelf.objects.write(blobs[name], sources[name])
        if not wanted and _holds(shelf, path, manifest.to_bytes()):
            return
        wanted.clear()
        shelf.objects.write(path, manifest.to_bytes())
    raise StorageError(
        f"objects of {shelf.layout.root} vanish while they are published: "
        f"check what else deletes from this store, then publish again"
    )


def sign(shelf: Shelf, signer: Signer, digest: str) -> None:
    """Put a signature beside the manifest.

    Raises:
        ConflictError: A garbage collection is about to delete it.
    """
    path = shelf.layout.signature(digest, signer.key_id)
    shelf.plans.refuse_planned([path])
    # Written, not created: the same key gives the same bytes, and a damaged one is repaired so.
    shelf.objects.write(path, signer.sign(shelf.layout, digest))


def commit(
    shelf: Shelf,
    digest: str,
    publish_id: str,
    message: str,
    expected_parent: int | None,
    seen: int,
) -> LogRecord:
    """Create the log record, as the successor of the newest one, whoever wrote that.

    Args:
        shelf: Where to.
        digest: Of the uploaded manifest.
        publish_id: Identity of this publish over all its attempts.
        message: For people.
        expected_parent: Number that the newest version must have; `None` accepts any.
        seen: Log records up to this number are known not to carry ``publish_id``.

    Raises:
        PublishConflictError: Another version is the newest.
    """
    while True:
        newest = shelf.log.newest()
        # Everything between what was seen and the number about to be taken is searched, so
        # that one publish_id never commits twice.
        if earlier := find_commit(shelf, publish_id, digest, after=seen):
            return earlier
        seen = newest
        if expected_parent not in (None, newest):
            raise PublishConflictError(
                f"expected version {expected_parent} of {shelf.layout.root} to be the newest, "
                f"found {newest}: build on that one, then publish again"
            )
        record = LogRecord(
            seq=newest + 1,
            digest=digest,
            parent=newest,
            publish_id=publish_id,
            message=message,
            published_at=shelf.clock(),
        )
        if shelf.log.create(record.seq, record):
            return record


def _is_stored(shelf: Shelf, path: str, size: int) -> bool:
    info = shelf.objects.stat(path)
    return info is not None and info.size == size


def _is_intact(shelf: Shelf, path: str, entry: FileEntry) -> bool:
    try:
        check_object(shelf.objects, path, shelf.layout.root, path, entry)
    except CorruptVersionError:
        return False
    return True


def _holds(shelf: Shelf, path: str, data: bytes) -> bool:
    try:
        return shelf.objects.read(path) == data
    except NotFoundError:
        return False
