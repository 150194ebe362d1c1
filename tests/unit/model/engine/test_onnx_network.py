"""Networks under ONNX Runtime, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from gmem_model.engine import onnx_network
from gmem_model.engine.onnx_network import OnnxNetwork
from gmem_model.network import Network
from gmem_model.transformer import Transformer
from gmem_shared.model_config import (
    LabelCondition,
    LightningDiTArchitecture,
    ModelConfig,
    SiTArchitecture,
    SnippetCondition,
)
from tests.support.models import (
    FAMILIES,
    TINY_TRANSFORMER,
    label_config,
    lightningdit_config,
    random_network,
    tiny_config,
    tiny_network,
)

SNIPPETS = SnippetCondition(dimension=64)
ARCHITECTURES = {
    name: config().architecture for name, config in FAMILIES.items() if name != "edm2"
} | {
    "sit, normalised queries": SiTArchitecture(
        **TINY_TRANSFORMER, condition=LabelCondition(num_classes=3), qk_norm=True
    ),
    "lightningdit, plain": LightningDiTArchitecture(
        **TINY_TRANSFORMER, condition=SNIPPETS, swiglu=False, rope=False, rmsnorm=False
    ),
    "lightningdit, no shift": LightningDiTArchitecture(
        **TINY_TRANSFORMER, condition=SNIPPETS, qk_norm=True, shift=False
    ),
}

Pair = tuple[Transformer, OnnxNetwork]


@pytest.fixture(scope="module", params=ARCHITECTURES)
def pair(request: pytest.FixtureRequest) -> Pair:
    network = random_network(ARCHITECTURES[request.param], seed=0)
    assert isinstance(network, Transformer)
    return network, OnnxNetwork(network, threads=1)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.inference_mode():
        yield


def inputs(network: Transformer, rows: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, *network.latent_shape, generator=generator)
    t = torch.rand(rows, generator=generator)
    if network.architecture.condition.kind == "label":
        return x, t, torch.arange(rows) % 4 - 1  # -1: no class
    return x, t, torch.randn(rows, 64, generator=generator)


@pytest.mark.parametrize("rows", [1, 3, 64])
def test_predictions_are_pytorchs(pair: Pair, rows: int) -> None:
    network, onnx = pair
    values = inputs(network, rows)
    torch.testing.assert_close(onnx(*values), network(*values), rtol=1e-5, atol=1e-5)


def test_both_halves_are_pytorchs(pair: Pair) -> None:
    network, onnx = pair
    x, t, condition = inputs(network, 5)
    modulation = network.modulation(t, condition)
    torch.testing.assert_close(onnx.modulation(t, condition), modulation, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        onnx.core(x, modulation), network.core(x, modulation), rtol=1e-5, atol=1e-5
    )


def test_a_row_has_the_same_bits_in_any_company(pair: Pair) -> None:
    network, onnx = pair
    x, t, condition = inputs(network, 64)
    everyone = onnx(x, t, condition)
    for rows in range(1, 65):
        chosen = torch.randperm(64, generator=torch.Generator().manual_seed(rows))[:rows]
        assert torch.equal(onnx(x[chosen], t[chosen], condition[chosen]), everyone[chosen])


def test_prepared_and_fused_evaluations_give_the_same_bits(pair: Pair) -> None:
    network, onnx = pair
    for rows in (1, 2, 7, 8, 33, 64):
        x, t, condition = inputs(network, rows, seed=rows)
        prepared = onnx.core(x, onnx.modulation(t, condition))
        assert torch.equal(onnx(x, t, condition), prepared)


def test_the_sizes_are_the_networks(pair: Pair) -> None:
    network, onnx = pair
    assert onnx.latent_shape == network.latent_shape
    assert onnx.modulation_width == network.modulation_width
    assert torch.equal(onnx.no_condition(2), network.no_condition(2))


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
