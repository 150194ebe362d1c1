"""The engine loop with a real, small network."""

from __future__ import annotations

import gc
import random
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from torch import Tensor

from gmem_model.engine.engine import Engine
from gmem_model.samplers import samplers_of
from gmem_shared.errors import (
    CancelledError,
    ConflictError,
    DeadlineExceededError,
    EncoderMismatchError,
    GmemError,
    InternalError,
    InvalidRequestError,
    NotReadyError,
    OverloadedError,
    UnknownSamplerError,
)
from gmem_shared.model_config import Interpolant
from gmem_shared.types import GeneratedImage, GenerationTask, VersionRef
from tests.support.engine import (
    PATIENCE_SECONDS,
    EngineMaker,
    Recorder,
    SteppedNetwork,
    eventually,
    first_row_not_finite,
    make_task,
)
from tests.support.models import label_config

SAMPLERS = samplers_of(Interpolant())


def start(engine: Engine, task: GenerationTask) -> Recorder:
    recorder = Recorder()
    assert engine.submit(task, recorder)
    return recorder


def mixed(count: int, seed: int = 0) -> list[GenerationTask]:
    rng = random.Random(seed)
    return [
        make_task(
            n=rng.randint(1, 3),
            seed=rng.randrange(2**40),
            sampler=rng.choice(SAMPLERS),
            num_steps=rng.randint(1, 12),
            priority=rng.choice(["interactive", "batch"]),
        )
        for _ in range(count)
    ]


def gauges(registry: CollectorRegistry) -> tuple[float | None, float | None]:
    return (
        registry.get_sample_value("gmem_engine_rows_waiting"),
        registry.get_sample_value("gmem_engine_rows_running"),
    )


def test_a_task_gives_each_image_once_with_version_and_cost(make_engine: EngineMaker) -> None:
    recorder = start(make_engine(), make_task(n=5, sampler="heun", num_steps=4)).wait()
    assert len(recorder.pixels()) == 5
    for image in recorder.images:
        assert image.pixels.shape == (8, 8, 1)
        assert image.model == VersionRef("tiny", 1, "sha256-00")
        assert image.evaluations == 7
        assert min(image.queue_seconds, image.denoise_seconds, image.decode_seconds) >= 0


def test_the_models_own_sampler_and_steps_are_the_default(make_engine: EngineMaker) -> None:
    engine = make_engine()
    implied = start(engine, make_task(seed=3))
    explicit = start(engine, make_task(seed=3, sampler="ab2", num_steps=4))
    assert implied.pixels() == explicit.pixels()


def test_another_seed_gives_another_image(make_engine: EngineMaker) -> None:
    engine = make_engine()
    task = make_task(seed=1)
    other = make_task(snippets=task.snippets, seeds=np.array([2], np.uint64))
    assert start(engine, task).pixels() != start(engine, other).pixels()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_images_are_the_same_alone_and_among_64_others(
    make_engine: EngineMaker, sampler: str
) -> None:
    def task() -> GenerationTask:
        return make_task(n=4, seed=11, sampler=sampler, num_steps=9)

    alone = start(make_engine(max_rows=1), task()).pixels()
    engine = make_engine(max_rows=64)
    others = [start(engine, other) for other in mixed(40)]
    among = start(engine, task())
    others += [start(engine, other) for other in mixed(20, seed=1)]
    assert among.pixels() == alone
    for other in others:
        assert other.pixels()


def test_rows_of_different_samplers_share_one_evaluation(make_engine: EngineMaker) -> None:
    network = SteppedNetwork()
    engine = make_engine(network)
    first = start(engine, make_task())
    network.wait_until_begun()
    rest = [start(engine, make_task(sampler=name, num_steps=3)) for name in SAMPLERS]
    network.allow(1000)
    for recorder in (first, *rest):
        assert recorder.pixels()
    assert network.rows[1] == 1 + len(SAMPLERS)


def labelled(**changes: Any) -> GenerationTask:
    labels = np.array([1], np.int32)
    return make_task(**{"snippets": None, "encoder": None, "labels": labels} | changes)


BATCHINGS = ("continuous", "grouped", "dynamic", "one_at_a_time")


def test_every_way_to_batch_gives_the_same_images(make_engine: EngineMaker) -> None:
    images = []
    for batching in BATCHINGS:
        engine = make_engine(max_rows=8, batching=batching, batch_window_ms=1)
        images.append([start(engine, task) for task in mixed(12, seed=3)])
    continuous, *others = ([recorder.pixels() for recorder in each] for each in images)
    for other in others:
        assert other == continuous


def test_a_dynamic_batch_of_one_task_starts_after_its_window(make_engine: EngineMaker) -> None:
    recorder = start(make_engine(batching="dynamic", batch_window_ms=20), make_task()).wait()
    assert recorder.images[0].queue_seconds >= 0.02


