"""A request with every name resolved and every default filled in."""

from __future__ import annotations

from dataclasses import dataclass

from gmem_generator.validation import nearest
from gmem_shared.errors import EncoderMismatchError, OutOfRangeError, UnknownSamplerError
from gmem_shared.types import BankInfo, ClassInfo, ModelInfo, Priority, VersionRef


@dataclass(frozen=True, slots=True)
class BankQuery:
    """Which rows of a bank the images are made from.

    Attributes:
        labels: Class ids to draw from, ``None`` for all; without meaning when ``rows`` is given.
        rows: The row of each image, instead of drawing.
        exclude: Rows the draw must leave out.
    """

    bank: BankInfo
    labels: tuple[int, ...] | None = None
    rows: tuple[int, ...] | None = None
    exclude: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a request's images depend on.

    Attributes:
        indices: Number of each image within the seed's stream.
        guidance_scale: ``None`` for a model that cannot be guided.
        query: For a model that takes snippets.
        labels: The class id of each image, for a model that takes labels.
    """

    model: ModelInfo
    seed: int
    indices: tuple[int, ...]
    sampler: str
    steps: int
    guidance_scale: float | None
    priority: Priority
    query: BankQuery | None = None
    labels: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check that bank and model, model and sampler belong together.

        Raises:
            EncoderMismatchError, UnknownSamplerError, OutOfRangeError: They do not.
        """
        if self.query is not None:
            check_encoder(self.query.bank, self.model)
        _check_sampler(self.sampler, self.model)
        if self.steps > self.model.max_steps:
            raise out_of_range("num_steps", self.model.max_steps, self.steps)

    @property
    def bank(self) -> VersionRef | None:
        """The bank version the images come from, if they come from one."""
        return None if self.query is None else self.query.bank.version

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """The classes the images may have."""
        return self.model.classes if self.query is None else self.query.bank.classes


def pinned(version: VersionRef) -> str:
    """Return the reference that means this very version, wherever aliases move."""
    return f"{version.name}@{version.digest}"


def check_encoder(bank: BankInfo, model: ModelInfo) -> None:
    """Refuse a bank whose snippets the model does not understand.

    Raises:
        EncoderMismatchError: They come from another encoder.
    """
    if bank.encoder != model.encoder:
        raise EncoderMismatchError(
            f"expected a bank made with encoder {model.encoder!r}, which model {model.version} "
            f"was trained with, found bank {bank.version} made with {bank.encoder!r}; "
            f"name another bank or another model (default bank: {model.default_bank})"
        )


def out_of_range(field: str, most: int, found: int) -> OutOfRangeError:
    """Return the error of a number that exceeds what is served."""
    message = f"expected at most {most}, found {found}"
    return OutOfRangeError(f"{field}: {message}", errors=[{"field": field, "message": message}])


def _check_sampler(sampler: str, model: ModelInfo) -> None:
    if sampler not in model.samplers:
        close = nearest(sampler, model.samplers, count=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UnknownSamplerError(
            f"expected a sampler of model {model.version}, found {sampler!r}; {hint}"
            f"known: {', '.join(model.samplers)}",
            errors=[{"field": "sampler", "message": "unknown sampler"}],
        )
