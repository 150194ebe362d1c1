import pytest
import torch
from safetensors.torch import save_file

from gmem_model.autoencoder import load_autoencoder
from gmem_shared.errors import CorruptVersionError
from tests.support.autoencoders import TINY, save_ours, tiny_autoencoder


def test_a_loaded_autoencoder_is_the_saved_one(tmp_path) -> None:
    autoencoder = tiny_autoencoder()
    save_ours(tmp_path / "autoencoder.safetensors", autoencoder)
    loaded = load_autoencoder(tmp_path / "autoencoder.safetensors", TINY)
    latents = torch.randn(1, 4, 4, 4)
    with torch.no_grad():
        assert torch.equal(loaded.decode(latents), autoencoder.decode(latents))


def test_half_precision_is_computed_in_float32(tmp_path) -> None:
    path = tmp_path / "autoencoder.safetensors"
    save_file({k: v.half() for k, v in tiny_autoencoder().state_dict().items()}, path)
    assert {p.dtype for p in load_autoencoder(path, TINY).parameters()} == {torch.float32}


def test_another_architecture_is_refused_by_name(tmp_path) -> None:
    path = tmp_path / "autoencoder.safetensors"
    save_ours(path, tiny_autoencoder())
    without_attention = TINY.model_copy(update={"attn_resolutions": ()})
    with pytest.raises(CorruptVersionError, match=r"unexpected: decoder\.up\.1\.attn\.0\.k\.bias"):
        load_autoencoder(path, without_attention)


def test_a_file_of_another_kind_is_refused(tmp_path) -> None:
    path = tmp_path / "autoencoder.safetensors"
    path.write_bytes(b"no tensors here")
    with pytest.raises(CorruptVersionError, match="safetensors"):
        load_autoencoder(path, TINY)
