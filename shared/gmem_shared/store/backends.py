"""Object stores behind the port: obstore for all of them, plus durable writes on a local disk.

Errors of obstore end here: a missing object becomes `NotFoundError`, the rest `StorageError`.
"""

from __future__ import annotations

import configparser
import functools
import os
import shutil
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from urllib.parse import unquote

import obstore
import obstore.store
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError
from tenacity import retry, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from gmem_shared.errors import InvalidRequestError, NotFoundError, StorageError
from gmem_shared.store.objects import ObjectInfo, Objects

if TYPE_CHECKING:
    from obstore.store import S3Credential

_P = ParamSpec("_P")
_R = TypeVar("_R")

_CLOUDS = ("s3", "gs", "az")
_REMEMBERED_FOLDERS = 4096
_LINKING = (obstore.store.S3Store, obstore.store.GCSStore, obstore.store.AzureStore)
_ALWAYS_EXPIRED = datetime.fromtimestamp(0, UTC)
"""So that obstore asks for credentials again and sees that a file has changed."""
_memory_stores: dict[str, obstore.store.MemoryStore] = {}
_memory_lock = threading.Lock()


def connect(url: str, credentials_file: Path | None = None) -> Objects:
    """Return the object store behind a folder path, ``file://``, ``memory://`` or a cloud URL.

    Within a process, one ``memory://`` URL always names the same store. Cloud stores take their
    credentials from the environment (``AWS_*`` for ``s3://``), ``s3://`` from a file if one is
    given, whose changes the next request notices.

    Raises:
        InvalidRequestError: The URL or the file is not understood.
    """
    scheme, has_scheme, rest = url.partition("://")
    if not has_scheme or scheme == "file":
        return LocalObjects(Path(unquote(rest) if has_scheme else url))
    if scheme == "memory":
        with _memory_lock:
            return ObstoreObjects(_memory_stores.setdefault(url, obstore.store.MemoryStore()))
    try:
        if scheme not in _CLOUDS:
            raise ValueError(f"{scheme}:// is none of {_CLOUDS}")
        # allow_http lets AWS_ENDPOINT_URL name a plain-http server; https stays https.
        cloud = obstore.store.from_url(
            url,
            credential_provider=_provider(credentials_file) if scheme == "s3" else None,
            client_options={"allow_http": True, "timeout": timedelta(seconds=30)},
            retry_config={"max_retries": 3, "retry_timeout": timedelta(seconds=30)},
        )
    except (BaseError, ValueError) as error:
        raise InvalidRequestError(
            f"expected a store URL like '/a/folder', 'memory://name' or 's3://bucket/prefix', "
            f"found {url!r}: {_first_line(error)}"
        ) from error
    return ObstoreObjects(cloud)


def _provider(file: Path | None) -> Callable[[], S3Credential] | None:
    """Return what reads a credentials file, once it could be read."""
    if file is None:
        return None
    _credentials(file)
    return functools.partial(_credentials, file)


def _credentials(file: Path) -> S3Credential:
    """Read the ``[default]`` of an AWS credentials file."""
    parser = configparser.ConfigParser(interpolation=None)  # a secret may hold a per cent sign
    try:
        parser.read_string(file.read_text())
        entries = parser["default"]
        return {
            "access_key_id": entries["aws_access_key_id"].strip(),
            "secret_access_key": entries["aws_secret_access_key"].strip(),
            "token": entries.get("aws_session_token"),
            "expires_at": _ALWAYS_EXPIRED,
        }
    except (OSError, UnicodeDecodeError, KeyError, configparser.Error) as error:
        # Not the error's own text: a parser quotes the line it stumbles over.
        raise InvalidRequestError(
            f"expected {file} to hold a section [default] with aws_access_key_id and "
            f"aws_secret_access_key, found none ({type(error).__name__})"
        ) from None


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _guarded(call: Callable[_P, _R]) -> Callable[_P, _R]:
    """Retry transient failures a bounded number of times and translate what remains."""
    attempts = retry(
        retry=retry_if_exception_type(GenericError),
        stop=stop_after_attempt(4),
        wait=wait_random_exponential(multiplier=0.05, max=2),
        reraise=True,
    )(call)
    return _translated(functools.wraps(call)(attempts))


