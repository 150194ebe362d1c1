import numpy as np
import pytest
import torch

from gmem_model.encoders.dinov2 import DinoV2
from gmem_shared.errors import InvalidRequestError
from gmem_trainer.scores.features import DigitsExtractor, InceptionExtractor, open_extractor
from gmem_trainer.scores.inception import InceptionV3
from gmem_trainer.scores.resizing import resize


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


def test_pixels_are_features_of_themselves(images) -> None:
    found = open_extractor("pixels", None, "cpu")(images)
    assert found.pooled.shape == (3, 192)
    assert found.pooled[0] * 255 == pytest.approx(images[0].ravel())
    assert found.spatial is None
    assert found.probabilities is None


def test_inception_sees_images_resized_and_centred_as_in_its_own_graph(images, tmp_path) -> None:
    torch.save(InceptionV3().state_dict(), tmp_path / "weights.pth")
    extract = open_extractor("inception", tmp_path / "weights.pth", "cpu")
    assert isinstance(extract, InceptionExtractor)
    seen: list[torch.Tensor] = []
    extract._network.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    found = extract(images)
    assert torch.equal(
        seen[0], (resize(torch.tensor(images).permute(0, 3, 1, 2).float(), 299) - 128) / 128
    )
    assert found.pooled.shape == (3, 2048)
    assert found.spatial.shape == (3, 2023)
    assert found.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_digits_are_seen_by_their_judge(images) -> None:
    extract = DigitsExtractor()
    found = extract(images)
    assert found.pooled.shape == (3, 32)
    assert found.probabilities.shape == (3, 10)
    assert found.probabilities.sum(axis=1) == pytest.approx(1, abs=1e-5)
    with pytest.raises(InvalidRequestError, match="8x8"):
        extract(np.zeros((2, 9, 8, 3), np.uint8))


@pytest.mark.parametrize("space", ["inception", "dinov2"])
def test_networks_need_weights(space) -> None:
    with pytest.raises(InvalidRequestError, match="--weights"):
        open_extractor(space, None, "cpu")


def test_other_features_take_no_weights(tmp_path) -> None:
    with pytest.raises(InvalidRequestError, match="no --weights"):
        open_extractor("pixels", tmp_path / "weights.pth", "cpu")


def test_dinov2_gives_its_class_token(tmp_path) -> None:
    network = DinoV2(width=64, depth=1, num_heads=1, patch_size=14, table_side=37).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    images = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3), dtype=np.uint8)
    found = open_extractor("dinov2", tmp_path / "weights.pth", "cpu")(images)
    pixels = torch.tensor(images).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.inference_mode():
        expected = network.features(pixels).snippets
    assert found.pooled == pytest.approx(expected.numpy(), abs=1e-5)
