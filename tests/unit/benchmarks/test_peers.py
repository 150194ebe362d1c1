from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.peers.export import export_network
from benchmarks.peers.sampler import Pipeline
from gmem_model.samplers import integrate, plan
from gmem_shared.model_config import Interpolant
from tests.support.models import tiny_config, tiny_network


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peer")
    export_network(tiny_network(tiny_config(), seed=1), folder / "network.onnx")
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20, 64)).astype(np.float32)
    np.savez(folder / "bank.npz", vectors=vectors, labels=np.repeat(np.arange(10), 2))
    return folder


def test_a_peer_computes_what_the_product_computes_whatever_the_batch(folder: Path) -> None:
    rng = np.random.default_rng(1)
    noise = rng.standard_normal((3, 1, 8, 8)).astype(np.float32)
    snippets = rng.standard_normal((3, 64)).astype(np.float32)
    steps = np.array([4, 9, 2])
    together = Pipeline(folder).sample(noise, steps, snippets)

    network = tiny_network(tiny_config(), seed=1)
    for row in range(3):

        def predict(x: torch.Tensor, t: float, row: int = row) -> torch.Tensor:
            return network(x.float(), torch.tensor([t]), torch.from_numpy(snippets[[row]]))

        with torch.inference_mode():
            alone = integrate(
                plan("ab2", int(steps[row]), Interpolant()),
                predict,
                torch.from_numpy(noise[[row]]),
            )
        np.testing.assert_allclose(together[row], alone[0].numpy(), atol=1e-4)


def test_a_peer_answers_each_request_with_its_own_number_of_images(folder: Path) -> None:
    requests = [
        {"class_label": 3, "num_images": 2, "num_steps": 2},
        {"class_label": 9, "num_images": 1, "num_steps": 5},
    ]
    answers = Pipeline(folder)(requests)
    assert [len(answer["images"]) for answer in answers] == [2, 1]
    image = Image.open(io.BytesIO(base64.b64decode(answers[1]["images"][0]["b64_png"])))
    assert image.size == (8, 8)
