"""What EDM2's training is made of: noise levels, loss and learning rate (arXiv 2312.02696)."""

from __future__ import annotations

import math

from torch import Tensor

from gmem_model.edm2.network import EDM2

RAMP_UP_IMAGES = 10_000_000


def noise_levels(normal_N: Tensor, mean: float, deviation: float) -> Tensor:
    """Return log-normal noise levels for standard normal values.

    Args:
        normal_N: Standard normal values.
        mean: Of the levels' natural logarithm; published: -0.4 in latent space, -0.8 for pixels.
        deviation: Of the same; published: 1 in latent space, 1.6 for pixels.
    """
    return (mean + deviation * normal_N).exp()


def loss(
    network: EDM2, images_NCSS: Tensor, labels_N: Tensor, sigma_N: Tensor, noise_NCSS: Tensor
) -> Tensor:
    """Return the denoising loss of every value, weighted by the network's own uncertainty.

    A network in training mode has its stored weights normalised first. The published training
    minimises the sum over all values, divided by the number of images.

    Args:
        network: The network.
        images_NCSS: Clean images or latents, of the deviation ``sigma_data``.
        labels_N: Class ids, -1 for none.
        sigma_N: Noise levels.
        noise_NCSS: Standard normal noise.

    Returns:
        ``(N, C, S, S)``.
    """
    if network.training:
        network.normalize_weights()
    sigma_N111 = sigma_N[:, None, None, None]
    denoised_NCSS = network(images_NCSS + sigma_N111 * noise_NCSS, sigma_N, labels_N)
    sigma_data = network.architecture.sigma_data
    weight_N111 = (sigma_N111**2 + sigma_data**2) / (sigma_N111 * sigma_data) ** 2
    log_variance_N111 = network.log_variance(sigma_N)
    error_NCSS = (denoised_NCSS - images_NCSS) ** 2
    return weight_N111 / log_variance_N111.exp() * error_NCSS + log_variance_N111


def learning_rate(
    images_seen: int, batch_size: int, *, reference: float, reference_batches: float
) -> float:
    """Return the learning rate: a linear ramp, a plateau, then a decay by the inverse square root.

    Args:
        images_seen: Training images so far.
        batch_size: Images per step.
        reference: The plateau.
        reference_batches: The number of steps after which it decays.
    """
    plateaus = images_seen / (reference_batches * batch_size)
    return reference / math.sqrt(max(plateaus, 1)) * min(images_seen / RAMP_UP_IMAGES, 1)
