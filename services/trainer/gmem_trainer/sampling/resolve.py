"""From what a user asks for to a job: every version pinned, every default filled in."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from gmem_model.engine.models import read_config
from gmem_shared.bank_data import BankData
from gmem_shared.bank_format import open_bank
from gmem_shared.errors import EncoderMismatchError, InvalidRequestError
from gmem_shared.model_config import ModelConfig
from gmem_shared.store import Store, Version
from gmem_shared.types import Reference
from gmem_trainer.sampling.conditions import chooser
from gmem_trainer.sampling.job import (
    Job,
    SnippetRule,
    default_batch_size,
    default_snippet_rule,
    solver_of,
)


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a user asks for; ``None`` leaves it to the model's configuration."""

    model: str
    num_images: int
    bank: str | None = None
    seed: int = 0
    sampler: str | None = None
    num_steps: int | None = None
    guidance_scale: float | None = None
    snippets: SnippetRule | None = None
    classes: tuple[int, ...] = ()
    balanced: bool = False
    batch_size: int | None = None


def resolve_job(store: Store, wishes: Wishes) -> Job:
    """Pin the versions and fill in the defaults.

    Raises:
        NotFoundError: A model, bank, sampler or class does not exist.
        EncoderMismatchError: Model and bank do not belong together.
        InvalidRequestError: The wishes contradict each other or the model.
    """
    reference = Reference.parse(wishes.model)
    repository = store.repository("models", reference.name)
    model = repository.resolve(reference.selector)
    config = read_config(repository.open(model))
    bank = _open_bank(store, wishes, config)
    restricted = bool(wishes.classes) or wishes.balanced
    try:
        job = Job(
            model=_pinned(model),
            bank=None if bank is None else f"{bank.version.name}@{bank.version.digest}",
            num_images=wishes.num_images,
            seed=wishes.seed,
            sampler=wishes.sampler or config.default_sampler,
            num_steps=wishes.num_steps or config.default_steps,
            guidance_scale=_guidance_scale(wishes, config),
            snippets=wishes.snippets or default_snippet_rule(config, classes=restricted),
            classes=tuple(sorted(set(wishes.classes))),
            balanced=wishes.balanced,
            batch_size=wishes.batch_size or default_batch_size(config),
        )
    except ValidationError as error:
        raise InvalidRequestError("; ".join(e["msg"] for e in error.errors())) from error
    solver_of(job, config)
    chooser(job, config, bank)
    return job


def _open_bank(store: Store, wishes: Wishes, config: ModelConfig) -> BankData | None:
    if config.default_bank is None:
        if wishes.bank or wishes.snippets:
            raise InvalidRequestError(
                f"expected neither --bank nor --snippets for model {wishes.model}, which takes no "
                "snippets; leave them out"
            )
        return None
    reference = Reference.parse(wishes.bank or config.default_bank)
    repository = store.repository("banks", reference.name)
    bank = open_bank(repository.open(repository.resolve(reference.selector)))
    if bank.encoder != config.encoder:
        raise EncoderMismatchError(
            f"expected a bank of encoder {config.encoder!r} for model {wishes.model}, found "
            f"{bank.encoder!r} in {bank.version}; choose a fitting one with --bank (the model was "
            f"trained with {config.training_bank})"
        )
    return bank


def _guidance_scale(wishes: Wishes, config: ModelConfig) -> float:
    if wishes.guidance_scale is not None and config.guidance is None:
        raise InvalidRequestError(
            f"expected no --guidance-scale for model {wishes.model}, which cannot be guided"
        )
    if wishes.guidance_scale is not None:
        return wishes.guidance_scale
    return 1.0 if config.guidance is None else config.guidance.scale


def _pinned(version: Version) -> str:
    return f"{version.name}@{version.digest}"
