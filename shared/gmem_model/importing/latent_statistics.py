"""``latents_stats.pt``: the scaling with which a GMem v2 network was trained."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from gmem_model.importing.torch_file import read_torch_file
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
    mean, std = values["mean"], values["std"]
    if not (isinstance(mean, Tensor) and isinstance(std, Tensor) and mean.shape == std.shape):
        raise InvalidRequestError(f"expected mean and std of the same shape in {path}")
    return LatentScaling(mean.float().view(1, -1, 1, 1), std.float().view(1, -1, 1, 1) / multiplier)
