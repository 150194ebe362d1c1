"""Mixing two snippets: the ways between one memory and another (GMem v2, arXiv 2412.08781).

Snippets are directions: a network sees them at length 1, so every result has length 1, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from gmem_shared.errors import InvalidRequestError, OutOfRangeError

Method = Literal["linear", "spherical", "concat", "mask"]
METHODS: tuple[Method, ...] = get_args(Method)

Vectors = NDArray[np.float32]

_SMALLEST_SINE = 1e-6
_SMALLEST_LENGTH = 1e-6


def normalize(vectors: NDArray[np.floating[Any]]) -> Vectors:
    """Scale vectors ``(…, d)`` to length 1, float32; zero stays zero."""
    exact = vectors.astype(np.float32)
    lengths = np.linalg.norm(exact, axis=-1, keepdims=True)
    scaled: Vectors = exact / np.maximum(lengths, 1e-12, dtype=np.float32)
    return scaled


def interpolate(
    a: NDArray[np.floating[Any]],
    b: NDArray[np.floating[Any]],
    alphas: Sequence[float],
    method: Method,
    uniforms: NDArray[np.floating[Any]] | None = None,
) -> Vectors:
    """Mix snippets ``a`` and ``b``, both ``(…, d)``, once per alpha.

    Args:
        a: What alpha 0 gives.
        b: What alpha 1 gives.
        alphas: Positions from ``a`` to ``b``; ``concat`` and ``mask`` give the same at each.
        method: ``linear`` and ``spherical`` go straight and along the arc; ``concat`` takes the
            first half of the components from ``a`` and the others from ``b``; ``mask`` takes
            component i from ``a`` where uniform i is above 0.5.
        uniforms: In [0, 1), shape ``(len(alphas), …, d)``; only for ``mask``.

    Returns:
        float32 ``(len(alphas), …, d)``, of length 1.

    Raises:
        InvalidRequestError: A mask has no uniforms, or not one per component.
        OutOfRangeError: A result has no direction, as half-way between opposite snippets.
    """
    a, b = a.astype(np.float32), b.astype(np.float32)
    if method == "mask":
        if uniforms is None or uniforms.shape != (len(alphas), *a.shape):
            raise InvalidRequestError(
                f"expected uniforms of shape {(len(alphas), *a.shape)} for a mask"
            )
        mixed = np.where(uniforms > 0.5, a, b)
    else:
        mixed = np.stack([_mix(a, b, alpha, method) for alpha in alphas])
    if (np.linalg.norm(mixed, axis=-1) < _SMALLEST_LENGTH).any():
        raise OutOfRangeError(
            "expected two snippets with a direction between them, but a mix of them is zero, as "
            "half-way between opposite ones; choose other snippets, alphas or another method"
        )
    return normalize(mixed)


def _mix(a: Vectors, b: Vectors, alpha: float, method: Method) -> Vectors:
    if method == "concat":
        half = a.shape[-1] // 2
        return np.concatenate([a[..., :half], b[..., half:]], axis=-1)
    weight_a, weight_b = np.float32(1 - alpha), np.float32(alpha)
    straight: Vectors = weight_a * a + weight_b * b
    if method == "linear":
        return straight
    angle = np.arccos(np.clip((a * b).sum(axis=-1, keepdims=True), -1, 1))
    sine = np.sin(angle)
    # Equal and opposite snippets span no arc; the straight way is what is left of it.
    has_arc = sine > _SMALLEST_SINE
    safe = np.where(has_arc, sine, 1)
    arc = np.sin(weight_a * angle) / safe * a + np.sin(weight_b * angle) / safe * b
    return np.where(has_arc, arc, straight).astype(np.float32)
