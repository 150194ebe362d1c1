"""What is said arrives as it was said."""

from __future__ import annotations

import multiprocessing
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from gmem_model.engine.metrics import EngineMetrics
from gmem_model.engine.pool.messages import Failed, Finished, Metrics, State, Submit
from gmem_model.engine.pool.outbox import Outbox
from gmem_shared.errors import GmemError, error_classes
from gmem_shared.types import GeneratedImage, VersionRef
from tests.support.engine import make_task

VERSION = VersionRef("tiny", 1, "sha256-0")


def passed(*messages: object) -> list[Any]:
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        outbox = Outbox(ours)
        for message in messages:
            outbox.put(message)
        received: list[Any] = []
        while len(received) < len(messages):
            received += theirs.recv()
        outbox.close()
    return received


def test_a_task_arrives_whole_and_its_arrays_can_be_written() -> None:
    task = make_task(3, num_steps=5, deadline_seconds=1.5, priority="batch")
    arrived = passed(Submit(task))[0].task
    for field in fields(task):
        sent, got = getattr(task, field.name), getattr(arrived, field.name)
        if isinstance(sent, np.ndarray):
            assert got.dtype == sent.dtype
            assert np.array_equal(got, sent)
            assert got.flags.writeable
        else:
            assert got == sent


def test_an_image_arrives_with_its_pixels() -> None:
    pixels = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    image = GeneratedImage(2, pixels, VERSION, 9, 0.1, 0.2, 0.3)
    arrived = passed(Finished("a#1", image))[0].image
    assert np.array_equal(arrived.pixels, pixels)
    assert (arrived.position, arrived.model, arrived.evaluations) == (2, VERSION, 9)
    assert (arrived.queue_seconds, arrived.denoise_seconds, arrived.decode_seconds) == (
        0.1,
        0.2,
        0.3,
    )


@pytest.mark.parametrize("kind", error_classes())
def test_every_error_arrives_as_it_was(kind: type[GmemError]) -> None:
    error = kind("why", errors=[{"field": "f", "message": "m"}], retry_after_seconds=2.5)
    arrived = passed(Failed("a#1", error))[0].error
    assert type(arrived) is kind
    assert (arrived.detail, arrived.errors, arrived.retry_after_seconds) == (
        "why",
        [{"field": "f", "message": "m"}],
        2.5,
    )


def test_messages_keep_their_order_however_many_there_are() -> None:
    states = [State(str(number), frozenset({VERSION})) for number in range(1000)]
    assert passed(*states) == states


def test_metrics_arrive() -> None:
    registry = CollectorRegistry()
    EngineMetrics(registry).swaps.labels("tiny").inc(3)
    families = passed(Metrics(list(registry.collect())))[0].families
    samples = {sample.name: sample.value for family in families for sample in family.samples}
    assert samples["gmem_engine_swaps_total"] == 3


def test_nobody_waits_when_the_other_side_is_gone() -> None:
    ours, theirs = multiprocessing.Pipe()
    theirs.close()
    outbox = Outbox(ours)
    for _ in range(1000):
        outbox.put(State(None, frozenset()))
    outbox.close()
    ours.close()
