import pytest
import torch

from gmem_model.importing.latent_statistics import read_latent_statistics
from gmem_shared.errors import InvalidRequestError


def test_reads_one_mean_and_std_per_channel(tmp_path) -> None:
    values = {"mean": torch.arange(4.0).view(1, 4, 1, 1), "std": torch.ones(1, 4, 1, 1)}
    torch.save(values, tmp_path / "stats.pt")
    scaling = read_latent_statistics(tmp_path / "stats.pt", multiplier=0.5)
    assert torch.equal(scaling.mean, values["mean"])
    assert torch.equal(scaling.std, 2 * values["std"])


@pytest.mark.parametrize(
    "values",
    [
        [1.0],
        {"mean": torch.zeros(4)},
        {"mean": torch.zeros(4), "std": torch.ones(1)},
        {"mean": 0.0, "std": 1.0},
        {"mean": torch.zeros(4), "std": torch.zeros(4)},
        {"mean": torch.full((4,), torch.nan), "std": torch.ones(4)},
    ],
)
def test_anything_else_is_refused(values, tmp_path) -> None:
    torch.save(values, tmp_path / "stats.pt")
    with pytest.raises(InvalidRequestError, match=r"expected .*mean"):
        read_latent_statistics(tmp_path / "stats.pt")
