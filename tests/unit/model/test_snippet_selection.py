import numpy as np
import pytest
import torch

from gmem_model.snippet_selection import select_rows
from gmem_shared.errors import OutOfRangeError


def test_rows_are_chosen_as_often_as_their_frequency_says() -> None:
    latents = torch.randn(20_000, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    frequencies = [1, 0, 3, 4, 0]
    rows = select_rows(latents, frequencies).rows
    share = torch.bincount(rows, minlength=5) / len(rows)
    np.testing.assert_allclose(share, np.array(frequencies) / 8, atol=0.012)


def test_extreme_noise_still_chooses_a_row_of_the_bank() -> None:
    latents = torch.full((1, 1, 8, 8), 10.0)
    selection = select_rows(latents, [5, 5, 0])
    assert selection.uniform.item() == 1.0
    assert selection.rows.item() == 1


@pytest.mark.parametrize("frequencies", [[], [0, 0], [3, -1]])
def test_frequencies_that_choose_nothing_are_refused(frequencies) -> None:
    with pytest.raises(OutOfRangeError, match="expected frequencies"):
        select_rows(torch.zeros(1, 1, 2, 2), frequencies)


def test_frequencies_may_be_a_list_or_an_array() -> None:
    latents = torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    frequencies = [2, 1, 7]
    assert torch.equal(
        select_rows(latents, frequencies).rows, select_rows(latents, np.array(frequencies)).rows
    )
