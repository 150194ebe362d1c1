import pytest
import torch

from gmem_model.encoders import SnippetEncoder
from gmem_model.encoders.convnet import ConvNet
from gmem_model.encoders.identity import Identity


@pytest.fixture
def encoder() -> SnippetEncoder:
    torch.manual_seed(0)
    return SnippetEncoder.of(ConvNet(channels=1, side=8, width=4, dimension=16), "tiny")


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_id_names_weights_and_preprocessing(encoder) -> None:
    name, digest, preprocessing = encoder.id.split(":")
    assert name == "tiny"
    assert digest.startswith("sha256-")
    assert preprocessing == "1x8x8-in-minus1-1"


def test_one_changed_weight_changes_the_id(encoder) -> None:
    with torch.no_grad():
        next(encoder.network.parameters()).view(-1)[0] += 1e-3
    assert SnippetEncoder.of(encoder.network, "tiny").id != encoder.id


def test_snippets_have_unit_length_where_the_encoder_says_so(encoder, images) -> None:
    snippets = encoder.embed(images)
    assert snippets.shape == (6, encoder.dimension)
    torch.testing.assert_close(snippets.norm(dim=1), torch.ones(6))


def test_snippets_keep_their_length_otherwise(images) -> None:
    encoder = SnippetEncoder.of(Identity(channels=1, side=8), "pixels")
    assert not encoder.normalized
    assert torch.equal(encoder.embed(images), images.flatten(1))


def test_an_image_has_the_same_snippet_in_any_company(encoder, images) -> None:
    alone = torch.cat([encoder.embed(image[None]) for image in images])
    torch.testing.assert_close(encoder.embed(images), alone, atol=1e-6, rtol=0)


def test_targets_of_training_carry_no_gradient_but_serve_a_loss(encoder, images) -> None:
    features = encoder.features(images)
    assert not features.tokens.requires_grad
    weight = torch.ones(1, requires_grad=True)
    (features.tokens * weight).sum().backward()
    assert weight.grad is not None
