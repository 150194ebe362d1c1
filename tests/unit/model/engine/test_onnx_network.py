from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from gmem_model.engine import onnx_network
from gmem_model.engine.onnx_network import OnnxNetwork
from gmem_model.network import Network
from gmem_shared.model_config import ModelConfig
from tests.support.models import label_config, lightningdit_config, tiny_config, tiny_network


def everything(network: Network) -> list[torch.Tensor]:
    """What all sessions of a network give for the same rows."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3, *network.latent_shape, generator=generator)
    times = torch.rand(3, generator=generator)
    condition = network.no_condition(3)
    modulation = network.modulation(times, condition)
    return [
        modulation,
        network.core(latents, modulation),
        network(latents, times, condition),
    ]


@pytest.mark.parametrize("config", [tiny_config, label_config, lightningdit_config])
def test_a_swapped_in_network_is_not_exported_and_gives_the_bits_of_its_own_export(
    config: Callable[[], ModelConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = [tiny_network(config(), seed) for seed in range(2)]
    exported = []
    for network in networks:
        onnx_network._graphs.clear()
        exported.append(everything(OnnxNetwork(network, 1)))
    assert not torch.equal(exported[0][1], exported[1][1])
    monkeypatch.setattr(onnx_network, "_export", lambda *_: pytest.fail("exported again"))
    for network, expected in zip(reversed(networks), reversed(exported), strict=True):
        found = everything(OnnxNetwork(network, 1))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
