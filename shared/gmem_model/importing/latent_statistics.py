"""``latents_stats.pt``: the scaling with which a GMem v2 network was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gmem_model.importing.torch_file import plain_tensor, read_torch_file
from gmem_model.latents import LatentScaling
from gmem_shared.errors import InvalidRequestError


def read_latent_statistics(path: Path, multiplier: float = 1.0) -> LatentScaling:
    """Read the mean and the std of training latents.

    Args:
        path: A torch file that maps ``mean`` and ``std`` to one value per channel.
        multiplier: The std that the network's latents have.

    Raises:
        InvalidRequestError: The file holds anything else.
    """
    values = read_torch_file(path)
    if not isinstance(values, Mapping) or not {"mean", "std"} <= values.keys():
        raise InvalidRequestError(f"expected mean and std in {path}, found none")
    mean, std = (plain_tensor(values[name], name, path).float() for name in ("mean", "std"))
    if mean.shape != std.shape:
        raise InvalidRequestError(f"expected mean and std of the same shape in {path}")
    if not (mean.isfinite().all() and std.isfinite().all() and (std > 0).all()):
        raise InvalidRequestError(
            f"expected finite mean and std in {path}, the latter above 0, found others"
        )
    return LatentScaling(mean.reshape(1, -1, 1, 1), std.reshape(1, -1, 1, 1) / multiplier)
