"""Models of a real store, loaded, swapped and refused while tasks run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry

from gmem_model.engine.host import EngineHost
from gmem_model.engine.loader import Loader
from gmem_shared.errors import (
    GmemError,
    NotFoundError,
    NotReadyError,
    StorageError,
    UnknownModelError,
    UnknownSamplerError,
    UnknownVersionError,
    UntrustedVersionError,
)
from gmem_shared.settings import EngineSettings, StoreSettings
from gmem_shared.store import Repository, Store, Version
from gmem_shared.store.signing import make_keys
from tests.support.engine import PATIENCE_SECONDS, Recorder, eventually, is_ready, make_task
from tests.support.models import publish_tiny_model, tiny_config, tiny_network

HostMaker = Callable[..., EngineHost]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.from_url(str(tmp_path / "store"), cache_dir=tmp_path / "cache")


@pytest.fixture
def make_host(store: Store) -> Iterator[HostMaker]:
    hosts: list[EngineHost] = []

    def make(ready: bool = True, store: Store = store, **settings: Any) -> EngineHost:
        host = EngineHost(
            store,
            EngineSettings(**settings),
            poll_seconds=0.02,
            default_model="tiny@production",
            registry=CollectorRegistry(),
        )
        hosts.append(host)
        host.start()
        if ready:
            eventually(lambda: is_ready(host))
        return host

    yield make
    for host in hosts:
        host.close()


def generate(host: EngineHost, **task: Any) -> Recorder:
    recorder = Recorder()
    host.submit(make_task(**task), recorder)
    return recorder


def served(host: EngineHost, model: str = "tiny") -> int:
    return host.describe(model).version.seq


def engine_threads() -> list[str]:
    names = [thread.name for thread in threading.enumerate()]
    return sorted(name for name in names if name.startswith("engine-tiny@"))


def flip_a_byte_of_the_weights(store_root: Path, version: Version) -> None:
    digest = version.manifest.files["network.safetensors"].sha256
    (blob,) = store_root.rglob(f"*{digest}")
    blob.chmod(0o644)
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)


def test_an_empty_store_is_not_ready_and_says_what_to_do(make_host: HostMaker) -> None:
    host = make_host(ready=False)
    for refused in (host.check, lambda: generate(host), lambda: host.describe("tiny")):
        with pytest.raises(NotReadyError, match="tiny@production"):
            refused()
    with pytest.raises(NotReadyError, match="run `gmem train --preset digits`"):
        generate(host)


def test_the_host_becomes_ready_when_the_model_is_published(
    make_host: HostMaker, store: Store
) -> None:
    host = make_host(ready=False)
    publish_tiny_model(store)
    eventually(lambda: is_ready(host))
    assert len(generate(host, n=3).pixels()) == 3


def test_the_same_task_gives_the_same_bytes_after_a_restart(
    make_host: HostMaker, store: Store
) -> None:
    publish_tiny_model(store)
    first = make_host()
    before = generate(first, n=5, seed=9).pixels()
    first.close()
    assert generate(make_host(), n=5, seed=9).pixels() == before


def test_a_copy_fetched_from_a_remote_store_gives_the_same_bytes(
    make_host: HostMaker, store: Store, tmp_path: Path
) -> None:
    remote = Store.from_url("memory://engine-host", cache_dir=tmp_path / "fetched")
    publish_tiny_model(store)
    publish_tiny_model(remote)
    local_pixels = generate(make_host(), n=2).pixels()
    assert generate(make_host(store=remote), n=2).pixels() == local_pixels


def test_numbers_and_digests_load_on_demand(make_host: HostMaker, store: Store) -> None:
    old = publish_tiny_model(store, seed=1)
    new = publish_tiny_model(store, seed=2)
    host = make_host()
    for reference in ("tiny@1", f"tiny@{old.digest}"):
        (image,) = generate(host, model=reference).wait().images
        assert image.model == old.ref
    (image,) = generate(host).wait().images
    assert image.model == new.ref


def test_a_version_may_be_loaded_before_it_is_asked_for(make_host: HostMaker, store: Store) -> None:
    old = publish_tiny_model(store, seed=1)
    new = publish_tiny_model(store, seed=2)
    host = make_host()
    assert host.versions() == [new.ref]
    host.prepare("tiny@1")
    assert set(host.versions()) == {old.ref, new.ref}
    assert host.offer(make_task(model="tiny@1"), Recorder())


def test_versions_asked_for_are_loaded_once_and_kept_up_to_a_limit(
    make_host: HostMaker, store: Store
) -> None:
    for seed in range(4):
        publish_tiny_model(store, seed=seed)
    host = make_host(max_models=2)
    recorders: list[Recorder] = []

    def ask(seq: int) -> None:
        recorders.append(generate(host, model=f"tiny@{seq}"))

    threads = [threading.Thread(target=ask, args=(1,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
    assert engine_threads() == ["engine-tiny@1", "engine-tiny@4"]
    ask(2)
    ask(3)
    for recorder in recorders:
        assert recorder.pixels()
    eventually(lambda: engine_threads() == [f"engine-tiny@{seq}" for seq in (2, 3, 4)])


def test_unknown_names_versions_and_samplers_are_refused_at_once(
    make_host: HostMaker, store: Store
) -> None:
    publish_tiny_model(store)
    host = make_host()
    with pytest.raises(UnknownModelError):
        generate(host, model="nobody")
    with pytest.raises(UnknownVersionError):
        generate(host, model="tiny@7")
    with pytest.raises(NotFoundError):
        generate(host, model="tiny@staging")
    with pytest.raises(UnknownSamplerError):
        generate(host, sampler="magic")


def test_a_model_says_what_a_front_end_needs(make_host: HostMaker, store: Store) -> None:
    publish_tiny_model(store)
    publish_tiny_model(store, name="other")
    host = make_host(max_steps=123)
    info = host.describe("tiny")
    assert (info.encoder, info.snippet_dimension) == ("test-encoder", 64)
    assert info.image_shape == (8, 8, 1)
    assert (info.default_sampler, info.default_steps, info.max_steps) == ("ab2", 4, 123)
    assert info.default_bank == "tiny@production"
    assert info.aliases == ("production",)
    listed = [(model.version.name, model.aliases) for model in host.models()]
    assert listed == [("other", ("production",)), ("tiny", ("production",))]
    assert host.describe("other@1").aliases == ()
    assert engine_threads() == ["engine-tiny@1"]


def test_swaps_under_load_fail_nothing_and_mix_no_versions(
    make_host: HostMaker, store: Store
) -> None:
    versions = [publish_tiny_model(store, seed=seed, alias=None) for seed in range(4)]
    repository = store.repository("models", "tiny")
    repository.set_alias("production", versions[0])
    host = make_host()
    expected = {
        version.ref: generate(host, n=6, seed=1, num_steps=8, model=f"tiny@{version.seq}").pixels()
        for version in versions
    }
    recorders: list[Recorder] = []
    stop = threading.Event()

    def client() -> None:
        while not stop.is_set():
            recorders.append(generate(host, n=6, seed=1, num_steps=8).wait())

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    for version in [*versions[1:], *versions[:-1]]:
        repository.set_alias("production", version)
        eventually(lambda seq=version.seq: served(host) == seq)  # type: ignore[misc]
        before = len(recorders)
        eventually(lambda before=before: len(recorders) > before + 4)  # type: ignore[misc]
    stop.set()
    for thread in clients:
        thread.join(PATIENCE_SECONDS)
    for recorder in recorders:
        (version_ref,) = {image.model for image in recorder.images}
        assert recorder.pixels() == expected[version_ref]
    assert {recorder.images[0].model for recorder in recorders} == set(expected)


def test_the_old_engine_ends_after_a_swap(make_host: HostMaker, store: Store) -> None:
    publish_tiny_model(store, seed=1)
    host = make_host()
    slow = generate(host, n=64, num_steps=100)
    publish_tiny_model(store, seed=2)
    eventually(lambda: served(host) == 2)
    assert {image.model.seq for image in slow.wait().images} == {1}
    assert slow.error is None
    eventually(lambda: engine_threads() == ["engine-tiny@2"])


def test_a_corrupt_version_is_refused_while_the_old_one_serves(
    make_host: HostMaker, store: Store, tmp_path: Path
) -> None:
    publish_tiny_model(store, seed=1)
    host = make_host()
    corrupt = publish_tiny_model(store, seed=2, alias=None)
    flip_a_byte_of_the_weights(tmp_path / "store", corrupt)
    store.repository("models", "tiny").set_alias("production", corrupt)
    with pytest.raises(GmemError, match=r"network\.safetensors"):
        generate(host, model="tiny@2")
    publish_tiny_model(store, seed=3, alias="staging")
    eventually(lambda: served(host, "tiny@staging") == 3)
    assert served(host) == 1
    host.check()
    assert generate(host, n=2).pixels()


def test_a_version_that_nobody_trusted_signed_is_refused_while_the_old_one_serves(
    make_host: HostMaker, store: Store, tmp_path: Path
) -> None:
    make_keys(tmp_path / "key")
    trusting = Store.from_settings(
        StoreSettings(
            url=str(tmp_path / "store"),
            cache_dir=tmp_path / "cache",
            signing_key_file=tmp_path / "key",
            trusted_keys_file=tmp_path / "key.pub",
        )
    )
    publish_tiny_model(trusting, seed=1)
    host = make_host(store=trusting)
    publish_tiny_model(store, seed=2)
    with pytest.raises(UntrustedVersionError, match="trusted keys"):
        generate(host, model="tiny@2")
    publish_tiny_model(trusting, seed=3, alias="staging")
    eventually(lambda: served(host, "tiny@staging") == 3)
    assert served(host) == 1


def test_a_network_that_is_not_finite_never_serves(make_host: HostMaker, store: Store) -> None:
    config = tiny_config()
    network = tiny_network(config)
    with torch.no_grad():
        network.final_layer.linear.bias.fill_(torch.nan)
    publish_tiny_model(store, network=network)
    host = make_host(ready=False)
    with pytest.raises(NotReadyError, match="not finite"):
        generate(host)


class FragileStore(Store):
    """A store that can be away."""

    away = False

    def repository(self, kind: Any, name: str) -> Repository:
        repository = super().repository(kind, name)
        resolve = repository.resolve

        def fragile(selector: str | int) -> Version:
            if self.away:
                raise StorageError("the store is away")
            return resolve(selector)

        repository.resolve = fragile  # type: ignore[method-assign]
        return repository


def test_what_is_loaded_is_served_while_the_store_is_away(
    make_host: HostMaker, tmp_path: Path
) -> None:
    fragile = FragileStore.from_url(str(tmp_path / "store"), cache_dir=tmp_path / "cache")
    assert isinstance(fragile, FragileStore)
    publish_tiny_model(fragile, seed=1)
    publish_tiny_model(fragile, name="other")
    host = make_host(store=fragile)
    fragile.away = True
    with pytest.raises(StorageError):
        generate(host, model="other")
    host.check()
    assert generate(host).pixels()
    assert served(host) == 1
    fragile.away = False
    publish_tiny_model(fragile, seed=2)
    eventually(lambda: served(host) == 2)


def test_the_watch_outlives_a_defect(
    make_host: HostMaker, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_tiny_model(store, seed=1)
    host = make_host()
    met = threading.Event()

    def broken(*_: object) -> Version:
        met.set()
        raise RuntimeError("a defect")

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "resolve", broken)
        assert met.wait(PATIENCE_SECONDS)
    publish_tiny_model(store, seed=2)
    eventually(lambda: served(host) == 2)


def test_closing_finishes_accepted_tasks_and_refuses_new_ones(
    make_host: HostMaker, store: Store
) -> None:
    publish_tiny_model(store)
    host = make_host()
    accepted = generate(host, n=100, num_steps=20)
    host.close()
    assert len(accepted.pixels()) == 100
    with pytest.raises(NotReadyError, match="shutting down"):
        generate(host)
    assert engine_threads() == []


def test_an_alias_that_cannot_be_followed_is_counted_until_it_can(
    make_host: HostMaker, store: Store
) -> None:
    def failures() -> float:
        return host._metrics.swap_failures.labels("tiny")._value.get()

    host = make_host(ready=False)
    eventually(lambda: failures() >= 2)
    publish_tiny_model(store)
    eventually(lambda: is_ready(host))
    counted = failures()
    generate(host)
    assert failures() == counted
