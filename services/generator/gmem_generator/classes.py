"""The classes a request can name: those of a bank, or of a model that takes a label."""

from __future__ import annotations

from gmem_generator.validation import nearest
from gmem_shared.errors import UnknownClassError
from gmem_shared.types import BankInfo, ClassInfo, ModelInfo


def find_class(owner: BankInfo | ModelInfo, label: int | str) -> ClassInfo:
    """Find a class by id, name or alias; names in any case.

    Raises:
        UnknownClassError: There is none; names the nearest.
    """
    if isinstance(label, int):
        found = next((c for c in owner.classes if c.id == label), None)
    else:
        wanted = label.casefold()
        found = next((c for c in owner.classes if wanted in _names(c)), None)
    if found is None:
        raise _unknown_class(owner, label)
    return found


def _names(info: ClassInfo) -> set[str]:
    return {name.casefold() for name in (info.name, *info.aliases)}


def _unknown_class(owner: BankInfo | ModelInfo, label: int | str) -> UnknownClassError:
    kind = "bank" if isinstance(owner, BankInfo) else "model"
    known = [name for info in owner.classes for name in (info.name, *info.aliases)]
    close = [repr(name) for name in nearest(label, known)] if isinstance(label, str) else []
    ids = f"ids {owner.classes[0].id} to {owner.classes[-1].id}" if owner.classes else "no class"
    detail = (
        f"expected a class of {kind} {owner.version} ({ids}), found {repr(label)[:100]}; "
        + (f"nearest: {', '.join(close)}; " if close else "")
        + f"GET /classes?{kind}={owner.version} lists them all"
    )
    return UnknownClassError(detail, errors=[{"field": "class_label", "message": "unknown class"}])
