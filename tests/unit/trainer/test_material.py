import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gmem_model.autoencoder import Autoencoder
from gmem_model.encoders.dinov2 import PUBLISHED_VITB14
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import AutoencoderArchitecture
from gmem_trainer.banks import FULL, remember
from gmem_trainer.codec import Codec
from gmem_trainer.examples import both_sides, examples
from gmem_trainer.material import from_shards, given_encoder, trained_encoder
from gmem_trainer.preparation.shards import LATENTS, SNIPPETS
from tests.numeric.golden_cases import GOLDEN_DIR
from tests.support.folders import small_folder


@pytest.fixture
def published(tmp_path):
    """A shard and its statistics as GMem v2's own programs wrote them."""
    for name in ("latents_rank00_shard000.safetensors", "latents_stats.pt"):
        shutil.copy(GOLDEN_DIR / "ckpt" / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def codec(tmp_path) -> Codec:
    sizes = AutoencoderArchitecture(
        channels=32, channel_mult=(1, 1), num_res_blocks=1, z_channels=32
    )
    path = tmp_path / "vavae.safetensors"
    save_file(Autoencoder(sizes).state_dict(), path)
    return Codec.open("va-vae", path)


def test_latents_prepared_by_gmem_v2_are_trained_on_as_they_are(published, codec) -> None:
    material = from_shards(published, None, codec)
    count = len(material.prepared)
    assert material.encoder_id == PUBLISHED_VITB14
    assert material.flipped
    statistics = torch.load(published / "latents_stats.pt", weights_only=True)
    assert np.allclose(material.space.mean, statistics["mean"].ravel())
    assert np.allclose(material.space.std, statistics["std"].ravel())

    memory = remember(FULL, both_sides(material, SNIPPETS), count)
    assert memory.vectors.shape == (count, 768)
    found = examples(material, memory, 4)
    assert len(found) == 2 * count
    raw = material.prepared.tensors[LATENTS][np.arange(count)]
    order = np.lexsort((material.prepared.source_ids, material.prepared.labels))
    expected = (torch.from_numpy(raw[order]) - statistics["mean"]) / statistics["std"]
    assert torch.allclose(found.latents[torch.arange(count)], expected, atol=1e-5)
    assert found.conditions[torch.tensor([0])].norm().item() == pytest.approx(1, abs=1e-3)
    assert found.features[0][torch.tensor([0])].shape == (1, 4, 768)


def test_without_statistics_the_scaling_is_measured(published, codec) -> None:
    (published / "latents_stats.pt").unlink()
    material = from_shards(published, None, codec)
    latents = torch.from_numpy(
        material.prepared.tensors[LATENTS][np.arange(len(material.prepared))]
    )
    scaled = material.scaling.to_network(latents)
    assert torch.allclose(scaled.mean(dim=(0, 2, 3)), torch.zeros(32), atol=1e-4)
    assert torch.allclose(scaled.std(dim=(0, 2, 3)), torch.ones(32), atol=1e-3)


def test_an_encoder_is_trained_once(tiny, tmp_path, monkeypatch) -> None:
    dataset = small_folder(tmp_path / "photos")
    first = trained_encoder(tmp_path / "run", dataset, tiny.encoder, seed=0)
    assert (first.network.architecture["channels"], first.network.architecture["side"]) == (3, 16)
    monkeypatch.setattr("gmem_trainer.material.train_encoder", None)
    assert trained_encoder(tmp_path / "run", dataset, tiny.encoder, seed=0).id == first.id
    assert given_encoder(str(tmp_path / "run"), 3, 16).id == first.id


def test_pixels_may_be_their_own_snippets() -> None:
    assert given_encoder("identity", 1, 4).dimension == 16


def test_an_encoder_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match=r"found 'dinov2\.pth'"):
        given_encoder("dinov2.pth", 3, 256)
