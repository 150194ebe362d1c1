import numpy as np
import pytest
import torch

from gmem_trainer.sampling.worker import Worker


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_images_do_not_depend_on_how_the_job_is_cut_into_batches(place, make_job) -> None:
    small, large = make_job(batch_size=2), make_job(batch_size=10)
    worker = Worker(place, small, "cpu")
    pieces = [worker.make(number) for number in range(small.num_parts)]
    whole = Worker(place, large, "cpu").make(0)
    for name in ("images", "indices", "rows", "labels"):
        joined = np.concatenate([getattr(piece, name) for piece in pieces])
        assert np.array_equal(joined, getattr(whole, name))
    assert whole.images.shape == (10, 8, 8, 1)
    assert whole.images.std() > 0


def test_stochastic_samplers_and_noise_rules_are_reproducible_too(place, make_job) -> None:
    job = make_job(sampler="euler-maruyama", snippets="by-noise", num_steps=5)
    first, again = (Worker(place, job, "cpu").make(1) for _ in range(2))
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.rows, again.rows)


def test_another_seed_makes_other_images(place, make_job) -> None:
    images = [Worker(place, make_job(seed=seed), "cpu").make(0).images for seed in (0, 1)]
    assert not np.array_equal(*images)
