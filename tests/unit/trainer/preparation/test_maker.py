import numpy as np
import pytest
import torch

from gmem_model.autoencoder import Autoencoder
from gmem_model.encoding import LatentEncoder
from gmem_model.latents import latent_space
from gmem_shared.model_config import AutoencoderArchitecture
from gmem_trainer.preparation.shards import Prepared, shard_path


def test_a_shard_holds_its_images_with_their_features(make_maker, tmp_path) -> None:
    maker = make_maker(tmp_path)
    assert maker.count == 5
    for shard in range(5):
        maker.make(shard)
    prepared = Prepared.open([shard_path(tmp_path, shard) for shard in range(5)])
    images = maker.source.read(np.arange(42))
    assert np.array_equal(prepared.source_ids, images.source_ids)
    assert np.array_equal(prepared.labels, images.labels)
    rows = np.arange(42)
    assert np.array_equal(prepared.tensors["latents"][rows], images.pixels)
    expected = maker.encoder.features(torch.from_numpy(images.pixels))
    assert np.allclose(prepared.tensors["cls_tokens"][rows], expected.snippets, atol=1e-5)
    assert np.allclose(prepared.tensors["representations"][rows], expected.tokens, atol=1e-5)
    mirrored = prepared.tensors["latents_flip"][rows]
    assert np.array_equal(mirrored, images.pixels[..., ::-1])
    expected = maker.encoder.embed(torch.from_numpy(mirrored))
    assert np.allclose(prepared.tensors["cls_tokens_flip"][rows], expected, atol=1e-5)


def test_only_what_is_needed_is_kept(make_maker, tmp_path) -> None:
    make_maker(tmp_path, encoder=None, flip=False).make(0)
    prepared = Prepared.open([shard_path(tmp_path, 0)])
    assert set(prepared.tensors) == {"latents", "labels", "source_ids"}
    make_maker(tmp_path, tokens=False, flip=False).make(0)
    prepared = Prepared.open([shard_path(tmp_path, 0)])
    assert set(prepared.tensors) == {"latents", "labels", "source_ids", "cls_tokens"}


def test_the_number_of_finished_images_is_told(make_maker, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("gmem_trainer.preparation.maker.BATCH_BYTES", 4 * 3 * 16 * 16 * 4)
    told: list[int] = []
    make_maker(tmp_path).make(4, told.append)
    assert told == [2]
    told.clear()
    make_maker(tmp_path).make(0, told.append)
    assert sum(told) == 10
    assert max(told) <= 4


@pytest.mark.parametrize("shard_rows", [10, 42])
def test_a_latent_of_an_autoencoder_depends_on_its_image_alone(
    make_maker, tmp_path, shard_rows
) -> None:
    torch.manual_seed(0)
    sizes = AutoencoderArchitecture(
        channels=32, channel_mult=(1, 1), num_res_blocks=1, z_channels=4, resolution=16
    )
    encoder = LatentEncoder(latent_space("sd-vae", autoencoder=sizes), Autoencoder(sizes).eval())
    maker = make_maker(tmp_path, latents=encoder, shard_rows=shard_rows, encoder=None)
    for shard in range(maker.count):
        maker.make(shard)
    prepared = Prepared.open([shard_path(tmp_path, shard) for shard in range(maker.count)])
    latents = prepared.tensors["latents"][np.array([17])]
    assert latents.shape == (1, 4, 8, 8)
    alone = make_maker(
        tmp_path / "alone", latents=encoder, encoder=None, source=maker.source.take(np.array([17]))
    )
    alone.make(0)
    again = Prepared.open([shard_path(tmp_path / "alone", 0)]).tensors["latents"]
    assert np.allclose(again[np.array([0])], latents, atol=1e-4)
    flipped = prepared.tensors["latents_flip"][np.array([17])]
    assert not np.allclose(flipped, latents[..., ::-1], atol=1e-2), "its own noise"