def _translated(call: Callable[_P, _R]) -> Callable[_P, _R]:
    @functools.wraps(call)
    def translated(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return call(*args, **kwargs)
        except (BaseError, OSError) as error:
            raise StorageError(
                f"the object store failed to {call.__name__} {str(args[1])[:200]!r}: "
                f"{_first_line(error)}; check the store's address, access and free space"
            ) from error

    return translated


@contextmanager
def _reading(path: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise NotFoundError(f"the store has no object {path!r}") from error


class ObstoreObjects:
    """Any store of obstore whose writes are durable when acknowledged."""

    def __init__(self, store: obstore.store.ObjectStore) -> None:
        self._store = store

    @_guarded
    def create(self, path: str, data: bytes) -> bool:
        """See `Objects.create`."""
        try:
            self._put_new(path, data)
        except AlreadyExistsError:
            with suppress(FileNotFoundError):
                return bytes(self._store.get(path).bytes()) == data
            return False
        return True

    @_guarded
    def write(self, path: str, source: bytes | Path) -> None:
        """See `Objects.write`."""
        self._put(path, source)

    @_translated  # not retried: what was taken from an iterator cannot be taken again
    def write_pieces(self, path: str, pieces: Iterable[bytes]) -> None:
        """See `Objects.write_pieces`."""
        self._put_pieces(path, pieces)

    @_guarded
    def read(self, path: str) -> bytes:
        """See `Objects.read`."""
        with _reading(path):
            return bytes(self._store.get(path).bytes())

    @_guarded
    def read_range(self, path: str, start: int, length: int) -> bytes:
        """See `Objects.read_range`."""
        with _reading(path):
            return bytes(self._store.get_range(path, start=start, length=length))

    @_guarded
    def stat(self, path: str) -> ObjectInfo | None:
        """See `Objects.stat`."""
        try:
            meta = self._store.head(path)
        except FileNotFoundError:
            return None
        return ObjectInfo(path, meta["size"], meta["last_modified"])

    @_guarded
    def scan(self, folder: str, after: str = "") -> list[ObjectInfo]:
        """See `Objects.scan`."""
        found = self._store.list(folder, offset=after or None).collect()
        return sorted(
            (ObjectInfo(meta["path"], meta["size"], meta["last_modified"]) for meta in found),
            key=lambda info: info.path,
        )

    @_guarded
    def folders(self, folder: str) -> list[str]:
        """See `Objects.folders`."""
        prefixes = self._store.list_with_delimiter(folder)["common_prefixes"]
        return sorted(prefix.rstrip("/").rpartition("/")[2] for prefix in prefixes)

    @_guarded
    def delete(self, paths: Sequence[str]) -> None:
        """See `Objects.delete`."""
        with suppress(FileNotFoundError):
            self._store.delete(list(paths))
            return
        for path in paths:  # the batch may have stopped at the absent one
            with suppress(FileNotFoundError):
                self._store.delete(path)

    @_translated
    def link(self, path: str, seconds: float) -> str | None:
        """See `Objects.link`."""
        if not isinstance(self._store, _LINKING):
            return None
        return obstore.sign(self._store, "GET", path, timedelta(seconds=seconds))

    def local_path(self, path: str) -> Path | None:
        """See `Objects.local_path`."""
        return None

    def _put_new(self, path: str, data: bytes) -> None:
        self._store.put(path, data, mode="create")

    def _put(self, path: str, source: bytes | Path) -> None:
        self._store.put(path, source)

    def _put_pieces(self, path: str, pieces: Iterable[bytes]) -> None:
        # An iterator given to `put` would run within its event loop, and could not read the store.
        writer = obstore.open_writer(self._store, path)
        for piece in pieces:
            writer.write(piece)
        writer.close()  # until then there is nothing at this path


class LocalObjects(ObstoreObjects):
    """A folder of this machine; a crash or power cut never leaves a partial object.

    obstore does not fsync. So each object is first written in full beside its place, synced,
    and only then linked (create) or renamed (write) into place; then the folders are synced.
    A leftover ``.part`` file is unreferenced and falls to the garbage collector.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        # Once per folder, as far as one remembers; a folder that is synced again is none the worse.
        self._make_durable = functools.lru_cache(_REMEMBERED_FOLDERS)(self._sync_above)
        try:
            super().__init__(obstore.store.LocalStore(self._root, mkdir=True))
        except (BaseError, OSError) as error:
            raise StorageError(
                f"expected a folder that can be written at {self._root}: {_first_line(error)}"
            ) from error

    def local_path(self, path: str) -> Path:
        """See `Objects.local_path`."""
        return self._root / path

    def _put_new(self, path: str, data: bytes) -> None:
        self._place(path, data, overwrite=False)

    def _put(self, path: str, source: bytes | Path) -> None:
        self._place(path, source, overwrite=True)

    def _put_pieces(self, path: str, pieces: Iterable[bytes]) -> None:
        self._place(path, pieces, overwrite=True)

    def _place(self, path: str, source: bytes | Path | Iterable[bytes], *, overwrite: bool) -> None:
        staged = f"{path}.{uuid.uuid4().hex}.part"
        target = self._root / staged
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with target.open("xb") as file:
                if isinstance(source, Path):
                    with source.open("rb") as original:
                        shutil.copyfileobj(original, file, 1 << 20)
                else:
                    file.writelines([source] if isinstance(source, bytes) else source)
                file.flush()
                os.fsync(file.fileno())
            self._store.rename(staged, path, overwrite=overwrite)
        except BaseException:  # whatever it is: nothing of it may stay
            target.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)
        self._make_durable(target.parent)

    def _sync_above(self, folder: Path) -> None:
        """Make the names of a folder, and of those that lead to it, survive a power cut."""
        if folder != self._root:
            sync_folder(folder.parent)
            self._make_durable(folder.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
