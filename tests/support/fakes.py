"""Doubles of the two ports: deterministic, with every delay and failure under the test's hand."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from gmem_shared.errors import (
    GmemError,
    InvalidRequestError,
    NotReadyError,
    OutOfRangeError,
    UnknownBankError,
    UnknownModelError,
    UnknownRowError,
    UnknownVersionError,
)
from gmem_shared.settings import Settings
from gmem_shared.types import (
    BankInfo,
    ClassInfo,
    DrawSpec,
    GeneratedImage,
    GenerationTask,
    ModelInfo,
    Neighbours,
    Reference,
    Snippets,
    VersionRef,
)

ENCODER = "fake-encoder"
NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ROWS_PER_CLASS = 10
DIMENSION = 4
EVALUATIONS_PER_STEP = {"heun": 2, "euler": 1}


def version(name: str, seq: int) -> VersionRef:
    """A version whose digest has the published form."""
    return VersionRef(name, seq, "sha256-" + hashlib.sha256(f"{name}{seq}".encode()).hexdigest())


def hashed(*parts: object) -> int:
    """A number that depends on the parts and on nothing else."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


@dataclass
class Gate:
    """Lets calls through; while closed, they wait. ``failure`` makes them fail instead.

    ``passes`` lets so many through and then closes.
    """

    open: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Exception | None = None
    passes: int | None = None
    waiting: int = 0

    def __post_init__(self) -> None:
        self.open.set()

    async def passed(self) -> None:
        if self.passes is not None:
            self.passes -= 1
            if self.passes < 0:
                self.passes = None
                self.open.clear()
        self.waiting += 1
        try:
            await self.open.wait()
        finally:
            self.waiting -= 1
        if self.failure is not None:
            raise self.failure


