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
from PIL import Image

from gmem_model.checkpoint import save_network
from gmem_model.network import Network
from gmem_shared.bank_format import write_bank
from gmem_shared.model_config import ModelConfig
from gmem_shared.store import Repository, Version
from gmem_trainer.banks import Memory
from gmem_trainer.material import Material


def publish_bank(repository: Repository, material: Material, memory: Memory) -> Version:
    """Publish what is remembered of the training images, as float16."""
    prepared = material.prepared
    source_ids = prepared.source_ids[memory.rows]
    with tempfile.TemporaryDirectory() as folder:
        files, metadata = write_bank(
            Path(folder),
            vectors=memory.vectors,
            labels=prepared.labels[memory.rows],
            source_ids=source_ids,
            classes=material.classes,
            encoder=str(material.encoder_id),
            weights=memory.weights,
            provenance=material.provenance(source_ids),
            coefficients=memory.factors,
            normalized=material.normalized and memory.factors is None,
            dtype=np.dtype(np.float16),
        )
        return _publish(repository, files, metadata, f"snippets of {material.name}")


def publish_model(
    repository: Repository,
    network: Network,
    config: ModelConfig,
    companions: Mapping[str, bytes],
    evaluation: Mapping[str, Any],
    samples: Image.Image,
    metadata: Mapping[str, Any],
) -> Version:
    """Publish a network with all that is needed to serve it and to judge it.

    ``companions`` are the files of its encoder and its autoencoder.
    """
    picture = io.BytesIO()
    samples.save(picture, "PNG")
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "network.safetensors"
        save_network(weights, network)
        files: dict[str, bytes | Path] = {
            "network.safetensors": weights,
            "config.json": config.model_dump_json(indent=2).encode(),
            "evaluation.json": json.dumps(evaluation, indent=2).encode(),
            "samples.png": picture.getvalue(),
            **companions,
        }
        return _publish(repository, files, metadata, _summary(evaluation))


def _summary(evaluation: Mapping[str, Any]) -> str:
    test = evaluation.get("test")
    if test is None:
        return "not evaluated"
    if test["class_accuracy"] is None:
        return f"Fréchet distance {test['frechet_features']:.3f}"
    return f"class accuracy {test['class_accuracy']:.3f}"


def _publish(
    repository: Repository,
    files: Mapping[str, bytes | Path],
    metadata: Mapping[str, Any],
    message: str,
) -> Version:
    content = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(files):
        content.update(name.encode() + _digest(files[name]))
    return repository.publish(
        files,
        metadata=metadata,
        message=message,
        publish_id=f"train-{content.hexdigest()[:32]}",
    )


def _digest(content: bytes | Path) -> bytes:
    if isinstance(content, bytes):
        return hashlib.sha256(content).digest()
    with content.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
