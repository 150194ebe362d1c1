"""One result, three representations: JSON, PNG, and an event stream."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator

from starlette.responses import Response

from gmem_generator.breath import Breath
from gmem_generator.images import grid, png
from gmem_generator.negotiation import JSON, PNG
from gmem_generator.parts import PartsResponse
from gmem_generator.pipeline import FinishedImage, Result
from gmem_generator.provenance import png_text
from gmem_generator.schemas import Completed, ImageAnswer, Timings, Usage, Version
from gmem_shared.types import VersionRef


def image_answer(image: FinishedImage) -> ImageAnswer:
    """Describe one finished image."""
    height, width, _ = image.pixels.shape
    origin = image.origin
    return ImageAnswer(
        index=origin.index,
        seed=origin.seed,
        b64_png=base64.b64encode(image.png).decode(),
        width=width,
        height=height,
        class_label=origin.class_label,
        class_name=origin.class_name,
        snippets=[] if origin.snippet is None else [origin.snippet],
        replay=origin.replay,
    )


def completed(result: Result) -> Completed:
    """Describe a result without its images."""
    return Completed(
        id=result.id,
        bank=None if result.plan.bank is None else version(result.plan.bank),
        model=version(result.plan.model.version),
        usage=Usage(network_evaluations=result.evaluations),
        timings_ms=result.watch.timings(),
    )


def version(ref: VersionRef) -> Version:
    """Describe a version."""
    return Version(name=ref.name, seq=ref.seq, digest=ref.digest)


async def as_json(result: Result) -> Response:
    """Answer with `GenerateAnswer`, written image by image so that a long one blocks nobody."""
    breathe = Breath(time.monotonic)
    images = []
    for image in result.images:
        images.append(image_answer(image).model_dump_json().encode())
        await breathe()
    result.watch.lap("answer")
    head = completed(result)
    before = head.model_dump_json(include={"id", "bank", "model"}).encode()
    after = head.model_dump_json(include={"usage", "timings_ms"}).encode()
    parts = [before[:-1], b',"images":[', *_separated(images), b"],", after[1:]]
    return PartsResponse(parts, media_type=JSON, headers=_headers(result, head.timings_ms))


def _separated(images: list[bytes]) -> Iterator[bytes]:
    for number, image in enumerate(images):
        yield b"," + image if number else image


async def as_png(result: Result) -> Response:
    """Answer with the image itself, or a grid of all; the grid's text lists their origins."""
    if len(result.images) == 1:
        content = result.images[0].png
    else:
        content = await asyncio.to_thread(_grid_png, result.images)
    result.watch.lap("answer")
    return Response(content, media_type=PNG, headers=_headers(result, result.watch.timings()))


def _grid_png(images: tuple[FinishedImage, ...]) -> bytes:
    origins = [json.loads(png_text(image.origin)["gmem"]) for image in images]
    text = {"Software": "gmem-serving", "gmem": json.dumps(origins)}
    return png(grid([image.pixels for image in images]), text)


def _headers(result: Result, timings: Timings) -> dict[str, str]:
    plan = result.plan
    facts = {
        "Cache-Control": "no-store",
        "Server-Timing": server_timing(timings),
        "X-Gmem-Id": result.id,
        "X-Gmem-Model": str(plan.model.version),
        "X-Gmem-Seed": str(plan.seed),
        "X-Gmem-Sampler": plan.sampler,
        "X-Gmem-Steps": str(plan.steps),
    }
    if plan.bank is not None:
        facts["X-Gmem-Bank"] = str(plan.bank)
    if plan.guidance_scale is not None:
        facts["X-Gmem-Guidance-Scale"] = f"{plan.guidance_scale:g}"
    return facts


def server_timing(timings: Timings) -> str:
    """Write timings as a ``Server-Timing`` header; browsers show it beside the request."""
    return ", ".join([f"{stage};dur={ms}" for stage, ms in timings.__dict__.items()])
