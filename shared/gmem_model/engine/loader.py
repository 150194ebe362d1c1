"""Model versions out of the store: resolved, verified, built, tried out."""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy

import structlog

from gmem_model.decoding import Decoder
from gmem_model.engine.engine import Engine
from gmem_model.engine.metrics import EngineMetrics
from gmem_model.engine.models import measure, open_network, read_config, try_out
from gmem_model.engine.pace import Pace
from gmem_model.engine.runtimes import prepare
from gmem_model.guidance import GuidedNetwork
from gmem_shared.errors import GmemError, InternalError, StorageError, copy_of
from gmem_shared.model_config import ModelConfig
from gmem_shared.settings import EngineSettings
from gmem_shared.store import Repository, Store, Version
from gmem_shared.types import Reference, VersionRef

log = structlog.get_logger(__name__)

REFUSED_SECONDS = 30.0
"""How long a version that could not be loaded is left alone."""


class Loader:
    """Reads models of one store. Resolving and reading is thread-safe, loading is not."""

    def __init__(
        self,
        store: Store,
        settings: EngineSettings,
        metrics: EngineMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._clock = clock
        self._repositories: dict[str, Repository] = {}
        self._configs: dict[VersionRef, ModelConfig] = {}
        self._refused: dict[VersionRef, tuple[float, GmemError]] = {}
        self._paces: dict[str, Pace] = {}  # by architecture

    def names(self) -> list[str]:
        """List the models of the store."""
        return self._store.names("models")

    def repository(self, name: str) -> Repository:
        """Return a model's versions; the same object each time, as it remembers what it listed."""
        repository = self._repositories.get(name)
        return repository or self._store.repository("models", name)

    def resolve(self, reference: Reference) -> Version:
        """Return the version that a reference leads to now.

        Raises:
            NotFoundError: No such model, alias or version.
            StorageError: The store does not answer.
        """
        repository = self.repository(reference.name)
        version = repository.resolve(reference.selector)
        self._repositories[reference.name] = repository  # only now: callers may invent names
        return version

    def config(self, version: Version) -> ModelConfig:
        """Return a version's configuration.

        Raises:
            CorruptVersionError: The version's files are not the published ones.
        """
        if version.ref not in self._configs:
            opened = self.repository(version.name).open(version)
            self._configs[version.ref] = read_config(opened)
        return self._configs[version.ref]

    def load(self, version: Version) -> Engine:
        """Return a started engine.

        A version that failed is not tried again for `REFUSED_SECONDS`: verifying it costs time.

        Raises:
            GmemError: The version cannot be served.
            StorageError: The store does not answer.
        """
        until, refusal = self._refused.get(version.ref, (0.0, None))
        if refusal is not None and self._clock() < until:
            raise copy_of(refusal)
        try:
            engine = self._build(version)
        except StorageError:
            raise
        except Exception as error:  # whatever is wrong with a version, what runs goes on
            log.exception("engine.version.refused", version=str(version.ref))
            refusal = error if isinstance(error, GmemError) else InternalError(repr(error))
            self._refused[version.ref] = (self._clock() + REFUSED_SECONDS, refusal)
            raise refusal from error
        engine.start()
        return engine

    def _build(self, version: Version) -> Engine:
        opened = self.repository(version.name).open(version)
        config = read_config(opened)
        network = prepare(open_network(opened, config), self._settings)
        invariant = try_out(network, config, version.ref)
        if not invariant:
            log.info("engine.batch.not_invariant", model=str(version.ref))
        return Engine(
            network,
            Decoder.open(opened, config, network.network.device),
            config,
            version.ref,
            self._settings,
            self._metrics,
            self._pace(network),
            invariant=invariant,
        )

    def _pace(self, network: GuidedNetwork) -> Pace:
        """Return what is known of the time of evaluations before the first one.

        Measuring takes a core from those that are served, so it is done once per architecture.
        """
        architecture = network.network.architecture.model_dump_json()
        if architecture not in self._paces:
            self._paces[architecture] = measure(network, self._settings)
        return copy(self._paces[architecture])
