import torch

from gmem_model.encoders.identity import Identity


def test_pixels_are_snippet_and_tokens() -> None:
    images = torch.arange(24.0).view(1, 2, 3, 4)
    features = Identity(channels=2, side=3).features(images)
    assert features.snippets.tolist() == [list(range(24))]
    assert features.tokens.shape == (1, 12, 2)
    assert features.tokens[0, 5].tolist() == [5, 17]


def test_the_dimension_is_the_number_of_values() -> None:
    assert Identity(channels=2, side=3).dimension == 18
