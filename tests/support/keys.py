"""API keys in files, as an operator has them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gmem_shared.keys import KeyEntry, new_key, write_keys

LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


def keys_file(path: Path, **keys: Mapping[str, Any]) -> dict[str, str]:
    """Write a keys file; returns the keys by id.

    Each is given by the fields of its entry, by default ``{"scopes": […]}``.
    """
    made: dict[str, str] = {}
    entries = []
    for id, fields in keys.items():
        made[id], entry = new_key(id, fields["scopes"], fields.get("expires"))
        entries.append(KeyEntry.model_validate(entry.model_dump() | dict(fields)))
    write_keys(path, entries)
    return made


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}
