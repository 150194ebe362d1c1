"""Class names from a JSON file."""

from __future__ import annotations

import json
from pathlib import Path

from gmem_shared.errors import InvalidRequestError
from gmem_shared.types import ClassInfo


def read_class_names(path: Path) -> list[ClassInfo]:
    """Read ``[{"id", "name", "aliases"}, …]``; aliases may be left out.

    Raises:
        InvalidRequestError: The file does not have that form.
    """
    try:
        records = json.loads(path.read_text())
        return [
            ClassInfo(int(record["id"]), str(record["name"]), tuple(record.get("aliases", ())))
            for record in records
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidRequestError(
            f'expected a list of {{"id", "name", "aliases"}} in {path}: {error!r}'
        ) from error
