"""What a version consists of. Its canonical bytes have a digest, which is its identity."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from gmem_shared.errors import CorruptVersionError, InvalidRequestError
from gmem_shared.store.canonical import digest_of, to_json
from gmem_shared.store.layout import FILE_NAME
from gmem_shared.store.records import SCHEMA_VERSION, check_schema
from gmem_shared.types import Kind

CHUNK_SIZE = 64 << 20
_PIECE = 1 << 20

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class FileEntry(BaseModel):
    """One file of a version: sizes in bytes, digests as hexadecimal SHA-256.

    ``chunks[i]`` is the digest of bytes ``i*chunk_size … (i+1)*chunk_size-1``, so that all
    cores verify one file and a reader verifies one range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sha256: Sha256
    size: int = Field(ge=0)
    chunk_size: int = Field(ge=1)
    chunks: tuple[Sha256, ...]

    @model_validator(mode="after")
    def _check_chunks(self) -> Self:
        expected = -(-self.size // self.chunk_size)
        if len(self.chunks) != expected:
            raise ValueError(f"expected {expected} chunks, found {len(self.chunks)}")
        return self

    def chunk_length(self, chunk: int) -> int:
        """Return the number of bytes of one chunk; only the last may be short."""
        return min(self.chunk_size, self.size - chunk * self.chunk_size)

    @classmethod
    def of(cls, source: bytes | Path, chunk_size: int = CHUNK_SIZE) -> Self:
        """Describe a file; raises `InvalidRequestError` if it cannot be read."""
        whole, chunks, size = hashlib.sha256(), [], 0
        try:
            with source.open("rb") if isinstance(source, Path) else io.BytesIO(source) as file:
                while piece := file.read(min(_PIECE, chunk_size - size % chunk_size)):
                    if size % chunk_size == 0:
                        chunks.append(hashlib.sha256())
                    chunks[-1].update(piece)
                    whole.update(piece)
                    size += len(piece)
        except OSError as error:
            raise InvalidRequestError(f"expected a readable file to publish: {error}") from error
        return cls(
            sha256=whole.hexdigest(),
            size=size,
            chunk_size=chunk_size,
            chunks=tuple(chunk.hexdigest() for chunk in chunks),
        )


class Manifest(BaseModel):
    """Files and metadata of a version; no clock and no host name, so equal inputs are equal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION
    kind: Kind
    name: str
    files: dict[str, FileEntry]
    metadata: dict[str, JsonValue]

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for name in self.files:
            if not re.fullmatch(FILE_NAME, name):
                raise ValueError(
                    f"expected file names of letters, digits and ._- without folders, "
                    f"found {name[:100]!r}"
                )
        return self

    @classmethod
    def build(cls, **fields: Any) -> Self:
        """Check and make a manifest; raises `InvalidRequestError`."""
        try:
            return cls(**fields)
        except ValidationError as error:
            raise InvalidRequestError(f"this version cannot be published: {error}") from error

    def to_bytes(self) -> bytes:
        """Encode as canonical JSON."""
        return to_json(self.model_dump(mode="json"))

    @classmethod
    def from_bytes(cls, data: bytes, digest: str, path: str) -> Self:
        """Decode the manifest at ``path`` that has to have this digest.

        Raises:
            CorruptVersionError: It has another digest, or is no manifest.
            UnsupportedVersionError: A newer release wrote it.
        """
        if (found := digest_of(data)) != digest:
            raise CorruptVersionError(
                f"the manifest {path} is corrupt: expected digest {digest}, found {found}"
            )
        try:
            body = json.loads(data)
            check_schema(body, path)
            return cls.model_validate(body)
        except ValueError as error:
            raise CorruptVersionError(f"the manifest {path} cannot be read: {error}") from error
