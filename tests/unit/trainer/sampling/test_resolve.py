import numpy as np
import pytest

from gmem_shared.errors import (
    EncoderMismatchError,
    InvalidRequestError,
    UnknownClassError,
    UnknownModelError,
    UnknownSamplerError,
)
from tests.support.models import publish_tiny_model
from tests.unit.trainer.sampling.conftest import publish_bank


def test_versions_are_pinned_and_defaults_filled_in(store, make_job) -> None:
    job = make_job(num_steps=None, batch_size=None)
    assert job.model == "tiny@" + store.repository("models", "tiny").latest().digest
    assert job.bank == "tiny@" + store.repository("banks", "tiny").latest().digest
    assert (job.sampler, job.num_steps, job.snippets) == ("ab2", 4, "drawn")
    assert job.batch_size == 250


def test_another_bank_version_is_another_job(store, make_job) -> None:
    before = make_job()
    publish_bank(store, weights=np.full(14, 2))
    assert [d.split()[0] for d in make_job().differences(before)] == ["bank"]


def test_classes_are_a_set(make_job) -> None:
    assert make_job(classes=(2, 0, 2)) == make_job(classes=(0, 2))


def test_what_does_not_exist_is_refused(make_job) -> None:
    with pytest.raises(UnknownModelError):
        make_job(model="other")
    with pytest.raises(UnknownSamplerError):
        make_job(sampler="dpm")
    with pytest.raises(UnknownClassError):
        make_job(classes=(17,))


def test_a_bank_of_another_encoder_is_refused_with_the_way_out(store, make_job) -> None:
    publish_bank(store, encoder="other-encoder")
    with pytest.raises(EncoderMismatchError, match="choose a fitting one with --bank"):
        make_job()


def test_contradictions_are_refused_in_one_sentence(make_job) -> None:
    with pytest.raises(InvalidRequestError, match="by-noise"):
        make_job(snippets="by-noise", balanced=True)
    with pytest.raises(InvalidRequestError, match="cannot be guided"):
        make_job(guidance_scale=1.5)


def test_a_model_of_a_newer_alias_is_another_job(store, make_job) -> None:
    before = make_job()
    publish_tiny_model(store, seed=1)
    assert [d.split()[0] for d in make_job().differences(before)] == ["model"]
