"""Small JSON records that prove their own integrity, and journals of them."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict

from gmem_shared.errors import CorruptVersionError, NotFoundError, UnsupportedVersionError
from gmem_shared.store.canonical import digest_of, to_json
from gmem_shared.store.objects import Objects

SCHEMA_VERSION = 1
_READERS = 16
_SEAL = "seal"


class Record(BaseModel):
    """A record of the store: canonical JSON with a digest of its own path and content.

    So neither a damaged record nor an intact one in the wrong place is believed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: int = SCHEMA_VERSION

    def to_bytes(self, path: str) -> bytes:
        """Encode for ``path``."""
        body = self.model_dump(mode="json")
        return to_json(body | {_SEAL: _seal(body, path)})

    @classmethod
    def from_bytes(cls, data: bytes, path: str) -> Self:
        """Decode the object at ``path``.

        Raises:
            CorruptVersionError: The bytes are not those that were written there.
            UnsupportedVersionError: A newer release wrote the record.
        """
        try:
            body = json.loads(data)
            if not isinstance(body, dict) or to_json(body) != data:
                raise ValueError("it is not canonical JSON")
            if body.pop(_SEAL, None) != _seal(body, path):
                raise ValueError("its seal does not match")
            check_schema(body, path)
            return cls.model_validate(body)
        except ValueError as error:
            raise CorruptVersionError(f"the record {path} is corrupt: {error}") from error


R = TypeVar("R", bound=Record)


def _seal(body: dict[str, Any], path: str) -> str:
    return digest_of(to_json([path, body]))


def check_schema(body: dict[str, object], path: str) -> None:
    """Refuse an intact object of another format; raises `UnsupportedVersionError`."""
    found = body.get("schema_version")
    if found != SCHEMA_VERSION:
        raise UnsupportedVersionError(
            f"{path} has schema_version {found}, this release reads {SCHEMA_VERSION}: "
            f"use a release of gmem-serving that reads it"
        )


class Journal(Generic[R]):
    """Records numbered from 1 in one folder, each created once and never changed.

    A number is never used again: the newest record is never deleted. Thread-safe.
    """

    _NUMBERED: ClassVar[re.Pattern[str]] = re.compile(r".*/([0-9]{20})\.json")

    def __init__(self, objects: Objects, folder: str, record: type[R]) -> None:
        self._objects = objects
        self._folder = folder
        self._record = record
        self._newest = 0
        self._cache: dict[int, R] = {}

    def path(self, number: int) -> str:
        """Return the path of one record."""
        return f"{self._folder}/{number:020d}.json"

    def numbers(self, after: int = 0) -> list[int]:
        """List the numbers in use that are greater than ``after``, ascending."""
        listed = self._objects.scan(self._folder, after=self.path(after) if after else "")
        matches = (self._NUMBERED.fullmatch(info.path) for info in listed)
        return [int(match[1]) for match in matches if match]

    def newest(self) -> int:
        """Return the newest number, 0 for none; lists only what is new since the last call."""
        self._newest = max([self._newest, *self.numbers(after=self._newest)])
        return self._newest

    def read(self, number: int) -> R:
        """Return one record; raises `NotFoundError`."""
        if number not in self._cache:
            path = self.path(number)
            self._cache[number] = self._record.from_bytes(self._objects.read(path), path)
        return self._cache[number]

    def find(self, number: int) -> R | None:
        """Return one record if it still exists; the cache does not know of deletions."""
        return None if self._objects.stat(self.path(number)) is None else self.read(number)

    def read_all(self, after: int = 0) -> list[R]:
        """Return all records with a number greater than ``after``, ascending."""
        numbers = self.numbers(after)
        with ThreadPoolExecutor(_READERS) as pool:
            return [record for record in pool.map(self._read_listed, numbers) if record]

    def _read_listed(self, number: int) -> R | None:
        try:
            return self.read(number)
        except NotFoundError:  # deleted since the listing
            return None

    def create(self, number: int, record: R) -> bool:
        """Create a record; false when somebody else's already has the number."""
        path = self.path(number)
        return self._objects.create(path, record.to_bytes(path))