def test_a_task_decides_how_strongly_it_is_guided(make_engine: EngineMaker) -> None:
    engine = make_engine(config=label_config())
    scales = (None, 1.5, 1.0, 4.0)
    tasks = [start(engine, labelled(guidance_scale=scale)) for scale in scales]
    default, same, unguided, strong = (task.pixels() for task in tasks)
    assert default == same
    assert len({*default, *unguided, *strong}) == 3


def test_evaluations_of_the_reference_are_counted(make_engine: EngineMaker) -> None:
    engine = make_engine(config=label_config())
    guided, unguided = (
        start(engine, labelled(guidance_scale=scale)).wait() for scale in (2.0, 1.0)
    )
    (twice,), (once,) = guided.images, unguided.images
    assert twice.evaluations == 2 * once.evaluations


def test_what_the_model_cannot_do_is_refused(make_engine: EngineMaker) -> None:
    engine = make_engine()
    for sampler in ("dopri5", "rk4", "stochastic-heun"):
        with pytest.raises(UnknownSamplerError, match=f"euler-maruyama; found '{sampler}'"):
            start(engine, make_task(sampler=sampler))
    with pytest.raises(InvalidRequestError, match="cannot be guided; found 2"):
        start(engine, make_task(guidance_scale=2.0))


def test_a_cancelled_task_is_in_no_later_evaluation(make_engine: EngineMaker) -> None:
    network = SteppedNetwork()
    engine = make_engine(network, max_rows=8)
    doomed_task = make_task(n=7, num_steps=1000)
    doomed = start(engine, doomed_task)
    network.wait_until_begun()
    network.allow()
    network.wait_until_begun()
    engine.cancel(doomed_task.id)
    heir = start(engine, make_task(n=2, num_steps=3))
    network.allow(1000)
    assert isinstance(doomed.wait().error, CancelledError)
    assert doomed.images == []
    assert len(heir.pixels()) == 2
    assert network.rows == [7, 7, 2, 2, 2]


def test_evaluations_of_cancelled_rows_are_counted_as_wasted(
    make_engine: EngineMaker, registry: CollectorRegistry
) -> None:
    network = SteppedNetwork()
    engine = make_engine(network, max_rows=8)
    task = make_task(n=7, num_steps=1000)
    recorder = start(engine, task)
    for _ in range(3):
        network.wait_until_begun()
        network.allow()
    network.wait_until_begun()
    engine.cancel(task.id)
    network.allow()
    recorder.wait()
    assert start(engine, make_task(num_steps=1)) is not None
    network.allow()
    engine.close(drain_seconds=PATIENCE_SECONDS)
    wasted = "gmem_engine_wasted_evaluations_total"
    assert registry.get_sample_value(wasted, {"reason": "cancelled"}) == 7 * 4


def test_a_running_task_fails_at_its_deadline(
    make_engine: EngineMaker, registry: CollectorRegistry
) -> None:
    engine = make_engine()
    recorder = start(engine, make_task(n=2, num_steps=1000, deadline_seconds=1e-3)).wait()
    assert isinstance(recorder.error, DeadlineExceededError)
    assert gauges(registry) == (0, 0)


def test_a_waiting_task_fails_at_its_deadline(make_engine: EngineMaker) -> None:
    network = SteppedNetwork()
    engine = make_engine(network, max_rows=1)
    running = start(engine, make_task(num_steps=2))
    network.wait_until_begun()
    waiting = start(engine, make_task(deadline_seconds=1e-9))
    network.allow(1000)
    assert isinstance(waiting.wait().error, DeadlineExceededError)
    assert running.pixels()
    assert sum(network.rows) == 2


def test_a_failing_evaluation_fails_its_tasks_and_the_engine_lives_on(
    make_engine: EngineMaker, registry: CollectorRegistry
) -> None:
    network = SteppedNetwork()
    network.allow(10_000)
    engine = make_engine(network)

    def explode(velocity: Tensor) -> Tensor:
        network.spoil = lambda unchanged: unchanged
        raise RuntimeError("out of luck")

    network.spoil = explode
    recorder = start(engine, make_task(n=3)).wait()
    assert isinstance(recorder.error, InternalError)
    assert "out of luck" in recorder.error.detail
    assert len(start(engine, make_task(n=64)).pixels()) == 64
    assert gauges(registry) == (0, 0)


def test_a_row_that_is_not_finite_fails_its_task_only(make_engine: EngineMaker) -> None:
    network = SteppedNetwork()
    engine = make_engine(network)
    blocker = start(engine, make_task(num_steps=1))
    network.wait_until_begun()
    bad = start(engine, make_task(num_steps=2))
    good = start(engine, make_task(seed=5, num_steps=2))
    network.allow()
    network.wait_until_begun()

    def spoil_once(velocity: Tensor) -> Tensor:
        network.spoil = lambda unchanged: unchanged
        return first_row_not_finite(velocity)

    network.spoil = spoil_once
    network.allow(1000)
    assert isinstance(bad.wait().error, InternalError)
    assert "NaN or infinite" in bad.error.detail
    assert good.pixels() == start(make_engine(), make_task(seed=5, num_steps=2)).pixels()
    assert blocker.pixels()


