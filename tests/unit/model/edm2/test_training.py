import pytest
import torch

from gmem_model.edm2 import training
from tests.support.edm2 import network


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = 0.5 * torch.randn(6, 3, 8, 8, generator=generator)
    labels = torch.tensor([0, 1, 2, 3, 4, -1])
    sigma = training.noise_levels(torch.randn(6, generator=generator), -0.4, 1.0)
    return images, labels, sigma, torch.randn(6, 3, 8, 8, generator=generator)


def test_the_logarithm_of_noise_levels_has_the_given_moments() -> None:
    normal = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    logarithm = training.noise_levels(normal, -0.8, 1.6).log()
    assert logarithm.mean().item() == pytest.approx(-0.8, abs=0.02)
    assert logarithm.std().item() == pytest.approx(1.6, abs=0.02)


@torch.no_grad()
def test_the_loss_of_a_fresh_network_is_about_one_at_every_noise_level() -> None:
    """The weights make the raw output's squared error count alike at every noise level."""
    edm2 = network()
    edm2.unet.out_gain.zero_()
    edm2.logvar_linear.weight.zero_()
    generator = torch.Generator().manual_seed(0)
    images, noise = torch.randn(2, 256, 3, 8, 8, generator=generator)
    for sigma in (0.002, 0.5, 80.0):
        levels = torch.full((256,), sigma)
        found = training.loss(edm2, 0.5 * images, torch.full((256,), -1), levels, noise)
        assert found.mean().item() == pytest.approx(1, abs=0.03), sigma


@torch.no_grad()
def test_the_uncertainty_divides_the_error_and_is_paid_for(batch) -> None:
    images, labels, sigma, noise = batch
    edm2 = network()
    log_variance = edm2.log_variance(sigma)
    with_it = training.loss(edm2, images, labels, sigma, noise)
    edm2.logvar_linear.weight.zero_()
    without = training.loss(edm2, images, labels, sigma, noise)
    torch.testing.assert_close(with_it, without / log_variance.exp() + log_variance)


def test_training_normalises_the_stored_weights_and_evaluation_leaves_them(batch) -> None:
    edm2 = network()
    with torch.no_grad():
        edm2.unet.out_conv.weight.mul_(10)
    before = edm2.unet.out_conv.weight.detach().clone()
    training.loss(edm2, *batch)
    assert torch.equal(edm2.unet.out_conv.weight, before)
    training.loss(edm2.train(), *batch)
    rms = edm2.unet.out_conv.weight.detach().flatten(1).square().mean(1).sqrt()
    torch.testing.assert_close(rms, torch.ones(3), rtol=1e-3, atol=1e-3)


def test_every_weight_learns_and_steps_lower_the_loss(batch) -> None:
    edm2 = network().train()
    optimizer = torch.optim.Adam(edm2.parameters(), lr=0.02, betas=(0.9, 0.99))
    losses = []
    for _ in range(20):
        value = training.loss(edm2, *batch).mean()
        optimizer.zero_grad()
        value.backward()
        assert all(parameter.grad.any() for parameter in edm2.parameters())
        optimizer.step()
        losses.append(value.item())
    assert losses[-1] < 0.8 * losses[0]


def test_the_learning_rate_rises_stays_and_falls_by_the_inverse_root() -> None:
    def rate(images_seen: int) -> float:
        return training.learning_rate(images_seen, 100, reference=0.01, reference_batches=1e6)

    assert rate(0) == 0
    assert rate(5_000_000) == pytest.approx(0.005)
    assert rate(10_000_000) == rate(100_000_000) == pytest.approx(0.01)
    assert rate(400_000_000) == pytest.approx(0.005)
