"""What there is: classes, banks, models, samplers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from gmem_generator.answers import version
from gmem_generator.memo import Memo
from gmem_generator.openapi import problem_responses
from gmem_generator.resolve import Resolver
from gmem_generator.schemas import (
    BankAnswer,
    BanksAnswer,
    ClassAnswer,
    ClassesAnswer,
    ModelAnswer,
    ModelsAnswer,
    Reference,
    SamplersAnswer,
)
from gmem_shared.ports import Backend, BankSource
from gmem_shared.types import BankInfo, ModelInfo

_NAMED = problem_responses(400, 404, 503)
_PAIRED = problem_responses(400, 404, 409, 503)
_LISTED = problem_responses(503)


def router(
    bank_source: BankSource,
    backend: Backend,
    banks: Memo[BankInfo],
    resolver: Resolver,
    *,
    default_model: str,
) -> APIRouter:
    """Return the read routes."""
    api = APIRouter(tags=["read"])

    @api.get("/classes", responses=_PAIRED)
    async def classes(
        bank: Annotated[Reference | None, Query()] = None,
        model: Annotated[Reference | None, Query()] = None,
    ) -> ClassesAnswer:
        """List the classes that `class_label` can name.

        They are those of a bank, or those that a model takes itself: of the bank named, or else of
        the model named, or else of the default model.
        """
        if bank is not None and model is None:
            return _classes(await banks.get(bank), None)
        info = await resolver.model(model)
        return _classes(await resolver.bank(bank, info), info)

    @api.get("/banks", responses=_LISTED)
    async def list_banks() -> BanksAnswer:
        """List every bank in its default version."""
        return BanksAnswer(banks=[_bank(info) for info in await bank_source.banks()])

    @api.get("/models", responses=_LISTED)
    async def list_models() -> ModelsAnswer:
        """List every model in its default version."""
        found = await backend.models()
        return ModelsAnswer(default=default_model, models=[_model(info) for info in found])

    @api.get("/samplers", responses=_NAMED)
    async def samplers(model: Annotated[Reference | None, Query()] = None) -> SamplersAnswer:
        """List the samplers of a model version; by default of the default model."""
        info = await resolver.model(model)
        return SamplersAnswer(
            model=version(info.version),
            samplers=list(info.samplers),
            default_sampler=info.default_sampler,
            default_steps=info.default_steps,
            max_steps=info.max_steps,
            default_guidance_scale=info.default_guidance_scale,
        )

    return api


def _classes(bank: BankInfo | None, model: ModelInfo | None) -> ClassesAnswer:
    owner = bank or model
    return ClassesAnswer(
        bank=None if bank is None else version(bank.version),
        model=None if model is None else version(model.version),
        classes=[
            ClassAnswer(
                id=c.id, name=c.name, aliases=list(c.aliases), rows=None if bank is None else c.rows
            )
            for c in (() if owner is None else owner.classes)
        ],
    )


def _bank(info: BankInfo) -> BankAnswer:
    return BankAnswer(
        version=version(info.version),
        encoder=info.encoder,
        dimension=info.dimension,
        rows=info.rows,
        classes=len(info.classes),
        aliases=list(info.aliases),
    )


def _model(info: ModelInfo) -> ModelAnswer:
    height, width, channels = info.image_shape
    return ModelAnswer(
        version=version(info.version),
        condition=info.condition,
        width=width,
        height=height,
        channels=channels,
        samplers=list(info.samplers),
        default_sampler=info.default_sampler,
        default_steps=info.default_steps,
        max_steps=info.max_steps,
        default_guidance_scale=info.default_guidance_scale,
        classes=len(info.classes) if info.condition == "label" else None,
        encoder=info.encoder,
        default_bank=info.default_bank,
        aliases=list(info.aliases),
    )
