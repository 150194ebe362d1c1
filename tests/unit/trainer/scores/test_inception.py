from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from gmem_shared.errors import InvalidRequestError
from gmem_trainer.scores.inception import InceptionV3, load_inception
from tests.support.canary import Canary
from tests.unit.trainer.scores.inception_twin import pooled_and_spatial

TORCHVISION_PARAMETERS = 27_161_264
"""As torchvision documents its network: with 1000 classes and the auxiliary classifier."""
AUXILIARY_PARAMETERS = 3_326_696


@pytest.fixture(scope="module")
def network() -> InceptionV3:
    """The network with weights that let every layer matter."""
    generator = torch.Generator().manual_seed(0)
    network = InceptionV3()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif name.endswith(("bias", "running_mean")):
                tensor.normal_(0, 0.1, generator=generator)
            elif tensor.ndim > 1:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
    return network.eval()


@pytest.fixture(scope="module")
def weights_file(network, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return path


def test_it_has_the_weights_of_the_published_file(network) -> None:
    classes = 8 * (2048 + 1)
    found = sum(parameter.numel() for parameter in network.parameters())
    assert found == TORCHVISION_PARAMETERS - AUXILIARY_PARAMETERS + classes
    names = network.state_dict().keys()
    assert len(names) == 94 * 6 + 2
    for name in ("Conv2d_1a_3x3.conv.weight", "Mixed_7c.branch3x3dbl_3b.bn.running_var", "fc.bias"):
        assert name in names


@torch.inference_mode()
def test_it_computes_what_its_twin_computes(network) -> None:
    images = torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(1)) * 2 - 1
    found = network(images)
    pooled, spatial = pooled_and_spatial(network.state_dict(), images)
    assert found.pooled.shape == (2, 2048)
    assert torch.allclose(found.pooled, pooled, rtol=1e-4, atol=1e-4)
    assert spatial.shape == (2, 192, 17, 17)
    # ADM's files order the spatial features by row, column, channel.
    by_place = found.spatial.view(2, 17, 17, 7)
    assert torch.allclose(by_place[1, 3, 5], spatial[1, :7, 3, 5], rtol=1e-4, atol=1e-4)
    assert torch.allclose(found.logits, pooled @ network.fc.weight.T, rtol=1e-3, atol=1e-3)


def test_weights_come_from_torch_and_from_safetensors_files(network, weights_file) -> None:
    safe = weights_file.with_suffix(".safetensors")
    save_file(network.state_dict(), safe)
    for path in (weights_file, safe):
        loaded = load_inception(path)
        assert not loaded.training
        for name, tensor in loaded.state_dict().items():
            assert torch.equal(tensor, network.state_dict()[name])


def test_weights_of_another_network_are_refused(network, tmp_path) -> None:
    weights = dict(network.state_dict())
    weights["AuxLogits.fc.weight"] = torch.zeros(3)
    del weights["fc.bias"]
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(InvalidRequestError, match=r"missing: fc.bias.*unexpected: AuxLogits"):
        load_inception(tmp_path / "other.pth")


def test_a_weights_file_executes_nothing(tmp_path) -> None:
    torch.save({"fc.bias": Canary(tmp_path / "executed")}, tmp_path / "hostile.pth")
    with pytest.raises(InvalidRequestError, match="refused"):
        load_inception(tmp_path / "hostile.pth")
    assert not (tmp_path / "executed").exists()
