"""Write the page of all settings: ``python tools/settings_page.py``; a test holds it equal."""

from __future__ import annotations

import inspect
import types
import typing
from pathlib import Path
from typing import Any, cast, get_args, get_origin

from pydantic.fields import FieldInfo

from gmem_shared.settings import Section, Settings

PAGE = Path(__file__).resolve().parent.parent / "docs/operations/configure.md"

HEAD = """\
# Settings

<!-- Written by `make settings-page` from gmem_shared/settings.py. -->

Every setting is an environment variable, read once, when a process starts. A name that does not
exist is refused, and the nearest one named; so is a value that is out of range. Secrets are files
(`…_FILE`), never values.
"""


def page() -> str:
    """Return the page."""
    return HEAD + "".join(map(_section, Settings.model_fields.items()))


def _section(item: tuple[str, FieldInfo]) -> str:
    name, field = item
    section = cast("type[Section]", field.annotation)
    lines = [f"\n## {name}\n", f"{_inline(inspect.getdoc(section) or '')}\n"]
    lines += ["| variable | default | |", "|---|---|---|"]
    lines += [_row(name, key, option) for key, option in section.model_fields.items()]
    return "\n".join(lines) + "\n"


def _row(section: str, name: str, field: FieldInfo) -> str:
    variable = f"GMEM_{section}__{name}".upper()
    meaning = _inline(field.description or "")
    choices = _choices(field.annotation)
    if choices:
        meaning += f" One of {', '.join(f'`{choice}`' for choice in choices)}."
    return f"| `{variable}` | {_default(field.default)} | {meaning} |"


def _default(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case _:
            return f"`{value}`"


def _choices(annotation: Any) -> list[str]:
    if get_origin(annotation) is typing.Literal:
        return [str(choice) for choice in get_args(annotation)]
    if get_origin(annotation) in (types.UnionType, typing.Union):
        return [choice for part in get_args(annotation) for choice in _choices(part)]
    return []


def _inline(text: str) -> str:
    return " ".join(text.replace("``", "`").replace("|", "\\|").split())


if __name__ == "__main__":
    PAGE.write_text(page())
