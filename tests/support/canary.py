"""A payload that shows whether a pickle was executed."""

from __future__ import annotations

import os
from pathlib import Path


class Canary:
    """Makes a folder when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._path),)
