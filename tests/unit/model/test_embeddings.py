import torch

from gmem_model.embeddings import resample_position_table, rotary_table, rotate


def test_rotation_keeps_lengths_and_depends_on_distance_only() -> None:
    grid, head_width = 4, 16
    cos, sin = rotary_table(head_width, grid)
    q, k = torch.randn(2, head_width, generator=torch.Generator().manual_seed(0))
    turned_q = rotate(q.expand(1, 1, grid * grid, -1), cos, sin)[0, 0]
    turned_k = rotate(k.expand(1, 1, grid * grid, -1), cos, sin)[0, 0]
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(grid * grid))
    scores = (turned_q @ turned_k.T).view(grid, grid, grid, grid)
    torch.testing.assert_close(scores[:-1, :-1, :-1, :-1], scores[1:, 1:, 1:, 1:])


def test_resampling_to_the_same_grid_changes_nothing() -> None:
    table = torch.randn(1, 1 + 25, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(resample_position_table(table, 5), table)
