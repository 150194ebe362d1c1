from __future__ import annotations

import pytest
import torch

from gmem_model.engine import onnx_network
from gmem_model.engine.onnx_network import OnnxNetwork
from gmem_model.network import Network
from tests.support.models import tiny_config, tiny_network


def everything(network: Network) -> list[torch.Tensor]:
    """What all sessions of a network give for the same rows."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(3, *network.latent_shape, generator=generator)
    times = torch.rand(3, generator=generator)
    condition = torch.randn(network.no_condition(3).shape, generator=generator)
    modulation = network.modulation(times, condition)
    return [
        modulation,
        network.core(latents, modulation),
        network(latents, times, condition),
    ]


def test_a_swapped_in_network_is_not_exported_and_gives_the_bits_of_its_own_export(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    networks = [tiny_network(tiny_config(), seed) for seed in range(2)]
    exported = []
    for network in networks:
        onnx_network._graphs.clear()
        exported.append(everything(OnnxNetwork(network, 1)))
    assert not torch.equal(exported[0][1], exported[1][1])
    monkeypatch.setattr(onnx_network, "_export", lambda *_: pytest.fail("exported again"))
    for network, expected in zip(reversed(networks), reversed(exported), strict=True):
        found = everything(OnnxNetwork(network, 1))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
