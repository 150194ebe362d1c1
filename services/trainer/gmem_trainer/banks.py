"""What a bank keeps of the snippets of a data set, and what a network is told in their place.

| form | rows of the bank | what it costs |
|---|---|---|
| ``full`` | the snippet of every image | everything is kept |
| ``most-used:K`` | K snippets; images are drawn through the kept one nearest to theirs | detail |
| ``compressed:D`` | every snippet, as its best approximation by D numbers | detail, uniformly |

A network is trained on what it will be served with: each image under what the bank remembers of it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gmem_model.memory import compress, most_used, nearest
from gmem_shared.bank_rows import Rows
from gmem_shared.errors import InvalidRequestError

Array = NDArray[Any]

_FORM = re.compile(r"full|(most-used|compressed):([1-9]\d*)")


@dataclass(frozen=True, slots=True)
class BankForm:
    """How much of the snippets a bank keeps; ``size`` is K or D, 0 for ``full``."""

    kind: str = "full"
    size: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``full``, ``most-used:640000`` or ``compressed:64``.

        Raises:
            InvalidRequestError: The text is none of these.
        """
        match = _FORM.fullmatch(text)
        if match is None:
            raise InvalidRequestError(
                f"expected full, most-used:K or compressed:D with a number, found {text!r}"
            )
        return cls(match[1] or "full", int(match[2] or 0))

    def __str__(self) -> str:
        return f"{self.kind}:{self.size}" if self.size else self.kind


FULL = BankForm()
"""Everything is kept."""


@dataclass(frozen=True, slots=True)
class Memory:
    """The content of a bank before it is published.

    Attributes:
        vectors: Floating-point ``(m, d)``.
        rows: int64 ``(m,)``, the image behind each row.
        weights: int64 ``(m,)``, how often each is drawn; ``None`` for all alike.
        factors: The compressed form of the vectors, see `gmem_shared.bank_format.write_bank`.
        recall: Maps images, int64 ``(k,)``, to what the bank remembers of them, ``(k, d)``.
    """

    vectors: Rows
    rows: NDArray[np.int64]
    weights: NDArray[np.int64] | None
    factors: Mapping[str, Array] | None
    recall: Callable[[NDArray[np.int64]], Array]


def remember(form: BankForm, snippets: Rows, count: int) -> Memory:
    """Build the memory of a data set.

    Args:
        form: What is kept.
        snippets: ``(n, d)``; of ``n`` = 2 ``count``, if mirrored images follow the images.
        count: Images; only their own snippets become rows of the bank.

    Raises:
        OutOfRangeError: There are fewer snippets, or entries, than a compressed bank would have
            numbers.
    """
    if form.kind == "most-used":
        return _most_used(form.size, snippets, count)
    if form.kind == "compressed":
        return _compressed(form.size, snippets, count)
    return Memory(_First(snippets, count), np.arange(count), None, None, snippets.__getitem__)


def _most_used(k: int, snippets: Rows, count: int) -> Memory:
    """Keep the snippets that most others are nearest to, weighted by the images they stand for."""
    everything = snippets[np.arange(snippets.shape[0])]
    own = everything[:count]
    used = np.bincount(nearest(own, own, skip_self=True), minlength=count)
    kept = most_used(used, k)
    stands_for = nearest(everything, own[kept])
    weights = np.bincount(stands_for[:count], minlength=len(kept))
    vectors = own[kept]
    return Memory(vectors, kept, weights, None, lambda rows: vectors[stands_for[rows]])


def _compressed(dimension: int, snippets: Rows, count: int) -> Memory:
    bank = compress(_First(snippets, count)[np.arange(count)], dimension)
    factors = {
        "coefficients": bank.coefficients,
        "basis": bank.basis,
        "scales": bank.scales,
        "mean": bank.mean,
    }
    vectors = bank[np.arange(count)]
    return Memory(
        vectors, np.arange(count), None, factors,
        lambda rows: bank.decode(bank.encode(snippets[rows])),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _First:
    """The first rows of others."""

    others: Rows
    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.count, *self.others.shape[1:]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.others.dtype

    def __getitem__(self, rows: NDArray[np.int64]) -> Array:
        return self.others[rows]
