import json
from pathlib import Path

import pytest
import torch

from gmem_model.encoders import CONFIG_FILE, WEIGHTS_FILE, SnippetEncoder, load, open_encoder
from gmem_model.encoders.convnet import ConvNet
from gmem_model.encoders.dinov2 import DinoV2
from gmem_model.encoders.identity import Identity
from gmem_shared.errors import CorruptVersionError, NotFoundError
from gmem_shared.store import Store

NETWORKS = {
    "convnet": lambda: ConvNet(channels=3, side=256, width=4, dimension=16),
    "dinov2": lambda: DinoV2(width=128, depth=1, num_heads=2, table_side=4),
    "identity": lambda: Identity(channels=3, side=256),
}


def saved(encoder: SnippetEncoder, folder: Path) -> Path:
    for name, content in encoder.files().items():
        (folder / name).write_bytes(content)
    return folder


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_saved_encoder_gives_the_same_snippets_under_the_same_id(kind, tmp_path) -> None:
    torch.manual_seed(0)
    encoder = SnippetEncoder.of(NETWORKS[kind](), "tiny")
    loaded = load(saved(encoder, tmp_path))
    images = torch.rand(1, 3, 256, 256) * 2 - 1
    assert torch.equal(loaded.embed(images), encoder.embed(images))
    assert loaded.id == encoder.id == SnippetEncoder.of(loaded.network, "tiny").id
    assert loaded.network.kind == kind


def test_an_encoder_of_the_first_releases_is_still_read(tmp_path) -> None:
    encoder = SnippetEncoder.of(ConvNet(channels=1, side=8, width=4, dimension=16), "tiny")
    saved(encoder, tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_bytes())
    del config["kind"]
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config))
    assert load(tmp_path).id == encoder.id


def test_the_encoder_of_a_model_version_is_opened(tmp_path) -> None:
    encoder = SnippetEncoder.of(Identity(channels=1, side=2), "pixels")
    models = Store.from_url(str(tmp_path), cache_dir=tmp_path).repository("models", "tiny")
    version = models.publish(encoder.files())
    assert open_encoder(models.open(version)).id == encoder.id


def test_a_folder_without_encoder_is_refused(tmp_path) -> None:
    with pytest.raises(NotFoundError, match=r"no encoder\.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "oracle"},
        {"architecture": {"channels": 1}},
        {"architecture": {"channels": 1, "side": 8, "width": 8, "dimension": 16}},
        {"id": None},
    ],
)
def test_files_that_describe_no_known_encoder_are_refused(change, tmp_path) -> None:
    saved(SnippetEncoder.of(ConvNet(channels=1, side=8, width=4, dimension=16), "tiny"), tmp_path)
    config = json.loads((tmp_path / CONFIG_FILE).read_bytes())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(config | change))
    with pytest.raises(CorruptVersionError, match=r"encoder\.json"):
        load(tmp_path)


def test_broken_weights_are_refused(tmp_path) -> None:
    saved(SnippetEncoder.of(Identity(channels=1, side=2), "pixels"), tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(b"?")
    with pytest.raises(CorruptVersionError, match="safetensors"):
        load(tmp_path)
