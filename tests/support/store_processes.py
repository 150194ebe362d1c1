"""Processes that publish to a folder, as a program: ``race`` or ``die``.

``race <folder> <publisher> <count>`` publishes ``count`` versions.
``die <folder> <name> <step> before|after`` publishes to models/<name> and exits, as if killed,
with status 9, before or after its ``step``-th synchronisation or renaming if there are so many.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import obstore.store

from gmem_shared.store import Store

FILES = {"a": b"first", "b": b"second"}


def race(folder: str, publisher: str, number: str) -> None:
    repository = Store.from_url(folder, Path(folder)).repository("models", "raced")
    for version in range(int(number)):
        repository.publish({"data": f"{publisher}.{version}".encode()})


def die(folder: str, name: str, step: str, when: str) -> None:
    steps = count()

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            due = next(steps) == int(step)
            if due and when == "before":
                os._exit(9)
            result = call(*args, **kwargs)
            if due:
                os._exit(9)
            return result

        return run

    class DeadlyStore(obstore.store.LocalStore):
        rename = deadly(obstore.store.LocalStore.rename)

    os.fsync = deadly(os.fsync)
    obstore.store.LocalStore = DeadlyStore  # type: ignore[misc]
    repository = Store.from_url(folder, Path(folder)).repository("models", name)
    repository.publish(FILES, publish_id="job")


if __name__ == "__main__":
    {"race": race, "die": die}[sys.argv[1]](*sys.argv[2:])