class FakeBank:
    """Ten classes of ten rows: class ``c`` in rows ``10 c … 10 c + 9``."""

    def __init__(self, name: str = "digits", encoder: str = ENCODER) -> None:
        self.gate = Gate()
        self.draws: list[tuple[str, tuple[DrawSpec, ...]]] = []
        self.running = False
        self.describes = 0
        self._encoder = encoder
        self._name = name
        self._versions: list[BankInfo] = []
        self.publish()

    @classmethod
    def from_settings(cls, settings: Settings) -> FakeBank:
        return cls()

    def publish(self) -> VersionRef:
        """Add a version and point ``production`` at it."""
        published = version(self._name, len(self._versions) + 1)
        classes = tuple(
            ClassInfo(i, name, (f"n{i:08d}",), ROWS_PER_CLASS) for i, name in enumerate(NAMES)
        )
        rows = ROWS_PER_CLASS * len(NAMES)
        info = BankInfo(
            published, self._encoder, DIMENSION, rows, "float32", True, classes, ("production",)
        )
        self._versions = [replace(old, aliases=()) for old in self._versions] + [info]
        return published

    async def start(self) -> None:
        self.running = True

    async def close(self) -> None:
        self.running = False

    async def check(self) -> None:
        await self.gate.passed()

    async def banks(self) -> list[BankInfo]:
        await self.gate.passed()
        return [self._versions[-1]]

    async def describe(self, bank: str) -> BankInfo:
        self.describes += 1
        await self.gate.passed()
        return self._resolve(bank)

    async def draw(self, bank: str, specs: Sequence[DrawSpec]) -> list[Snippets]:
        self.draws.append((bank, tuple(specs)))
        await self.gate.passed()
        info = self._resolve(bank)
        return [self._snippets(info, self._rows(info, spec)) for spec in specs]

    async def gather(self, bank: str, rows: Sequence[int]) -> Snippets:
        await self.gate.passed()
        info = self._resolve(bank)
        for row in rows:
            if not 0 <= row < info.rows:
                raise UnknownRowError(f"expected a row below {info.rows}, found {row}")
        return self._snippets(info, rows)

    async def search(
        self,
        bank: str,
        queries: NDArray[np.float32],
        count: int,
        labels: Sequence[int] | None = None,
    ) -> Neighbours:
        raise NotReadyError("this bank does not search")

    def _resolve(self, bank: str) -> BankInfo:
        reference = Reference.parse(bank)
        if reference.name != self._name:
            raise UnknownBankError(f"expected bank {self._name!r}, found {reference.name!r}")
        if reference.selector == "production":
            return self._versions[-1]
        for info in self._versions:
            if reference.selector in (str(info.version.seq), info.version.digest):
                return info
        raise UnknownVersionError(f"bank {self._name!r} has no version {reference.selector!r}")

    def _rows(self, info: BankInfo, spec: DrawSpec) -> list[int]:
        stream = range(spec.offset, spec.offset + spec.count)
        labels = spec.labels or tuple(range(len(NAMES)))
        return [
            labels[hashed(spec.seed, j) % len(labels)] * ROWS_PER_CLASS
            + hashed(info.version.digest, spec.seed, j) % ROWS_PER_CLASS
            for j in stream
        ]

    def _snippets(self, info: BankInfo, rows: Sequence[int]) -> Snippets:
        numbers = np.asarray(rows, np.int64)
        return Snippets(
            version=info.version,
            encoder=info.encoder,
            vectors=np.stack([np.full(DIMENSION, row, np.float32) for row in rows]),
            rows=numbers,
            source_ids=numbers + 1000,
            labels=(numbers // ROWS_PER_CLASS).astype(np.int32),
            weights=np.ones(len(numbers)),
        )


def _refuse_what_is_not_taken(task: GenerationTask, info: ModelInfo) -> None:
    given = {"snippet": task.snippets, "label": task.labels}
    kinds = [kind for kind, rows in given.items() if rows is not None]
    if kinds != [kind for kind in given if kind == info.condition]:
        raise InvalidRequestError(f"expected rows of condition {info.condition!r}, found {kinds}")
    count = len(info.classes)
    if task.labels is not None and not -1 <= task.labels.min() <= task.labels.max() < count:
        raise OutOfRangeError(f"expected class ids below {count}, found {task.labels}")
    if info.default_guidance_scale is None and task.guidance_scale not in (None, 1):
        raise InvalidRequestError(f"expected no guidance, found {task.guidance_scale}")


class FakeBackend:
    """Images that are a function of the task and the position alone; 8 x 8, grey.

    Serves ``digits``, which takes snippets, ``sit``, which takes labels, and ``edm2``, which takes
    nothing; the last two can be guided, ``digits`` if given a scale. ``infos`` may be changed.

    ``gate`` stands before every image. ``fail_after`` makes a task fail when it has yielded so
    many. ``tasks`` are all ever accepted; ``running`` those unfinished now; ``stopped`` the ids
    whose iterator was closed early.
    """

    def __init__(self, guidance_scale: float | None = None) -> None:
        self.gate = Gate()
        self.fail_after: tuple[int, GmemError] | None = None
        self.tasks: list[GenerationTask] = []
        self.running: set[str] = set()
        self.stopped: list[str] = []
        self.started = False
        digits = ModelInfo(
            version=version("digits", 7),
            encoder=ENCODER,
            condition="snippet",
            snippet_dimension=DIMENSION,
            image_shape=(8, 8, 1),
            samplers=tuple(EVALUATIONS_PER_STEP),
            default_sampler="heun",
            default_steps=16,
            max_steps=1000,
            default_bank="digits@production",
            default_guidance_scale=guidance_scale,
            aliases=("production",),
        )
        bankless = replace(digits, encoder=None, snippet_dimension=None, default_bank=None)
        sit = replace(
            bankless,
            version=version("sit", 3),
            condition="label",
            classes=tuple(ClassInfo(i, name, (f"n{i:08d}",)) for i, name in enumerate(NAMES)),
            default_guidance_scale=1.5,
        )
        edm2 = replace(
            bankless, version=version("edm2", 2), condition="none", default_guidance_scale=2.0
        )
        self.infos = {info.version.name: info for info in (digits, sit, edm2)}

    @classmethod
    def from_settings(cls, settings: Settings) -> FakeBackend:
        return cls()

    async def start(self) -> None:
        self.started = True

    async def close(self) -> None:
        self.started = False

    async def check(self) -> None:
        await self.gate.passed()

    async def models(self) -> list[ModelInfo]:
        return list(self.infos.values())

    async def describe(self, model: str) -> ModelInfo:
        reference = Reference.parse(model)
        info = self.infos.get(reference.name)
        if info is None:
            raise UnknownModelError(f"expected one of {list(self.infos)}, found {model!r}")
        known = ("production", str(info.version.seq), info.version.digest)
        if reference.selector not in known:
            raise UnknownVersionError(f"model {model!r} has no version {reference.selector!r}")
        return info

    async def generate(self, task: GenerationTask) -> AsyncGenerator[GeneratedImage]:
        _refuse_what_is_not_taken(task, await self.describe(task.model))
        self.tasks.append(task)
        self.running.add(task.id)
        made = 0
        try:
            for position in range(len(task)):
                if self.fail_after is not None and made >= self.fail_after[0]:
                    raise self.fail_after[1]
                await self.gate.passed()
                yield self._image(task, position)
                made += 1
        finally:
            self.running.discard(task.id)
            if made < len(task):
                self.stopped.append(task.id)

    def _image(self, task: GenerationTask, position: int) -> GeneratedImage:
        info = self.infos[Reference.parse(task.model).name]
        scale = info.default_guidance_scale if task.guidance_scale is None else task.guidance_scale
        steps = task.num_steps or info.default_steps
        sampler = task.sampler or info.default_sampler
        facts = (
            None if task.snippets is None else task.snippets[position].tolist(),
            None if task.labels is None else int(task.labels[position]),
            int(task.seeds[position]),
            int(task.indices[position]),
            sampler,
            steps,
            1.0 if scale is None else float(scale),
        )
        generator = np.random.default_rng(hashed(*facts))
        return GeneratedImage(
            position=position,
            pixels=generator.integers(0, 256, info.image_shape, np.uint8),
            model=info.version,
            evaluations=steps * EVALUATIONS_PER_STEP[sampler],
            queue_seconds=0.001,
            denoise_seconds=0.002,
            decode_seconds=0.0005,
        )


class SharedFakeBackend(FakeBackend):
    """One that says it may be shared by several front ends."""

    SHAREABLE = True


class UnhurriedFakeBackend(FakeBackend):
    """One that takes 5 ms for an image, so that something can happen meanwhile."""

    async def generate(self, task: GenerationTask) -> AsyncGenerator[GeneratedImage]:
        async with aclosing(super().generate(task)) as images:
            async for image in images:
                await asyncio.sleep(0.005)
                yield image
