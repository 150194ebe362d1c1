from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import save_file

from gmem_model.encoders.dinov2 import DinoV2
from gmem_model.encoders.foreign import import_dinov2
from gmem_model.preprocessing import dinov2_input
from gmem_shared.errors import CorruptVersionError, InvalidRequestError
from tests.support.canary import Canary

if TYPE_CHECKING:
    from transformers import Dinov2Model


@pytest.fixture(scope="module")
def theirs() -> Dinov2Model:
    from transformers import Dinov2Config, Dinov2Model  # slow to import

    torch.manual_seed(0)
    model = Dinov2Model(
        Dinov2Config(
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=224,
            patch_size=14,
        )
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


@torch.no_grad()
def test_computes_what_transformers_computes(theirs, tmp_path) -> None:
    theirs.save_pretrained(tmp_path)
    ours = import_dinov2(tmp_path / "model.safetensors")
    images = torch.rand(2, 3, 256, 256) * 2 - 1
    expected = theirs(pixel_values=dinov2_input(images)).last_hidden_state
    features = ours.features(images)
    torch.testing.assert_close(features.snippets, expected[:, 0], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(features.tokens, expected[:, 1:], atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_the_published_layout_is_read_without_its_mask_token(tmp_path) -> None:
    torch.manual_seed(0)
    network = DinoV2(width=128, depth=2, num_heads=2).eval()
    weights = network.state_dict() | {"mask_token": torch.zeros(1, 128)}
    torch.save(weights, tmp_path / "dinov2_pretrain.pth")
    loaded = import_dinov2(tmp_path / "dinov2_pretrain.pth")
    assert loaded.architecture == network.architecture
    images = torch.rand(1, 3, 256, 256)
    assert torch.equal(loaded.features(images).snippets, network.features(images).snippets)


def test_executes_nothing_and_names_what_it_refuses(tmp_path) -> None:
    canary = tmp_path / "canary"
    torch.save({"cls_token": Canary(canary)}, tmp_path / "dinov2.pth")
    with pytest.raises(InvalidRequestError, match=r"posix\.mkdir"):
        import_dinov2(tmp_path / "dinov2.pth")
    assert not canary.exists()


def test_weights_of_something_else_are_refused(tmp_path) -> None:
    save_file({"blocks.0.w": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(InvalidRequestError, match=r"patch_embed\.proj\.weight"):
        import_dinov2(tmp_path / "other.safetensors")


def test_a_variant_with_registers_is_refused_by_name(tmp_path) -> None:
    weights = DinoV2(width=64, depth=1, num_heads=1, table_side=2).state_dict()
    save_file(weights | {"register_tokens": torch.zeros(1, 4, 64)}, tmp_path / "reg.safetensors")
    with pytest.raises(InvalidRequestError, match="unexpected: register_tokens"):
        import_dinov2(tmp_path / "reg.safetensors")


def test_a_broken_safetensors_file_is_refused(tmp_path) -> None:
    (tmp_path / "dinov2.safetensors").write_bytes(b"?")
    with pytest.raises(CorruptVersionError):
        import_dinov2(tmp_path / "dinov2.safetensors")
