"""Whether an object store keeps the one promise that publishing rests on.

Not every server that speaks S3 does: some ignore ``If-None-Match: *``, others check it before the
upload and let two simultaneous writers win (docs/adr/0016-object-store.md).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from gmem_shared.errors import StorageError
from gmem_shared.store.objects import Objects

WRITERS = 8


def check_create_only(objects: Objects, path: str, *, rounds: int = 5) -> None:
    """Have simultaneous writers create one object; return if one of them succeeds, every time.

    Args:
        objects: The store in question.
        path: Of an object that does not exist; it is deleted afterwards.
        rounds: How often: a race is not always lost.

    Raises:
        StorageError: The store does not answer, or is none to publish to.
    """
    with ThreadPoolExecutor(WRITERS) as pool:
        for number in range(rounds):
            contested = f"{path}/{number}"
            try:
                _race(objects, contested, pool)
            finally:
                objects.delete([contested])


def _race(objects: Objects, path: str, pool: ThreadPoolExecutor) -> None:
    start = Barrier(WRITERS)

    def create(content: bytes) -> bool:
        start.wait()
        return objects.create(path, content)

    contents = [b"writer %d" % number for number in range(WRITERS)]
    created = list(pool.map(create, contents))
    winners = [content for content, won in zip(contents, created, strict=True) if won]
    kept = objects.read(path)
    if winners != [kept]:
        raise StorageError(
            f"expected one of {WRITERS} simultaneous writers to create an object, found that "
            f"{len(winners)} were told they did; two publishers could overwrite each other here. "
            "Use a store that honours 'If-None-Match: *' atomically, as Amazon S3 does"
        )
