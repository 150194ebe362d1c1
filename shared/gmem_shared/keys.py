"""API keys: who asks, and what they may do.

A key is 32 random bytes, so there is nothing to guess and a plain SHA-256 keeps it: what makes
password hashes slow on purpose protects secrets that people choose. A key is found by its digest;
how long that takes says nothing about any key, as nobody can steer a digest.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, get_args

import structlog
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gmem_shared.errors import ForbiddenError, InvalidRequestError, UnauthenticatedError
from gmem_shared.settings import Rate

_log = structlog.get_logger(__name__)

Scope = Literal["generate", "read", "admin"]
"""``generate``: make images. ``read``: see what there is, draw from banks. ``admin``: change it."""

PREFIX = "gmem_"
"""Every key begins so, for scanners of leaked secrets."""

_SECRET_BYTES = 32
_CHECK_SECONDS = 1.0


class Rates(BaseModel):
    """How much a caller may ask for; `None`: what the settings say."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requests: Rate | None = None
    images: Rate | None = None


@dataclass(frozen=True, slots=True)
class Principal:
    """Who asks."""

    id: str
    scopes: frozenset[Scope]
    quota: Rates = field(default_factory=Rates)

    def require(self, scope: Scope) -> None:
        """Return if the principal has a scope; raises `ForbiddenError`."""
        if scope not in self.scopes:
            raise ForbiddenError(
                f"expected a key with the scope {scope!r}, found {self.id!r} with "
                f"{sorted(self.scopes)}; use another key, or have the scope added to this one"
            )


ANONYMOUS = Principal("anonymous", frozenset(get_args(Scope)))
"""Everybody, where no keys are asked for."""


class KeyEntry(BaseModel):
    """One key of the keys file; the key itself is not in it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    scopes: Annotated[frozenset[Scope], Field(min_length=1)]
    expires: AwareDatetime | None = None
    quota: Rates = Rates()

    @property
    def principal(self) -> Principal:
        """Who asks with this key."""
        return Principal(self.id, self.scopes, self.quota)


_ENTRIES = TypeAdapter(list[KeyEntry])


def digest(key: bytes) -> str:
    """Return what the keys file holds of a key."""
    return hashlib.sha256(key).hexdigest()


def new_key(id: str, scopes: Iterable[str], expires: datetime | None) -> tuple[str, KeyEntry]:
    """Make a key. Returns it, which is kept nowhere, and its entry for the keys file."""
    key = PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    fields = {"id": id, "sha256": digest(key.encode()), "scopes": [*scopes], "expires": expires}
    try:
        return key, KeyEntry.model_validate(fields)
    except ValidationError as error:
        raise InvalidRequestError(f"this key cannot be made: {_faults(error)}") from error


def read_keys(path: Path) -> list[KeyEntry]:
    """Read a keys file; raises `InvalidRequestError`, which quotes nothing of the file."""
    try:
        entries = _ENTRIES.validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidRequestError(f"expected API keys in {path}: {error}") from error
    except ValidationError as error:
        raise InvalidRequestError(
            f"expected a JSON list of API keys in {path}: {_faults(error)}"
        ) from error
    for name in ("id", "sha256"):
        if len({getattr(entry, name) for entry in entries}) < len(entries):
            raise InvalidRequestError(f"expected another {name} for each API key in {path}")
    return entries


def _faults(error: ValidationError) -> str:
    """Name the first faults without quoting what was found: it may be a key."""
    found = error.errors(include_url=False, include_input=False)[:3]
    return "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'file'}: {fault['msg']}" for fault in found
    )


def write_keys(path: Path, entries: Iterable[KeyEntry]) -> None:
    """Replace a keys file as a whole, so that nobody reads half of one."""
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(_ENTRIES.dump_json(list(entries), indent=2, exclude_defaults=True) + b"\n")
    part.replace(path)


class Keyring:
    """The keys of a file, which is looked at once a second and read again when it changed.

    A file that became unreadable leaves the keys as they are; the log says so.

    Args:
        path: The keys file; without one everybody is `ANONYMOUS`.
        now: The time that keys expire by.
        clock: Monotonic seconds.

    Raises:
        InvalidRequestError: The file cannot be read at the start.
    """

    def __init__(
        self,
        path: Path | None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._path = path
        self._now = now
        self._clock = clock
        self._entries: Mapping[str, KeyEntry] = {}
        self._seen: object = None
        self._look_again = 0.0
        if path is not None:
            self._seen = _state(path)
            self._entries = {entry.sha256: entry for entry in read_keys(path)}
            self._look_again = clock() + _CHECK_SECONDS

    @property
    def open(self) -> bool:
        """Whether no keys are asked for."""
        return self._path is None

    def announce(self, host: str) -> None:
        """Log whether a server at this address asks for keys.

        That it does not, where other machines may reach it, is a warning.
        """
        if not self.open:
            _log.info("access.keys", keys=len(self._entries))
            return
        tell = _log.info if _is_loopback(host) else _log.warning
        tell("access.open", host=host, setting="GMEM_SECURITY__API_KEYS_FILE")

    def principal(self, key: bytes | None) -> Principal:
        """Return who asks with a key.

        Raises:
            UnauthenticatedError: There is no key, or none that is good now.
        """
        if self._path is None:
            return ANONYMOUS
        if key is None:
            raise UnauthenticatedError(
                "expected an API key, found none; send 'Authorization: Bearer <key>'"
            )
        if self._clock() >= self._look_again:
            self._refresh(self._path)
        entry = self._entries.get(digest(key))
        if entry is None:
            raise UnauthenticatedError("expected a known API key, found another; check the key")
        if entry.expires is not None and entry.expires <= self._now():
            raise UnauthenticatedError(
                f"expected a valid API key, found {entry.id!r}, which expired at "
                f"{entry.expires.isoformat()}; ask for a new one"
            )
        return entry.principal

    def _refresh(self, path: Path) -> None:
        self._look_again = self._clock() + _CHECK_SECONDS
        seen = _state(path)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._entries = {entry.sha256: entry for entry in read_keys(path)}
        except InvalidRequestError as error:
            _log.error("keys.refused", error=error.detail, kept=len(self._entries))
        else:
            _log.info("keys.read", keys=len(self._entries))


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _state(path: Path) -> object:
    """Return what changes with a file; `None` if there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def key_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """Return the key that HTTP headers or gRPC metadata carry, names in lower case.

    ``Authorization: Bearer`` counts before ``X-API-Key``: another scheme may be for a proxy.
    """
    found = None
    for name, value in headers:
        if name == b"authorization":
            scheme, _, key = value.strip().partition(b" ")
            if scheme.lower() == b"bearer":
                return key.strip()
        elif name == b"x-api-key" and found is None:
            found = value.strip()
    return found
