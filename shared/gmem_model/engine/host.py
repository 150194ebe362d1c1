"""Models of a store at work in this process: loading, hot swap, routing of tasks.

A swap loads and tries the new version first, then lets the alias lead to its engine; tasks that
the old engine accepted are finished there. So no task fails, and each image has one version.
"""

from __future__ import annotations

import gc
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import structlog
import torch
from prometheus_client import CollectorRegistry

from gmem_model.engine.engine import Engine, Listener
from gmem_model.engine.fleet import Fleet
from gmem_model.engine.loader import Loader
from gmem_model.engine.metrics import EngineMetrics
from gmem_model.engine.models import describe_model
from gmem_shared.announcements import Announcer, Subscriber
from gmem_shared.errors import (
    GmemError,
    InternalError,
    NotFoundError,
    NotReadyError,
    StorageError,
)
from gmem_shared.settings import EngineSettings, RedisSettings
from gmem_shared.store import Store, Version
from gmem_shared.store.layout import is_alias
from gmem_shared.types import GenerationTask, ModelInfo, Reference, VersionRef

log = structlog.get_logger(__name__)

_JITTER = 0.2


class EngineHost:
    """Routes tasks to one engine per model version. Every method may be called from any thread.

    Args:
        store: Where the model versions are.
        settings: Limits of each engine.
        poll_seconds: How often to look for a moved alias, give or take a fifth.
        default_model: The model to load first; without it the host is not ready.
        registry: Where the metrics live.
        redis: Where moves of aliases are announced, so that one need not wait for a poll.
        rng: Spreads the polls of replicas.
    """

    def __init__(
        self,
        store: Store,
        settings: EngineSettings,
        *,
        poll_seconds: float,
        default_model: str,
        registry: CollectorRegistry,
        redis: RedisSettings | None = None,
        rng: np.random.Generator | None = None,
    ) -> None:
        self._settings = settings
        self._poll_seconds = poll_seconds
        self._default = Reference.parse(default_model)
        self._metrics = EngineMetrics(registry)
        self._rng = rng or np.random.default_rng()
        self._fleet = Fleet(settings.max_models)
        self._loader = Loader(store, settings, self._metrics)
        # One thread loads, so that a version is loaded once however many tasks ask for it; it
        # tries networks out with as many cores as the engines have.
        self._loading = ThreadPoolExecutor(
            1, "model-load", initializer=torch.set_num_threads, initargs=(settings.threads,)
        )
        self._problems: dict[Reference, GmemError] = {}
        self._stopped = threading.Event()
        self._look = threading.Event()
        redis = redis or RedisSettings()
        self._subscriber = Subscriber(redis, "moved", self._look.set)
        self._tell_served = Announcer(redis, "served")
        self._watcher = threading.Thread(target=self._watch, name="model-watch", daemon=True)

    def start(self) -> None:
        """Begin to load the default model and to follow aliases; does not wait for either.

        The modules loaded so far, some 200,000 objects, live as long as the process. Looking
        through them for garbage would hold up every evaluation by a tenth of a second now and then.
        """
        if not gc.get_freeze_count():
            gc.freeze()
        self._watcher.start()
        self._subscriber.start()

    def close(self) -> None:
        """Finish the accepted tasks, for at most ``settings.drain_seconds``, and stop."""
        self._subscriber.close()
        self._stopped.set()
        self._look.set()
        if self._watcher.is_alive():
            self._watcher.join()
        self._loading.shutdown()
        end = time.monotonic() + self._settings.drain_seconds
        for engine in self._fleet.retire_all():
            engine.close(max(0.0, end - time.monotonic()))

    def check(self) -> None:
        """Return when tasks for the default model would be accepted.

        Raises:
            NotReadyError: Says why not.
        """
        engine = self._fleet.find(self._default)
        if engine is None or not engine.alive:
            raise self._not_ready()

    def offer(self, task: GenerationTask, listener: Listener) -> bool:
        """Hand a task to the engine of its model if that is loaded; never waits for the store.

        Returns:
            Whether the task was accepted; if not, `submit` it.

        Raises:
            GmemError: The task is refused; the listener is not called.
        """
        engine = self._fleet.find(Reference.parse(task.model))
        return engine is not None and engine.submit(task, listener)

    def submit(self, task: GenerationTask, listener: Listener) -> None:
        """Hand a task to the engine of its model; blocks while a version is loaded.

        Raises:
            GmemError: The task is refused; the listener is not called.
        """
        reference = Reference.parse(task.model)
        arrived = time.monotonic()
        while not self._engine(reference).submit(
            _after(time.monotonic() - arrived, task), listener
        ):
            self._refuse_if_stopped()

    def prepare(self, model: str) -> None:
        """Load a version unless it is loaded; blocks.

        Raises:
            GmemError: There is none, or it cannot be loaded.
        """
        self._engine(Reference.parse(model))

    def versions(self) -> list[VersionRef]:
        """Return the versions that are loaded."""
        return self._fleet.versions()

    def cancel(self, task_id: str) -> None:
        """Stop a task; ids of ended tasks are ignored."""
        for engine in self._fleet.engines():
            engine.cancel(task_id)

    def describe(self, model: str) -> ModelInfo:
        """Describe a model version, without loading its network.

        Raises:
            NotFoundError: No such model, alias or version.
            NotReadyError: It is the default model and there is none yet.
        """
        return self._describe(Reference.parse(model))

    def models(self) -> list[ModelInfo]:
        """Describe the default version of every model; those that cannot be read are left out."""
        try:
            references = {Reference(name) for name in self._loader.names()}
        except StorageError:
            references = set(self._fleet.followed())
        found = []
        for reference in sorted(references, key=str):
            try:
                found.append(self._describe(reference))
            except GmemError as error:
                log.warning("engine.model.unreadable", model=str(reference), error=error.detail)
        return found

    def _engine(self, reference: Reference) -> Engine:
        engine = self._fleet.find(reference)
        if engine is None:
            self._refuse_if_stopped()
            engine = self._load(reference, self._resolve(reference))
        return engine

    def _refuse_if_stopped(self) -> None:
        if self._stopped.is_set():
            raise NotReadyError("the engine is shutting down", retry_after_seconds=1.0)

    def _resolve(self, reference: Reference) -> Version:
        try:
            return self._loader.resolve(reference)
        except NotFoundError as error:
            if reference == self._default:
                raise self._not_ready(error) from error
            raise

    def _not_ready(self, problem: GmemError | None = None) -> NotReadyError:
        problem = problem or self._problems.get(self._default)
        if problem is None:
            reason = f"model '{self._default}' is being loaded"
        elif isinstance(problem, NotFoundError):
            reason = f"no model '{self._default}' in the store: run `gmem train --preset digits`"
        else:
            reason = f"model '{self._default}' cannot be loaded: {problem.detail}"
        return NotReadyError(reason, retry_after_seconds=self._poll_seconds)

    def _describe(self, reference: Reference) -> ModelInfo:
        engine = self._fleet.find(reference)
        if engine is None:
            version = self._resolve(reference)
            ref, config = version.ref, self._loader.config(version)
        else:
            ref, config = engine.version, engine.config
        followed = {r.selector for r, v in self._fleet.followed().items() if v == ref}
        aliases = tuple(sorted(filter(is_alias, followed | {reference.selector})))
        return describe_model(ref, config, max_steps=self._settings.max_steps, aliases=aliases)

    def _load(self, reference: Reference, version: Version, *, move: bool = False) -> Engine:
        try:
            loading = self._loading.submit(self._lead, reference, version, move=move)
        except RuntimeError as error:  # closed since we looked
            raise NotReadyError("the engine is shutting down", retry_after_seconds=1.0) from error
        return loading.result()

    def _lead(self, reference: Reference, version: Version, *, move: bool) -> Engine:
        """Have a reference lead to a version's engine; with ``move`` even if it leads elsewhere."""
        present = self._fleet.find(reference)
        if present is not None and not move:
            return present
        engine = self._fleet.get(version.ref) or self._loader.load(version)
        follow = is_alias(reference.selector) or reference == self._default
        self._fleet.put(reference, engine, follow=follow)
        if follow:
            self._metrics.model_version.labels(reference.name, reference.selector).set(version.seq)
            self._metrics.swaps.labels(reference.name).inc()
            log.info("engine.version.swapped", model=str(reference), version=str(version.ref))
            self._tell_served()
        return engine

    def _watch(self) -> None:
        while not self._stopped.is_set():
            for reference in {self._default, *self._fleet.followed()}:
                try:
                    self._follow(reference)
                except Exception:  # a defect must not end the watch unnoticed
                    log.exception("engine.follow.failed", model=str(reference))
                    self._problems[reference] = InternalError(
                        "a defect; the log of the engine has the details"
                    )
            self._look.wait(self._poll_seconds * self._rng.uniform(1 - _JITTER, 1 + _JITTER))
            self._look.clear()

    def _follow(self, reference: Reference) -> None:
        """Bring in the version a reference leads to; a failure is logged once, and harmless."""
        try:
            version = self._loader.resolve(reference)
            if self._fleet.followed().get(reference) != version.ref:
                self._load(reference, version, move=True)
            self._problems.pop(reference, None)
        except GmemError as error:
            self._metrics.swap_failures.labels(reference.name).inc()
            before = self._problems.get(reference)
            if before is None or before.detail != error.detail:
                log.warning("engine.alias.stuck", model=str(reference), error=error.detail)
            self._problems[reference] = error


def _after(seconds: float, task: GenerationTask) -> GenerationTask:
    """Return a task as it is when it has waited: its deadline is nearer."""
    if task.deadline_seconds is None:
        return task
    return replace(task, deadline_seconds=task.deadline_seconds - seconds)
