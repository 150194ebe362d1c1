"""The digits bank and model, trained by the command a user would run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def trained_store(directory: Path) -> Path:
    """Train the full preset into a store under ``directory``, or use ``GMEM_TEST_STORE``.

    Call it from a session-scoped fixture; it takes most of a minute of CPU time.
    """
    if existing := os.environ.get("GMEM_TEST_STORE"):
        return Path(existing)
    store = directory / "store"
    command = ["train", "--preset", "digits", "--if-missing", "--store", str(store)]
    subprocess.run(
        [sys.executable, "-m", "gmem_shared", *command, "--workdir", str(directory / "work")],
        check=True,
    )
    return store
