"""What evaluates a network."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from gmem_model.engine import runtimes
from gmem_model.engine.onnx_network import OnnxNetwork
from gmem_model.guidance import GuidedNetwork
from gmem_model.network import Network
from gmem_shared.errors import InvalidRequestError
from gmem_shared.settings import EngineSettings
from tests.support.models import FAMILIES, label_config, random_network, tiny_network

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_cpu_gets_onnx_for_transformers_and_pytorch_for_the_rest(name: str) -> None:
    network = tiny_network(FAMILIES[name]())
    assert runtimes.choose(network, CPU) == ("eager" if name == "edm2" else "onnx")
    assert runtimes.choose(network, GPU) == "compiled"


def test_large_networks_are_not_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtimes, "MAX_BYTES", 1000)
    assert runtimes.choose(tiny_network(label_config()), CPU) == "eager"


def test_the_choice_is_made_without_a_stopwatch() -> None:
    network = tiny_network(label_config())
    assert len({runtimes.choose(network, CPU) for _ in range(5)}) == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused_with_the_way_out() -> None:
    with pytest.raises(InvalidRequestError, match=r"DEVICE=cuda:1, found none.*choose cpu or auto"):
        runtimes.device_of(EngineSettings(device="cuda:1"))
    assert runtimes.device_of(EngineSettings(device="auto")) == CPU


def test_an_unknown_runtime_is_refused() -> None:
    with pytest.raises(ValidationError, match="eager"):
        EngineSettings.model_validate({"runtime": "tensorrt"})


@pytest.mark.parametrize("runtime", ["onnx", "scripted"])
def test_what_is_no_transformer_is_not_traced(runtime: str) -> None:
    network = tiny_network(FAMILIES["edm2"]())
    settings = EngineSettings.model_validate({"device": "cpu", "runtime": runtime})
    with pytest.raises(InvalidRequestError, match=r"found EDM2.*choose auto"):
        runtimes.prepare(GuidedNetwork(network), settings)


def test_a_network_that_is_its_own_reference_is_prepared_once() -> None:
    network = tiny_network(label_config())
    guided = GuidedNetwork.of(network, label_config().guidance)
    prepared = runtimes.prepare(guided, EngineSettings(device="cpu"))
    assert isinstance(prepared.network, OnnxNetwork)
    assert prepared.reference is prepared.network


OTHERS = [
    *(("scripted", name) for name in FAMILIES if name != "edm2"),
    pytest.param("compiled", "tiny", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("runtime", "name"), OTHERS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of PyTorch's compiler to itself
def test_other_runtimes_predict_what_eager_does(runtime: str, name: str) -> None:
    architecture = FAMILIES[name]().architecture
    eager = random_network(architecture, seed=0)
    settings = EngineSettings.model_validate({"device": "cpu", "runtime": runtime})
    other = runtimes.prepare(GuidedNetwork(random_network(architecture, seed=0)), settings)
    with torch.inference_mode():
        for rows in (1, 2, 5):
            x, modulation = some_inputs(eager, rows)
            torch.testing.assert_close(
                other.network.core(x, modulation), eager.core(x, modulation), rtol=1e-5, atol=1e-5
            )


def some_inputs(network: Network, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, *network.latent_shape, generator=generator)
    t = torch.rand(rows, generator=generator)
    return x, network.modulation(t, network.no_condition(rows))
