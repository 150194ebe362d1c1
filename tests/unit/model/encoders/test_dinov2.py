import pytest
import torch

from gmem_model.encoders.dinov2 import VITB14, DinoV2
from gmem_shared.errors import OutOfRangeError


@pytest.fixture(scope="module")
def network() -> DinoV2:
    torch.manual_seed(0)
    network = DinoV2(width=128, depth=2, num_heads=2).eval()
    with torch.no_grad():
        network.pos_embed.normal_()
        network.cls_token.normal_()
    return network


@pytest.mark.parametrize(("side", "grid"), [(256, 16), (400, 16), (512, 32)])
@torch.no_grad()
def test_an_image_has_one_snippet_and_sixteen_tokens_per_256_pixels(network, side, grid) -> None:
    features = network.features(torch.zeros(1, 3, side, side))
    assert features.snippets.shape == (1, 128)
    assert features.tokens.shape == (1, grid**2, 128)


def test_small_images_are_refused(network) -> None:
    with pytest.raises(OutOfRangeError, match="256"):
        network.features(torch.zeros(1, 3, 255, 255))


@torch.no_grad()
def test_tokens_are_in_row_major_order(network) -> None:
    plain = torch.zeros(1, 3, 256, 256)
    marked = plain.clone()
    marked[:, :, 32:48, 240:] = 1  # the third row of tokens, the last column
    changed = (network.features(marked).tokens - network.features(plain).tokens).norm(dim=-1)
    assert changed.argmax() == 2 * 16 + 15


def test_vitb14_has_as_many_parameters_as_published() -> None:
    with torch.device("meta"):
        network = DinoV2(**VITB14)
    assert network.dimension == 768
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count / 1e6 == pytest.approx(86.6, abs=0.1)
