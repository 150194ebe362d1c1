"""Processes that publish to a folder, as a program: ``race`` or ``die``.

``race <folder> <publisher> <count>`` publishes ``count`` versions.
``die <folder> before|after`` publishes to models/killed-0, -1, … in a process each; process n is
killed before or after its n-th synchronisation or renaming, until one gets through unharmed.
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

KILLED = 9
FILES = {"a": b"first", "b": b"second"}


def race(folder: str, publisher: str, number: str) -> None:
    repository = Store.from_url(folder, Path(folder)).repository("models", "raced")
    for version in range(int(number)):
        repository.publish({"data": f"{publisher}.{version}".encode()})


def die(folder: str, when: str) -> None:
    for step in count():
        # Forking is safe here: this process itself never uses the store.
        if (child := os.fork()) == 0:
            die_at(folder, step, when)
        _, status = os.waitpid(child, 0)
        if status == 0:
            return
        if os.waitstatus_to_exitcode(status) != KILLED:
            sys.exit(f"the publisher of step {step} failed with {status}")


def die_at(folder: str, step: int, when: str) -> None:
    steps = count()

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            due = next(steps) == step
            if due and when == "before":
                os._exit(KILLED)
            result = call(*args, **kwargs)
            if due:
                os._exit(KILLED)
            return result

        return run

    class DeadlyStore(obstore.store.LocalStore):
        rename = deadly(obstore.store.LocalStore.rename)

    os.fsync = deadly(os.fsync)
    obstore.store.LocalStore = DeadlyStore  # type: ignore[misc]
    repository = Store.from_url(folder, Path(folder)).repository("models", f"killed-{step}")
    repository.publish(FILES, publish_id="job")
    os._exit(0)


if __name__ == "__main__":
    {"race": race, "die": die}[sys.argv[1]](*sys.argv[2:])
