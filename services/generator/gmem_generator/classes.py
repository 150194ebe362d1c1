"""The classes a request can name: those of a bank, or of a model that takes a label."""

from __future__ import annotations

from collections.abc import Sequence

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
    found = f"found {repr(label)[:100]}; "
    if owner.classes:
        expected = f"expected a class of {kind} {owner.version} ({_ids(owner.classes)}), "
        advice = f"{_nearest(owner.classes, label)}GET /classes?{kind}={owner.version} lists them"
    else:
        expected = f"expected no class, for {kind} {owner.version} has none, "
        advice = "leave it out, or name a bank with labels: GET /banks lists them"
    return UnknownClassError(
        f"{expected}{found}{advice}", errors=[{"field": "class_label", "message": "unknown class"}]
    )


def _ids(classes: Sequence[ClassInfo]) -> str:
    return f"ids {classes[0].id} to {classes[-1].id}"


def _nearest(classes: Sequence[ClassInfo], label: int | str) -> str:
    known = [name for info in classes for name in (info.name, *info.aliases)]
    close = [repr(name) for name in nearest(label, known)] if isinstance(label, str) else []
    return f"nearest: {', '.join(close)}; " if close else ""
