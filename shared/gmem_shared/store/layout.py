"""Where everything of one bank or model lies, relative to the root of the store."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gmem_shared.errors import InvalidRequestError
from gmem_shared.types import Kind

FILE_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_ALIAS = re.compile(r"(?!sha256-)(?![0-9]+\Z)[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_KINDS = ("banks", "models")


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one bank or model.

    Raises:
        InvalidRequestError: Kind or name cannot be a folder of the store.
    """

    kind: Kind
    name: str

    def __post_init__(self) -> None:
        if self.kind not in _KINDS or not is_name(self.name):
            raise InvalidRequestError(
                f"expected banks/<name> or models/<name> in lower-case letters, digits and ._-, "
                f"found {self.kind}/{self.name[:100]}"
            )

    @property
    def root(self) -> str:
        """The folder that holds everything."""
        return f"{self.kind}/{self.name}"

    @property
    def log(self) -> str:
        """Folder of the records whose creation publishes a version."""
        return f"{self.root}/log"

    @property
    def aliases(self) -> str:
        """Folder of the aliases' folders."""
        return f"{self.root}/aliases"

    @property
    def leases(self) -> str:
        """Folder of the leases, one object per holder."""
        return f"{self.root}/leases"

    @property
    def plans(self) -> str:
        """Folder of the garbage collector's plans."""
        return f"{self.root}/gc"

    def blob(self, sha256: str) -> str:
        """Content of a file, by the hexadecimal SHA-256 of its bytes."""
        return f"{self.root}/blobs/sha256/{sha256[:2]}/{sha256}"

    def manifest(self, digest: str) -> str:
        """Manifest of a version, by its digest (``sha256-…``)."""
        return f"{self.root}/manifests/{digest}.json"

    def signature(self, digest: str, key_id: str) -> str:
        """Signature of a version by one key, beside its manifest."""
        return f"{self.root}/manifests/{digest}.{key_id}.sig"

    def signed_digest(self, path: str) -> str | None:
        """Return the digest of the version that a path holds a signature of, if it does."""
        folder, _, file = path.rpartition("/")
        is_signature = folder == f"{self.root}/manifests" and file.endswith(".sig")
        return file.partition(".")[0] if is_signature else None

    def alias(self, alias: str) -> str:
        """Folder of one alias's generations; raises `InvalidRequestError` for a bad name."""
        if not is_alias(alias):
            raise InvalidRequestError(
                f"expected an alias of letters, digits and ._- that is neither a number nor a "
                f"digest, found {alias[:100]!r}"
            )
        return f"{self.aliases}/{alias}"

    def lease(self, holder: str) -> str:
        """Lease of one holder; raises `InvalidRequestError` for a bad name."""
        if not re.fullmatch(FILE_NAME, holder):
            raise InvalidRequestError(
                f"expected a lease holder of letters, digits and ._-, found {holder[:100]!r}"
            )
        return f"{self.leases}/{holder}.json"

    def is_alias_record(self, path: str) -> bool:
        """Return whether a path is that of a move of an alias."""
        return path.startswith(f"{self.aliases}/") and path.endswith(".json")


def is_name(text: str) -> bool:
    """Return whether a text can name a bank or model."""
    return _NAME.fullmatch(text) is not None


def is_alias(text: str) -> bool:
    """Return whether a text can name an alias, and not a sequence number or digest."""
    return _ALIAS.fullmatch(text) is not None
