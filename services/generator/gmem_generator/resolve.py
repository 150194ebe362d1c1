"""From a request to a plan: every name resolved, every default filled in, everything checked.

What an image is conditioned on is the model's matter. A snippet model (GMem) makes a class label a
query of a bank; a label model (SiT, REPA, EDM2) takes it as it is; an unconditional one takes none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gmem_generator.classes import find_class
from gmem_generator.memo import Memo
from gmem_generator.plan import BankQuery, Plan, check_encoder, out_of_range, pinned
from gmem_generator.replay import ReplayToken
from gmem_generator.schemas import GenerateRequest, ReplayRequest
from gmem_shared.class_draw import draw_classes
from gmem_shared.errors import ConditionMismatchError, InternalError, InvalidRequestError
from gmem_shared.types import BankInfo, ModelInfo


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

    async def plan(
        self, request: GenerateRequest | ReplayRequest, part: range | None = None
    ) -> Plan:
        """Resolve a request.

        Args:
            request: What is asked for.
            part: These of its images, of which there may be more than one request may have
                otherwise; by default all.

        Raises:
            NotFoundError: The bank, model, class, row or sampler does not exist.
            ConditionMismatchError: The model does not take what the request gives it.
            EncoderMismatchError: Bank and model do not belong together.
            OutOfRangeError: More images or steps than are served.
            InvalidRequestError: The replay token is none of ours, or the model cannot be guided.
        """
        if isinstance(request, ReplayRequest):
            return await self._replay(request)
        count = images_of(request)
        if part is None and count > self._max_images:
            raise out_of_range("num_images", self._max_images, count)
        images = range(count) if part is None else part
        model = await self.model(request.model)
        seed = self._random_seed() if request.seed is None else request.seed
        return Plan(
            model=model,
            seed=seed,
            indices=tuple(images),
            sampler=request.sampler or model.default_sampler,
            steps=request.num_steps or model.default_steps,
            guidance_scale=_guidance(request.guidance_scale, model),
            priority=request.priority,
            query=await self._query(request, model, images),
            labels=_labels(request.class_label, model, seed, images),
        )

    async def model(self, named: str | None) -> ModelInfo:
        """Return what is known of a model, by default the default one."""
        return await self._models.get(named or self._default_model)

    async def bank(self, named: str | None, model: ModelInfo) -> BankInfo | None:
        """Return the bank that images of a model come from, if they come from one.

        Raises:
            ConditionMismatchError: A bank is named for a model that draws from none.
            EncoderMismatchError: Bank and model do not belong together.
        """
        if model.condition != "snippet":
            if named is not None:
                raise _not_taken("bank", model)
            return None
        if model.default_bank is None:
            raise InternalError(f"model {model.version} takes snippets and names no bank")
        bank = await self._banks.get(named or model.default_bank)
        if named is None and model.training_bank is not None and bank.encoder != model.encoder:
            # Bank and model of a new encoder are published one after the other.
            bank = await self._banks.get(model.training_bank)
        check_encoder(bank, model)
        return bank

    async def _query(
        self, request: GenerateRequest, model: ModelInfo, images: range
    ) -> BankQuery | None:
        bank = await self.bank(request.bank, model)
        memory, label = request.memory, request.class_label
        if bank is None:
            if memory is not None:
                raise _not_taken("memory", model)
            return None
        rows = memory.rows if memory else ()
        return BankQuery(
            bank,
            labels=None if label is None else (find_class(bank, label).id,),
            rows=tuple(rows[i % len(rows)] for i in images) if rows else None,
            exclude=frozenset(memory.exclude if memory else ()),
        )

    async def _replay(self, request: ReplayRequest) -> Plan:
        token = ReplayToken.decode(request.replay)
        model = await self._models.get(token.model)
        token.check_condition(model.condition)
        query = None
        if token.bank is not None and token.row is not None:
            query = BankQuery(await self._banks.get(token.bank), rows=(token.row,))
        return Plan(
            model=model,
            seed=token.seed,
            indices=(token.index,),
            sampler=token.sampler,
            steps=token.steps,
            guidance_scale=_guidance(token.guidance_scale, model),
            priority=request.priority,
            query=query,
            labels=None if token.label is None else (token.label,),
        )


def images_of(request: GenerateRequest | ReplayRequest) -> int:
    """Return how many images a request asks for."""
    if isinstance(request, ReplayRequest):
        return 1
    rows = request.memory.rows if request.memory else ()
    return request.num_images or len(rows) or 1


def pin(request: GenerateRequest | ReplayRequest, plan: Plan) -> GenerateRequest | ReplayRequest:
    """Return the request that always means what this one means now: its images depend on it alone.

    ``plan`` is what it was resolved to, or a part of it.
    """
    if isinstance(request, ReplayRequest):
        return request
    chosen = {
        "num_images": images_of(request),
        "seed": plan.seed,
        "num_steps": plan.steps,
        "sampler": plan.sampler,
        "guidance_scale": plan.guidance_scale,
        "bank": None if plan.bank is None else pinned(plan.bank),
        "model": pinned(plan.model.version),
    }
    return request.model_copy(update=chosen)


def _labels(
    named: int | str | None, model: ModelInfo, seed: int, images: range
) -> tuple[int, ...] | None:
    """Return the class id of each image of a label model: the named one, or one drawn for each."""
    if model.condition == "none" and named is not None:
        raise _not_taken("class_label", model)
    if model.condition != "label":
        return None
    if named is not None:
        return (find_class(model, named).id,) * len(images)
    ids = [info.id for info in model.classes]
    return tuple(draw_classes(ids, seed, np.arange(images.start, images.stop)).tolist())


def _guidance(asked: float | None, model: ModelInfo) -> float | None:
    if model.default_guidance_scale is not None:
        return model.default_guidance_scale if asked is None else asked
    if asked is not None and asked != 1:
        raise InvalidRequestError(
            f"expected no guidance_scale, or 1, for model {model.version}, which cannot be guided; "
            f"found {asked:g}",
            errors=[{"field": "guidance_scale", "message": "must be 1 for this model"}],
        )
    return None


def _not_taken(field: str, model: ModelInfo) -> ConditionMismatchError:
    takes = {
        "snippet": "takes rows of a bank",
        "label": "takes a class label and draws from no bank",
        "none": "is unconditional",
    }[model.condition]
    return ConditionMismatchError(
        f"expected no {field!r} for model {model.version}, which {takes}; leave it out or name "
        "another model, GET /models lists them",
        errors=[{"field": field, "message": "not taken by this model"}],
    )
