import numpy as np
import pytest
import torch

from gmem_trainer.encoder import SnippetEncoder, embed, encoder_files, load_encoder


@pytest.fixture
def encoder() -> SnippetEncoder:
    torch.manual_seed(0)
    return SnippetEncoder(channels=1, side=8, width=4, dimension=16).eval()


@pytest.fixture
def images() -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (6, 1, 8, 8)).astype(np.float32)


def test_snippets_have_unit_length(encoder, images) -> None:
    snippets = embed(encoder, images)
    assert snippets.shape == (6, 16)
    assert snippets.dtype == np.float32
    assert np.linalg.norm(snippets, axis=1) == pytest.approx(np.ones(6), abs=1e-6)


def test_an_image_has_the_same_snippet_in_any_company(encoder, images) -> None:
    alone = np.concatenate([embed(encoder, image[None]) for image in images])
    assert embed(encoder, images) == pytest.approx(alone, abs=1e-6)


def test_a_saved_encoder_gives_the_same_snippets(encoder, images, tmp_path) -> None:
    encoder_id, files = encoder_files(encoder, "tiny")
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    loaded = load_encoder(tmp_path)
    assert np.array_equal(embed(loaded, images), embed(encoder, images))
    assert encoder_files(loaded, "tiny")[0] == encoder_id


def test_the_id_names_weights_and_preprocessing(encoder) -> None:
    encoder_id, files = encoder_files(encoder, "tiny")
    name, digest, preprocessing = encoder_id.split(":")
    assert name == "tiny"
    assert digest.startswith("sha256-")
    assert preprocessing == "1x8x8-in-minus1-1"
    assert encoder_id in files["encoder.json"].decode()


def test_one_changed_weight_changes_the_id(encoder) -> None:
    before, _ = encoder_files(encoder, "tiny")
    with torch.no_grad():
        next(encoder.parameters()).view(-1)[0] += 1e-3
    after, _ = encoder_files(encoder, "tiny")
    assert after != before
