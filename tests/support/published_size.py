"""A network of a published size in a process of its own, so that its peak memory can be measured.

Run as ``python -m tests.support.published_size publish|serve PRESET FOLDER``; prints JSON.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import torch

from gmem_model.checkpoint import load_network, save_network
from gmem_model.engine.models import read_config
from gmem_model.network import Network
from gmem_model.networks import build
from gmem_model.presets import preset
from gmem_shared.model_config import ModelConfig, SnippetCondition, Transport
from gmem_shared.store import Repository, Store


def publish(repository: Repository, name: str, folder: Path) -> Network:
    """Publish the preset with random weights."""
    architecture = preset(name)
    takes_snippets = isinstance(architecture.condition, SnippetCondition)
    config = ModelConfig(
        architecture=architecture,
        process=Transport(),
        encoder="test-encoder" if takes_snippets else None,
        default_bank="test@production" if takes_snippets else None,
        default_sampler="euler",
        default_steps=50,
    )
    network = build(architecture, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        network.final_layer.linear.weight.uniform_(-0.1, 0.1)
    weights = folder / "network.safetensors"
    save_network(weights, network)
    repository.publish(
        {"network.safetensors": weights, "config.json": config.model_dump_json().encode()}
    )
    weights.unlink()
    return network


@torch.inference_mode()
def serve(repository: Repository) -> Network:
    """Open the version, which verifies it, load the network and evaluate it once."""
    opened = repository.open(repository.latest())
    network = load_network(opened.path("network.safetensors"), read_config(opened))
    latents = torch.randn(1, *network.latent_shape)
    prediction = network(latents, torch.tensor([0.5]), network.no_condition(1))
    assert prediction.isfinite().all()
    assert prediction.std() > 0
    return network


def peak_bytes() -> int:
    """Return the most memory this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(task: str, name: str, folder: Path) -> None:
    """Do one half of the work and print what it took, beyond the interpreter with its modules."""
    repository = Store.from_url(str(folder / "store"), folder).repository("models", "model")
    before = peak_bytes()
    network = publish(repository, name, folder) if task == "publish" else serve(repository)
    taken = peak_bytes() - before
    weights = sum(value.nbytes for value in network.state_dict().values())
    json.dump({"peak": taken, "weights": weights}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
