"""The default aliases of a bank and a model that were trained together. Imports no torch.

There is no way to move two aliases at once, and no need to. With a new encoder a running service
may see the new bank before the new model, or the other way round; a model then draws from the bank
version it was trained with (``ModelConfig.training_bank``) until its default bank fits again.
"""

from __future__ import annotations

from gmem_shared.errors import UnknownAliasError
from gmem_shared.store import Repository, Store, Version
from gmem_shared.types import DEFAULT_ALIAS, Kind

_KINDS: tuple[Kind, Kind] = ("banks", "models")
"""In the order they move: a service on an empty store finds a bank whenever it finds a model."""


def is_promoted(store: Store, name: str) -> bool:
    """Tell whether the model of this name, and its bank if it has one, have the default alias."""
    needed = [kind for kind in _KINDS if kind == "models" or name in store.names(kind)]
    return all(_target(store.repository(kind, name)) is not None for kind in needed)


def promote(store: Store, name: str, bank: Version | None, model: Version) -> None:
    """Point the default aliases at these versions; one that does already is left alone."""
    for kind, version in zip(_KINDS, (bank, model), strict=True):
        repository = store.repository(kind, name)
        if version is not None and _target(repository) != version.digest:
            repository.set_alias(DEFAULT_ALIAS, version, reason=f"trained: {version.message}")


def _target(repository: Repository) -> str | None:
    try:
        return repository.alias(DEFAULT_ALIAS).digest
    except UnknownAliasError:
        return None
