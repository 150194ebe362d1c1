"""From images to the latents that a network is trained on."""

from __future__ import annotations

from torch import Tensor

from gmem_model.autoencoder import Autoencoder
from gmem_model.latents import LatentScaling
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import AutoencoderSpace, LatentSpace


class LatentEncoder:
    """Turns images into latents of one latent space; the way back is `gmem_model.decoding.Decoder`.

    Args:
        latent_space: What the network is to sample.
        autoencoder: Of that space; none for pixels.

    Raises:
        InvalidRequestError: The latent space needs an autoencoder and there is none.
    """

    def __init__(self, latent_space: LatentSpace, autoencoder: Autoencoder | None = None) -> None:
        if isinstance(latent_space, AutoencoderSpace) and autoencoder is None:
            raise InvalidRequestError("expected an autoencoder for the latents of one, found none")
        # EDM2's formula of the last step takes images in [0, 1]: so it must be fed with them.
        self._unit_range = latent_space.eight_bit == "edm2-latent"
        self._scaling = LatentScaling.of(latent_space)
        self._autoencoder = autoencoder

    @property
    def samples(self) -> bool:
        """Whether an image has many latents, one of which is chosen by noise."""
        return self._autoencoder is not None

    def latent_shape(self, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """Return C, S, S of the latent, and of the noise, of an image of channels, height, width.

        Raises:
            InvalidRequestError: The autoencoder cannot halve the sides so often, or expects images
                of other channels.
        """
        if self._autoencoder is None:
            return image_shape
        a = self._autoencoder.architecture
        channels, height, width = image_shape
        if channels != a.image_channels or height % a.factor or width % a.factor:
            raise InvalidRequestError(
                f"expected images of {a.image_channels} channels with sides divisible by "
                f"{a.factor}, found {image_shape}"
            )
        return a.z_channels, height // a.factor, width // a.factor

    def __call__(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Encode images.

        Args:
            images: Float32 ``(n, c, h, w)`` in [-1, 1].
            noise: Standard normal, ``(n, *latent_shape)``: which latent of the autoencoder's
                posterior is taken. ``None`` takes the mean. Pixels ignore it.

        Returns:
            The network's latents, float32 ``(n, C, S, S)``.
        """
        if self._autoencoder is None:
            return images
        posterior = self._autoencoder.encode((images + 1) / 2 if self._unit_range else images)
        latents = posterior.mean if noise is None else posterior.sample(noise)
        return self._scaling.to_network(latents)
