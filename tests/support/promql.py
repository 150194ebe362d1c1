"""What a PromQL expression asks for."""

from __future__ import annotations

import re

_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*"')
_MATCHERS = re.compile(r"\{[^}]*\}")
_RANGES = re.compile(r"\[[^\]]*\]")
_LABELS = re.compile(r"\b(?:by|without|on|ignoring|group_left|group_right)\b\s*(\([^)]*\))?")
_WORD = re.compile(r"(?<![\w:$.])([a-zA-Z_:][\w:]*)\s*(\(?)")
_OPERATORS = {"and", "or", "unless", "offset", "bool", "inf", "nan"}


def names(expression: str) -> set[str]:
    """Return the metrics that an expression selects."""
    for pattern in (_STRINGS, _MATCHERS, _RANGES, _LABELS):
        expression = pattern.sub(" ", expression)
    return {
        word
        for word, call in _WORD.findall(expression)
        if not call and word.lower() not in _OPERATORS
    }


def for_prometheus(expression: str, *, window: str) -> str:
    """Put values into Grafana's variables."""
    return expression.replace("$__rate_interval", window).replace("$instance", ".*")
