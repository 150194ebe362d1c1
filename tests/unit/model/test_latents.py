import torch

from gmem_model.latents import EDM2_SD_VAE, LatentScaling


def test_measured_scaling_centres_and_scales_to_the_multiplier() -> None:
    latents = 3 * torch.randn(8, 2, 5, 5, generator=torch.Generator().manual_seed(0)) + 4
    scaled = LatentScaling.measure(latents, multiplier=0.5).to_network(latents)
    torch.testing.assert_close(scaled.mean(dim=(0, 2, 3)), torch.zeros(2), atol=1e-6, rtol=0)
    torch.testing.assert_close(scaled.std(dim=(0, 2, 3)), torch.full((2,), 0.5))


def test_scaling_is_undone_by_its_inverse() -> None:
    latents = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(EDM2_SD_VAE.to_network(EDM2_SD_VAE.to_autoencoder(latents)), latents)