class Thrower(Recorder):
    def image(self, image: GeneratedImage) -> None:
        raise ValueError("not today")


def test_a_broken_listener_harms_no_other_task(make_engine: EngineMaker) -> None:
    engine = make_engine()
    thrower = Thrower()
    engine.submit(make_task(n=3), thrower)
    other = start(engine, make_task(n=3))
    assert len(other.pixels()) == 3
    assert isinstance(thrower.wait().error, InternalError)
    assert thrower.endings == 1


def test_a_full_queue_refuses_with_a_time_to_come_back(make_engine: EngineMaker) -> None:
    network = SteppedNetwork()
    engine = make_engine(network, max_rows=1, max_waiting_rows=2)
    start(engine, make_task())
    network.wait_until_begun()
    start(engine, make_task(n=2))
    with pytest.raises(OverloadedError) as refusal:
        engine.submit(make_task(), Recorder())
    assert refusal.value.retry_after_seconds is not None
    network.allow(1000)


def test_an_unfinished_id_is_refused(make_engine: EngineMaker) -> None:
    network = SteppedNetwork()
    engine = make_engine(network)
    first = start(engine, make_task(id="same"))
    with pytest.raises(ConflictError):
        engine.submit(make_task(id="same"), Recorder())
    network.allow(1000)
    assert first.pixels()


def test_snippets_of_another_encoder_are_refused_naming_both(make_engine: EngineMaker) -> None:
    with pytest.raises(EncoderMismatchError, match=r"test-encoder.*other-encoder"):
        make_engine().submit(make_task(encoder="other-encoder"), Recorder())


def test_closing_finishes_what_was_accepted_and_accepts_nothing_more(
    make_engine: EngineMaker,
) -> None:
    engine = make_engine(max_rows=4)
    recorders = [start(engine, task) for task in mixed(10)]
    engine.close(drain_seconds=PATIENCE_SECONDS)
    for recorder in recorders:
        assert recorder.pixels()
    assert not engine.alive
    assert not engine.submit(make_task(), Recorder())


def test_closing_without_patience_fails_what_is_left(make_engine: EngineMaker) -> None:
    engine = make_engine(max_rows=1)
    recorder = start(engine, make_task(n=500, num_steps=1000))
    engine.close(drain_seconds=0)
    assert isinstance(recorder.wait().error, NotReadyError)


def test_a_cancellation_between_schedule_and_evaluation_harms_no_other_task(
    make_engine: EngineMaker, registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = SteppedNetwork()
    engine = make_engine(network)
    doomed_task = make_task(num_steps=1000)
    doomed, other = start(engine, doomed_task), start(engine, make_task(num_steps=4))
    network.wait_until_begun()
    schedule = engine._schedule

    def schedule_and_cancel() -> object:
        scheduled = schedule()
        engine.cancel(doomed_task.id)
        return scheduled

    monkeypatch.setattr(engine, "_schedule", schedule_and_cancel)
    network.allow(1000)
    assert isinstance(doomed.wait().error, CancelledError)
    assert len(other.pixels()) == 1
    engine.close(drain_seconds=PATIENCE_SECONDS)
    assert gauges(registry) == (0, 0)


def test_an_abort_storm_ends_every_task_once_and_leaves_no_rows(
    make_engine: EngineMaker, registry: CollectorRegistry
) -> None:
    engine = make_engine(max_rows=16)
    recorders: list[Recorder] = []

    def client(seed: int) -> None:
        rng = random.Random(seed)
        for task in mixed(25, seed):
            recorders.append(start(engine, task))
            if rng.random() < 0.7:
                for _ in range(rng.randint(1, 2)):
                    engine.cancel(task.id)

    run_together([lambda seed=seed: client(seed) for seed in range(4)])
    errors: set[type[GmemError] | None] = set()
    for recorder in recorders:
        error = recorder.wait().error
        errors.add(None if error is None else type(error))
    assert errors == {None, CancelledError}
    engine.close(drain_seconds=PATIENCE_SECONDS)
    assert {recorder.endings for recorder in recorders} == {1}
    assert gauges(registry) == (0, 0)


def test_nothing_is_kept_of_tasks_that_have_ended(make_engine: EngineMaker) -> None:
    engine = make_engine(max_rows=8)
    names = {f"forgotten-{number}" for number in range(6)}

    def use() -> None:
        recorders = [start(engine, make_task(id=name, num_steps=40)) for name in sorted(names)]
        engine.cancel("forgotten-0")
        engine.cancel("forgotten-5")
        for recorder in recorders:
            recorder.wait()

    def is_forgotten() -> bool:
        gc.collect()
        tasks = (each for each in gc.get_objects() if type(each) is GenerationTask)
        return not any(task.id in names for task in tasks)

    use()
    # What was dropped during an evaluation is let go of before the next.
    start(engine, make_task(num_steps=1)).wait()
    eventually(is_forgotten)


def run_together(calls: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()
