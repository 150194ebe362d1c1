"""The published digits model as the peers run it: one ONNX graph, and the bank as arrays."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gmem_model.checkpoint import load_network
from gmem_model.engine.models import read_config
from gmem_model.importing.model import NETWORK
from gmem_model.network import Network
from gmem_shared.bank_format import open_bank
from gmem_shared.store import OpenVersion, Store
from gmem_shared.types import Reference

MODEL = BANK = "digits@production"


class WholeNetwork(nn.Module):
    """Time, latent and snippet to velocity, for however many rows there are."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, t: Tensor, snippet: Tensor) -> Tensor:
        """Return the velocity ``(N, C, S, S)``."""
        return self.network.core(x, self.network.unpadded_modulation(t, snippet))


def export(store_url: str, folder: Path) -> None:
    """Write ``network.onnx`` and ``bank.npz``, what `sampler.Pipeline` reads, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    store = Store.from_url(store_url, cache_dir=folder / "cache")
    model = _open(store, "models", MODEL)
    export_network(load_network(model.path(NETWORK), read_config(model)), folder / "network.onnx")
    bank = open_bank(_open(store, "banks", BANK))
    np.savez(folder / "bank.npz", vectors=bank.vectors.astype(np.float32), labels=bank.labels)


def export_network(network: Network, path: Path) -> None:
    """Write a network as one graph from ``x``, ``t`` and ``snippet`` to ``velocity``."""
    rows = 2
    condition = network.no_condition(rows)
    example = (
        torch.zeros(rows, *network.latent_shape),
        torch.rand(rows),
        torch.rand(condition.shape),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tracing takes the image's side for a constant
        torch.onnx.export(
            WholeNetwork(network),
            example,
            path,
            input_names=["x", "t", "snippet"],
            output_names=["velocity"],
            dynamic_axes={name: {0: "rows"} for name in ("x", "t", "snippet", "velocity")},
            dynamo=False,
        )


def _open(store: Store, kind: str, reference: str) -> OpenVersion:
    parsed = Reference.parse(reference)
    repository = store.repository(kind, parsed.name)
    return repository.open(repository.resolve(parsed.selector))


if __name__ == "__main__":
    export(sys.argv[1], Path(sys.argv[2]))
