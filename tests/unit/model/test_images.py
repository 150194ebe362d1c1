import pytest
import torch

from gmem_model.images import quantize


@pytest.mark.parametrize("formula", ["rounded", "gmem-v1", "sit", "edm2-latent"])
def test_values_out_of_range_are_clamped(formula) -> None:
    assert quantize(torch.tensor([-7.0, 7.0]), formula).tolist() == [0, 255]
