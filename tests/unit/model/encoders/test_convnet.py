import torch

from gmem_model.encoders.convnet import ConvNet


def test_features_are_the_parts_of_one_forward_pass() -> None:
    torch.manual_seed(0)
    network = ConvNet(channels=3, side=8, width=4, dimension=16).eval()
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        features = network.features(images)
        assert torch.equal(features.snippets, network(images))
        places = network.feature_map(images)
    assert features.snippets.shape == (2, network.dimension)
    assert features.tokens.shape == (2, 16, 8)
    assert torch.equal(features.tokens[1, 4 * 2 + 3], places[1, :, 2, 3])
