import pytest
import torch
from safetensors.torch import load, save_file

from gmem_model.autoencoder import Autoencoder
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import AutoencoderArchitecture, PixelSpace
from gmem_trainer.codec import Codec

SIZES = AutoencoderArchitecture(channels=32, channel_mult=(1, 1), num_res_blocks=1, z_channels=4)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "vae.safetensors"
    save_file(Autoencoder(SIZES).state_dict(), path)
    return path


def test_pixels_need_no_autoencoder(weights) -> None:
    codec = Codec.open("pixels", None)
    assert isinstance(codec.space(), PixelSpace)
    assert codec.files() == {}
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(codec.encoder(images), images)
    with pytest.raises(InvalidRequestError, match="expected no autoencoder"):
        Codec.open("pixels", weights)


def test_a_latent_space_needs_its_autoencoder(weights) -> None:
    with pytest.raises(InvalidRequestError, match="--autoencoder"):
        Codec.open("sd-vae", None)
    codec = Codec.open("sd-vae", weights)
    assert codec.space().autoencoder.channels == 32
    assert codec.space().std == (1 / 0.18215,)


def test_latents_are_encoded_without_the_scaling_of_the_space(weights) -> None:
    codec = Codec.open("sd-vae", weights)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        latents = codec.encoder(images)
        expected = codec.autoencoder.encode(images).mean
    assert torch.equal(latents, expected)


def test_the_published_files_hold_the_autoencoder(weights) -> None:
    codec = Codec.open("sd-vae", weights)
    stored = load(codec.files()["autoencoder.safetensors"])
    assert stored.keys() == codec.autoencoder.state_dict().keys()
    assert len(codec.digest) == 64


@pytest.mark.parametrize(("count", "expected"), [(3, [0, 1, 2]), (20000, 10000)])
def test_the_scaling_is_measured_on_a_spread_of_the_latents(weights, count, expected) -> None:
    codec = Codec.open("va-vae", weights)
    assert codec.is_measured
    assert not Codec.open("sd-vae", weights).is_measured
    rows = codec.rows_to_measure(count)
    if isinstance(expected, int):
        assert len(set(rows)) == expected
        assert (rows[0], rows[-1]) == (0, count - 1)
    else:
        assert rows.tolist() == expected
