"""Real engine processes: the same images, killed, orphaned, interrupted, swapped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry

from gmem_model.engine.host import EngineHost
from gmem_model.engine.pool.pool import EnginePool
from gmem_model.engine.pool.process import CHILD
from gmem_shared.errors import NotReadyError
from gmem_shared.settings import EngineSettings
from gmem_shared.store import Store
from gmem_shared.types import GenerationTask
from tests.support.backends import engine_pool
from tests.support.engine import Recorder, eventually, make_task
from tests.support.models import publish_tiny_model

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def store(folder: Path) -> Store:
    store = Store.from_url(str(folder), cache_dir=folder / "cache")
    publish_tiny_model(store)
    return store


@pytest.fixture(scope="module")
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture(scope="module")
def pool(store: Store, folder: Path, registry: CollectorRegistry) -> Iterator[EnginePool]:
    pool = engine_pool(str(folder), folder / "cache", registry=registry)
    pool.start()
    eventually(lambda: all_ready(pool))
    yield pool
    running = engine_processes(of=pool)
    pool.close()
    assert not any(process.is_running() for process in running)


def all_ready(pool: EnginePool) -> bool:
    processes = list(pool._processes.values())
    return len(processes) == 2 and all(process.ready for process in processes)


def engine_processes(
    parent: psutil.Process | None = None, *, of: EnginePool | None = None
) -> list[psutil.Process]:
    """The children of this process, or of another, that run engines; or those of a pool."""
    if of is not None:
        return [psutil.Process(process._process.pid) for process in of._processes.values()]
    return [child for child in (parent or psutil.Process()).children() if CHILD in child.cmdline()]


def pinned(pool: EnginePool, n: int, **changes: object) -> GenerationTask:
    digest = pool.describe("tiny").version.digest
    return make_task(n, **{"model": f"tiny@{digest}"} | changes)


def generate(pool: EnginePool | EngineHost, task: GenerationTask) -> Recorder:
    recorder = Recorder()
    pool.submit(task, recorder)
    return recorder


def test_a_divided_task_gives_the_images_of_a_whole_one(pool: EnginePool, store: Store) -> None:
    host = EngineHost(
        store,
        EngineSettings(),
        poll_seconds=60.0,
        default_model="tiny@production",
        registry=CollectorRegistry(),
    )
    task = pinned(pool, 50)
    try:
        assert generate(pool, task).pixels() == generate(host, task).pixels()
    finally:
        host.close()


def settled(value: Callable[[], float]) -> float:
    """A metric once the processes, which tell theirs every second, have told all."""
    last = value()
    while True:
        time.sleep(2.0)
        if value() == last:
            return last
        last = value()


def test_all_processes_share_the_work_and_their_metrics_add_up(
    pool: EnginePool, registry: CollectorRegistry
) -> None:
    def evaluated() -> float:
        return registry.get_sample_value("gmem_engine_evaluation_rows_sum") or 0.0

    before = settled(evaluated)
    busy = [process.cpu_times().user for process in engine_processes(of=pool)]
    generate(pool, pinned(pool, 400, sampler="euler", num_steps=10)).pixels()
    eventually(lambda: evaluated() == before + 4000)
    after = [process.cpu_times().user for process in engine_processes(of=pool)]
    assert all(late > early for early, late in zip(busy, after, strict=True))


def test_rows_of_a_cancelled_task_leave_every_process(
    pool: EnginePool, registry: CollectorRegistry
) -> None:
    task = pinned(pool, 4000, num_steps=100)
    recorder = generate(pool, task)
    eventually(lambda: len(recorder.images) > 0)
    pool.cancel(task.id)
    recorder.wait()
    names = ("gmem_engine_rows_waiting", "gmem_engine_rows_running")
    eventually(lambda: not any(registry.get_sample_value(name) for name in names))
    assert generate(pool, pinned(pool, 20)).pixels()


def test_a_killed_process_fails_its_tasks_and_is_replaced(
    pool: EnginePool, registry: CollectorRegistry
) -> None:
    count = registry.get_sample_value("gmem_engine_evaluation_rows_count")
    divided = generate(pool, pinned(pool, 4000, num_steps=100))
    eventually(lambda: len(divided.images) > 0)
    victim, _ = engine_processes(of=pool)
    victim.kill()
    assert isinstance(divided.wait().error, NotReadyError)
    pool.check()
    assert generate(pool, pinned(pool, 20)).pixels()
    assert count is not None
    assert (registry.get_sample_value("gmem_engine_evaluation_rows_count") or 0) >= count
    eventually(lambda: all_ready(pool))
    assert generate(pool, pinned(pool, 20)).pixels()


def test_a_swap_leaves_no_task_of_two_versions(pool: EnginePool, store: Store) -> None:
    before = pool.describe("tiny").version
    newer = publish_tiny_model(store, seed=1)
    recorders = []
    while pool.describe("tiny").version.seq != newer.seq:
        recorders.append(generate(pool, pinned(pool, 16)))
    recorders.append(generate(pool, pinned(pool, 16)))
    for recorder in recorders:
        recorder.pixels()
        assert len({image.model for image in recorder.images}) == 1
    versions = [recorder.images[0].model.seq for recorder in recorders]
    assert versions == sorted(versions)
    assert versions[-1] == newer.seq == before.seq + 1


PARENT = """
import signal, sys, time
from pathlib import Path
from tests.support.backends import engine_pool
from tests.support.engine import Recorder, eventually, is_ready, make_task

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background ignore it
    pool = engine_pool(sys.argv[1], Path(sys.argv[1]) / "cache")
    pool.start()
    eventually(lambda: is_ready(pool))
    recorder = Recorder()
    pool.submit(make_task(2000, num_steps=20), recorder)
    eventually(lambda: len(recorder.images) > 0)
    try:
        print("working", flush=True)
        time.sleep(600)
    except KeyboardInterrupt:
        pool.close()
        print(len(recorder.pixels()), flush=True)
"""


@pytest.fixture
def parent(store: Store, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process with a pool at work, leader of its own group."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(folder)],
        env=os.environ | {"PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "working\n"
    yield process
    process.kill()
    process.communicate()


def test_no_process_outlives_its_parent(parent: subprocess.Popen[str]) -> None:
    children = engine_processes(psutil.Process(parent.pid))
    assert len(children) == 2
    parent.kill()
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_ctrl_c_reaches_the_parent_alone_who_lets_tasks_finish(
    parent: subprocess.Popen[str],
) -> None:
    os.killpg(parent.pid, signal.SIGINT)
    said, _ = parent.communicate(timeout=120)
    assert said == "2000\n"
    assert parent.returncode == 0
