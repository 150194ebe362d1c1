from collections.abc import AsyncIterator

import numpy as np
import pytest

from gmem_model.embedded import EmbeddedBackend
from gmem_trainer.sampling.parts import Part
from gmem_trainer.sampling.worker import Worker
from tests.support.autoencoders import publish_latent_model, tiny_autoencoder
from tests.support.backends import embedded_backend, is_ready, pixels_of, until
from tests.support.engine import make_task
from tests.support.models import FAMILIES, TEST_ENCODER, publish_families

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
async def service(store, place) -> AsyncIterator[EmbeddedBackend]:
    """An engine that serves a model of every family, and one whose latents are decoded."""
    publish_families(store)
    publish_latent_model(store, tiny_autoencoder(), "latents")
    backend = embedded_backend(place.url, place.cache_dir)
    await backend.start()
    await until(lambda: is_ready(backend))
    yield backend
    await backend.close()


@pytest.mark.parametrize("model", [*FAMILIES, "latents"])
async def test_a_job_makes_the_images_that_a_service_makes(
    service, place, make_job, bank, model
) -> None:
    job = make_job(model=model, seed=3, num_steps=4)
    part = Worker(place, job, "cpu").make(1)
    takes_snippets, takes_labels = (part.rows >= 0).all(), model == "sit"
    task = make_task(
        len(part.indices),
        seed=3,
        model=job.model,
        num_steps=4,
        indices=part.indices,
        snippets=bank.vectors[part.rows].astype(np.float32) if takes_snippets else None,
        encoder=TEST_ENCODER if takes_snippets else None,
        labels=part.labels.astype(np.int32) if takes_labels else None,
    )
    assert [image.tobytes() for image in part.images] == await pixels_of(service, task)
    assert len({image.tobytes() for image in part.images}) == len(part.images)


def joined(parts: list[Part], name: str) -> np.ndarray:
    return np.concatenate([getattr(part, name) for part in parts])


def test_images_do_not_depend_on_how_the_job_is_cut_into_batches(place, make_job) -> None:
    small, large = make_job(batch_size=2), make_job(batch_size=10)
    worker = Worker(place, small, "cpu")
    pieces = [worker.make(number) for number in range(small.num_parts)]
    whole = Worker(place, large, "cpu").make(0)
    for name in ("images", "indices", "rows", "labels"):
        assert np.array_equal(joined(pieces, name), getattr(whole, name))


def test_stochastic_samplers_and_noise_rules_are_reproducible_too(place, make_job) -> None:
    job = make_job(sampler="euler-maruyama", snippets="by-noise", num_steps=5)
    first, again = (Worker(place, job, "cpu").make(1) for _ in range(2))
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.rows, again.rows)


def test_the_scale_of_guidance_is_the_jobs(place, store, make_job) -> None:
    publish_families(store)
    plain, guided = (
        Worker(place, make_job(model="sit", num_steps=3, guidance_scale=scale), "cpu").make(0)
        for scale in (1.0, 4.0)
    )
    assert not np.array_equal(plain.images, guided.images)


def test_another_seed_makes_other_images(place, make_job) -> None:
    first, other = (Worker(place, make_job(seed=seed), "cpu").make(0) for seed in (0, 1))
    assert not np.array_equal(first.images, other.images)


def test_sits_own_sampler_makes_images_too(place, store, make_job) -> None:
    publish_families(store)
    adaptive, fine = (
        Worker(place, make_job(model="sit", sampler=name, num_steps=100), "cpu").make(0)
        for name in ("dopri5", "rk4")
    )
    difference = adaptive.images.astype(int) - fine.images.astype(int)
    assert np.abs(difference).max() <= 3
    assert adaptive.images.std() > 10
