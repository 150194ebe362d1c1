from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from gmem_model.autoencoder import Autoencoder, import_autoencoder
from gmem_model.weights import assign
from gmem_shared.errors import CorruptVersionError, InvalidRequestError
from tests.support.autoencoders import TINY, save_ours, save_vavae, tiny_autoencoder
from tests.support.canary import Canary

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

WEIGHTS = "diffusion_pytorch_model.safetensors"
OLD_NAMES = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture(scope="module")
def theirs() -> AutoencoderKL:
    from diffusers import AutoencoderKL  # slow to import

    torch.manual_seed(0)
    return AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        block_out_channels=[32, 64],
        latent_channels=4,
        layers_per_block=2,
    ).eval()


@pytest.fixture
def folder(theirs, tmp_path) -> Path:
    theirs.save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def rename_attention(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give attention the names it had in the first releases of diffusers."""
    renamed = {}
    for name, tensor in weights.items():
        for new, old in OLD_NAMES.items():
            name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = tensor
    return renamed


def convolve_attention(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Store the matrices of attention as 1x1 convolutions."""
    return {
        name: w[:, :, None, None] if "attentions" in name and w.ndim == 2 else w
        for name, w in weights.items()
    }


def the_same(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return weights


@pytest.mark.parametrize("form", [the_same, rename_attention, convolve_attention])
@torch.no_grad()
def test_an_sd_vae_computes_what_diffusers_computes(theirs, folder, form) -> None:
    save_file(form(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    architecture, weights = import_autoencoder(folder)
    ours = assign(Autoencoder(architecture), weights, "test")
    image, latents = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(2, 4, 8, 8)

    expected = theirs.encode(image).latent_dist
    posterior = ours.encode(image)
    torch.testing.assert_close(posterior.mean, expected.mean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(posterior.std, expected.std, atol=1e-5, rtol=1e-5)
    decoded = theirs.decode(latents).sample
    torch.testing.assert_close(ours.decode(latents), decoded, atol=1e-5, rtol=1e-5)


def test_the_older_weights_file_of_diffusers_is_read(theirs, tmp_path) -> None:
    theirs.save_pretrained(tmp_path, safe_serialization=False)
    architecture, _ = import_autoencoder(tmp_path)
    assert architecture.channel_mult == (1, 2)
    assert architecture.num_res_blocks == 2


def test_vavae_leaves_behind_what_only_training_needs(tmp_path) -> None:
    autoencoder = tiny_autoencoder()
    save_vavae(tmp_path / "vavae.pt", autoencoder)
    architecture, weights = import_autoencoder(tmp_path / "vavae.pt")
    assert architecture == TINY
    assert weights.keys() == autoencoder.state_dict().keys()


def test_our_own_file_is_read(tmp_path) -> None:
    save_ours(tmp_path / "autoencoder.safetensors", tiny_autoencoder())
    assert import_autoencoder(tmp_path / "autoencoder.safetensors")[0] == TINY


def test_executes_nothing_and_names_what_it_refuses(tmp_path) -> None:
    canary = tmp_path / "canary"
    torch.save({"state_dict": {"encoder.conv_in.weight": Canary(canary)}}, tmp_path / "vae.pt")
    with pytest.raises(InvalidRequestError, match=r"posix\.mkdir"):
        import_autoencoder(tmp_path / "vae.pt")
    assert not canary.exists()


def test_other_arithmetic_is_refused(folder) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"norm_num_groups": 16}))
    with pytest.raises(InvalidRequestError, match="norm_num_groups = 32, found 16"):
        import_autoencoder(folder)


def test_other_weights_are_refused(tmp_path) -> None:
    save_file({"blocks.0.weight": torch.zeros(2)}, tmp_path / "network.safetensors")
    with pytest.raises(InvalidRequestError, match=r"encoder\.conv_in\.weight"):
        import_autoencoder(tmp_path / "network.safetensors")


def test_missing_parts_are_named(tmp_path) -> None:
    weights = tiny_autoencoder().state_dict()
    del weights["decoder.conv_out.bias"]
    torch.save(weights, tmp_path / "vae.pt")
    with pytest.raises(InvalidRequestError, match=r"missing: decoder\.conv_out\.bias"):
        import_autoencoder(tmp_path / "vae.pt")


def test_a_folder_without_weights_is_refused(tmp_path) -> None:
    with pytest.raises(InvalidRequestError, match="found neither"):
        import_autoencoder(tmp_path)


def test_a_broken_safetensors_file_is_refused(tmp_path) -> None:
    (tmp_path / "vae.safetensors").write_bytes(b"?")
    with pytest.raises(CorruptVersionError):
        import_autoencoder(tmp_path / "vae.safetensors")
