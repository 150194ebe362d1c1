"""From the results of a run to versions in the store.

A version is published under an id made from its content, so that the rerun of a killed run finds
what the first one published instead of publishing it again.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmem_model.checkpoint import save_network
from gmem_model.network import Network
from gmem_shared.bank_format import write_bank
from gmem_shared.model_config import ModelConfig
from gmem_shared.store import Repository, Version
from gmem_trainer.data import Dataset


def publish_bank(
    repository: Repository, dataset: Dataset, snippets: NDArray[np.float32], encoder_id: str
) -> Version:
    """Publish the snippets ``(n, d)`` of the training images, as float16."""
    with tempfile.TemporaryDirectory() as folder:
        files, metadata = write_bank(
            Path(folder),
            vectors=snippets.astype(np.float16),
            labels=dataset.train.labels,
            source_ids=dataset.train.source_ids,
            classes=dataset.classes,
            encoder=encoder_id,
            provenance=dataset.provenance(),
            normalized=True,
        )
        contents = {name: path.read_bytes() for name, path in files.items()}
    return _publish(repository, contents, metadata, f"snippets of {dataset.name}")


def publish_model(
    repository: Repository,
    network: Network,
    config: ModelConfig,
    encoder_files: Mapping[str, bytes],
    evaluation: Mapping[str, Any],
    samples: Image.Image,
    metadata: Mapping[str, Any],
) -> Version:
    """Publish a network with all that is needed to serve it and to judge it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.safetensors"
        save_network(path, network)
        weights = path.read_bytes()
    picture = io.BytesIO()
    samples.save(picture, "PNG")
    files = {
        "network.safetensors": weights,
        "config.json": config.model_dump_json(indent=2).encode(),
        "evaluation.json": json.dumps(evaluation, indent=2).encode(),
        "samples.png": picture.getvalue(),
        **encoder_files,
    }
    accuracy = evaluation["test"]["class_accuracy"]
    return _publish(repository, files, metadata, f"class accuracy {accuracy:.3f}")


def _publish(
    repository: Repository, files: Mapping[str, bytes], metadata: Mapping[str, Any], message: str
) -> Version:
    content = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(files):
        content.update(name.encode() + hashlib.sha256(files[name]).digest())
    return repository.publish(
        files,
        metadata=metadata,
        message=message,
        publish_id=f"train-{content.hexdigest()[:32]}",
    )
