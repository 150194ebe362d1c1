"""What there is: classes, banks, models, samplers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from gmem_generator.answers import version
from gmem_generator.memo import Memo
from gmem_generator.openapi import problem_responses
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
_LISTED = problem_responses(503)


def router(
    bank_source: BankSource,
    backend: Backend,
    *,
    banks: Memo[BankInfo],
    models: Memo[ModelInfo],
    default_model: str,
) -> APIRouter:
    """Return the read routes."""
    api = APIRouter(tags=["read"])

    @api.get("/classes", responses=_NAMED)
    async def classes(bank: Annotated[Reference | None, Query()] = None) -> ClassesAnswer:
        """List the classes of a bank version; by default of the default model's bank."""
        info = await banks.get(bank or (await models.get(default_model)).default_bank)
        return ClassesAnswer(
            bank=version(info.version),
            classes=[
                ClassAnswer(id=c.id, name=c.name, aliases=list(c.aliases), rows=c.rows)
                for c in info.classes
            ],
        )

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
        info = await models.get(model or default_model)
        return SamplersAnswer(
            model=version(info.version),
            samplers=list(info.samplers),
            default_sampler=info.default_sampler,
            default_steps=info.default_steps,
            max_steps=info.max_steps,
        )

    return api


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
        encoder=info.encoder,
        width=width,
        height=height,
        channels=channels,
        samplers=list(info.samplers),
        default_sampler=info.default_sampler,
        default_steps=info.default_steps,
        max_steps=info.max_steps,
        default_bank=info.default_bank,
        aliases=list(info.aliases),
    )
