"""Networks that sample the latents of an autoencoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from prometheus_client import CollectorRegistry
from torch import Tensor

from gmem_model import noise
from gmem_model.decoding import Decoder
from gmem_model.engine.loader import Loader
from gmem_model.engine.metrics import EngineMetrics
from gmem_model.engine.models import describe_model
from gmem_model.samplers import integrate, plan
from gmem_shared.errors import CancelledError, CorruptVersionError, NotReadyError
from gmem_shared.settings import EngineSettings
from gmem_shared.store import Store
from gmem_shared.types import GenerationTask, Reference, VersionRef
from tests.support.autoencoders import TINY, latent_config, publish_latent_model, tiny_autoencoder
from tests.support.engine import Recorder, make_task
from tests.support.models import tiny_network


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.from_url(str(tmp_path), cache_dir=tmp_path)


@pytest.fixture
def loader(store: Store) -> Loader:
    return Loader(store, EngineSettings(), EngineMetrics(CollectorRegistry()))


def offline_latents(task: GenerationTask) -> Tensor:
    """Sample a task with its model's defaults, all rows at once."""
    config = latent_config()
    network = tiny_network(config)
    snippets = torch.from_numpy(task.snippets)

    def velocity(x: Tensor, t: float) -> Tensor:
        return network(x.float(), torch.full((len(x),), t), snippets)

    stages = np.full(len(task), noise.INITIAL_LATENT)
    start = noise.normal(task.seeds, task.indices, stages, network.latent_shape)
    sampler = plan(config.default_sampler, config.default_steps, config.process)
    with torch.no_grad():
        return integrate(sampler, velocity, torch.from_numpy(start))


def test_a_served_image_is_the_one_that_is_sampled_and_decoded_offline(
    store: Store, loader: Loader
) -> None:
    autoencoder = tiny_autoencoder()
    publish_latent_model(store, autoencoder, "latent")
    engine = loader.load(loader.resolve(Reference("latent")))
    task = make_task(3, model="latent")
    recorder = Recorder()
    engine.submit(task, recorder)
    served = recorder.pixels()
    engine.close(drain_seconds=0)

    decode = Decoder(latent_config().latent_space, autoencoder)
    offline = decode(offline_latents(task))
    assert offline.shape == (3, 8, 8, 3)
    assert offline.std() > 1
    assert served == [image.tobytes() for image in offline]


def test_tasks_whose_images_are_decoded_beside_the_evaluations_end_once_and_last(
    store: Store, loader: Loader
) -> None:
    publish_latent_model(store, tiny_autoencoder(), "latent")
    engine = loader.load(loader.resolve(Reference("latent")))
    tasks = [make_task(3, seed=n, model="latent", num_steps=2 + n % 5) for n in range(24)]
    recorders = [Recorder() for _ in tasks]
    for number, (task, recorder) in enumerate(zip(tasks, recorders, strict=True)):
        engine.submit(task, recorder)
        if number % 3 == 0:
            engine.cancel(task.id)
    for number, recorder in enumerate(recorders):
        recorder.wait()
        cancelled = isinstance(recorder.error, CancelledError)
        assert len(recorder.images) == 3 or cancelled
        assert number % 3 == 0 or not cancelled
    engine.close(drain_seconds=60)
    # A recorder refuses images after the end, and the engine would report that as a second error.
    assert {recorder.endings for recorder in recorders} == {1}
    assert all(isinstance(r.error, CancelledError) or r.error is None for r in recorders)


def test_a_model_tells_the_size_of_its_images_not_of_its_latents() -> None:
    info = describe_model(
        VersionRef("latent", 1, "sha256-00"), latent_config(), max_steps=10, aliases=()
    )
    assert info.image_shape == (8, 8, 3)


def test_a_version_without_its_autoencoder_is_refused_with_the_way_out(
    store: Store, loader: Loader
) -> None:
    publish_latent_model(store, None, "latent")
    with pytest.raises(NotReadyError, match=r"autoencoder\.safetensors.*--autoencoder FILE"):
        loader.load(loader.resolve(Reference("latent")))


def test_the_autoencoder_of_another_model_is_refused(store: Store, loader: Loader) -> None:
    other = tiny_autoencoder(TINY.model_copy(update={"num_res_blocks": 2}))
    publish_latent_model(store, other, "latent")
    with pytest.raises(CorruptVersionError, match=r"unexpected: decoder\.up"):
        loader.load(loader.resolve(Reference("latent")))
