"""From a request to a plan: every name resolved, every default filled in, everything checked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gmem_generator.memo import Memo
from gmem_generator.replay import ReplayToken
from gmem_generator.schemas import GenerateRequest, ReplayRequest
from gmem_generator.validation import nearest
from gmem_shared.errors import (
    EncoderMismatchError,
    OutOfRangeError,
    UnknownClassError,
    UnknownSamplerError,
)
from gmem_shared.types import BankInfo, ClassInfo, ModelInfo, Priority, VersionRef


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything a request's images depend on.

    Attributes:
        indices: Number of each image within the seed's stream.
        labels: Class ids to draw from, ``None`` for all; without meaning when ``rows`` is given.
        rows: The row of each image, instead of drawing.
        exclude: Rows the draw must leave out.
    """

    bank: BankInfo
    model: ModelInfo
    seed: int
    indices: tuple[int, ...]
    sampler: str
    steps: int
    priority: Priority
    labels: tuple[int, ...] | None = None
    rows: tuple[int, ...] | None = None
    exclude: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        """Check that bank and model, model and sampler belong together.

        Raises:
            EncoderMismatchError, UnknownSamplerError, OutOfRangeError: They do not.
        """
        _check_encoder(self.bank, self.model)
        _check_sampler(self.sampler, self.model)
        if self.steps > self.model.max_steps:
            raise _out_of_range("num_steps", self.model.max_steps, self.steps)


class Resolver:
    """Turns requests into plans.

    Args:
        banks, models: What is known of the reference given as key.
        max_images: Most images in one request.
        random_seed: Chooses the seed of a request that names none.
    """

    def __init__(
        self,
        banks: Memo[BankInfo],
        models: Memo[ModelInfo],
        *,
        default_model: str,
        max_images: int,
        random_seed: Callable[[], int],
    ) -> None:
        self._banks = banks
        self._models = models
        self._default_model = default_model
        self._max_images = max_images
        self._random_seed = random_seed

    async def plan(self, request: GenerateRequest | ReplayRequest) -> Plan:
        """Resolve a request.

        Raises:
            NotFoundError: The bank, model, class, row or sampler does not exist.
            EncoderMismatchError: Bank and model do not belong together.
            OutOfRangeError: More images or steps than are served.
            InvalidRequestError: The replay token is none of ours.
        """
        if isinstance(request, ReplayRequest):
            return await self._replay(request)
        rows = tuple(request.memory.rows) if request.memory else ()
        count = request.num_images or len(rows) or 1
        if count > self._max_images:
            raise _out_of_range("num_images", self._max_images, count)
        model = await self._models.get(request.model or self._default_model)
        bank = await self._bank(request.bank, model)
        label = request.class_label
        return Plan(
            bank=bank,
            model=model,
            seed=self._random_seed() if request.seed is None else request.seed,
            indices=tuple(range(count)),
            sampler=request.sampler or model.default_sampler,
            steps=request.num_steps or model.default_steps,
            priority=request.priority,
            labels=None if label is None else (find_class(bank, label).id,),
            rows=tuple(rows[i % len(rows)] for i in range(count)) if rows else None,
            exclude=frozenset(request.memory.exclude if request.memory else ()),
        )

    async def _bank(self, named: str | None, model: ModelInfo) -> BankInfo:
        bank = await self._banks.get(named or model.default_bank)
        if named is None and model.training_bank is not None and bank.encoder != model.encoder:
            # Bank and model of a new encoder are published one after the other.
            return await self._banks.get(model.training_bank)
        return bank

    async def _replay(self, request: ReplayRequest) -> Plan:
        token = ReplayToken.decode(request.replay)
        return Plan(
            bank=await self._banks.get(token.bank),
            model=await self._models.get(token.model),
            seed=token.seed,
            indices=(token.index,),
            sampler=token.sampler,
            steps=token.steps,
            priority=request.priority,
            rows=(token.row,),
        )


def pinned(version: VersionRef) -> str:
    """Return the reference that means this very version, wherever aliases move."""
    return f"{version.name}@{version.digest}"


def find_class(bank: BankInfo, label: int | str) -> ClassInfo:
    """Find a class by id, name or alias; names in any case.

    Raises:
        UnknownClassError: There is none; names the nearest.
    """
    if isinstance(label, int):
        found = next((c for c in bank.classes if c.id == label), None)
    else:
        wanted = label.casefold()
        found = next((c for c in bank.classes if wanted in _names(c)), None)
    if found is None:
        raise _unknown_class(bank, label)
    return found


def _names(info: ClassInfo) -> set[str]:
    return {name.casefold() for name in (info.name, *info.aliases)}


def _unknown_class(bank: BankInfo, label: int | str) -> UnknownClassError:
    known = [name for info in bank.classes for name in (info.name, *info.aliases)]
    close = [repr(name) for name in nearest(label, known)] if isinstance(label, str) else []
    ids = f"ids {bank.classes[0].id} to {bank.classes[-1].id}" if bank.classes else "no class"
    detail = (
        f"expected a class of bank {bank.version} ({ids}), found {repr(label)[:100]}; "
        + (f"nearest: {', '.join(close)}; " if close else "")
        + f"GET /classes?bank={bank.version} lists them all"
    )
    return UnknownClassError(detail, errors=[{"field": "class_label", "message": "unknown class"}])


def _check_encoder(bank: BankInfo, model: ModelInfo) -> None:
    if bank.encoder != model.encoder:
        raise EncoderMismatchError(
            f"expected a bank made with encoder {model.encoder!r}, which model {model.version} "
            f"was trained with, found bank {bank.version} made with {bank.encoder!r}; "
            f"name another bank or another model (default bank: {model.default_bank})"
        )


def _check_sampler(sampler: str, model: ModelInfo) -> None:
    if sampler not in model.samplers:
        close = nearest(sampler, model.samplers, count=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise UnknownSamplerError(
            f"expected a sampler of model {model.version}, found {sampler!r}; {hint}"
            f"known: {', '.join(model.samplers)}",
            errors=[{"field": "sampler", "message": "unknown sampler"}],
        )


def _out_of_range(field: str, most: int, found: int) -> OutOfRangeError:
    message = f"expected at most {most}, found {found}"
    return OutOfRangeError(f"{field}: {message}", errors=[{"field": field, "message": message}])
