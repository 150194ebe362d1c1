import numpy as np
import pytest
from safetensors.numpy import save_file

from gmem_shared.errors import InvalidRequestError
from gmem_trainer.preparation.shards import (
    Prepared,
    ShardRows,
    find_shards,
    holds_shards,
    is_complete,
    shard_path,
    write_shard,
)


def tensors(count: int, offset: int = 0) -> dict[str, np.ndarray]:
    ids = np.arange(offset, offset + count)
    return {
        "latents": np.ones((count, 1, 2, 2), np.float32)
        * ids.astype(np.float32)[:, None, None, None],
        "labels": ids % 3,
        "source_ids": ids,
    }


@pytest.fixture
def folder(tmp_path):
    for number, (count, offset) in enumerate([(3, 0), (4, 3)]):
        write_shard(shard_path(tmp_path, number), tensors(count, offset))
    return tmp_path


def test_rows_are_found_across_shards_in_the_order_asked_for(folder) -> None:
    prepared = Prepared.open(find_shards(folder))
    assert len(prepared) == 7
    rows = prepared.tensors["latents"][np.array([6, 0, 3, 3, 2])]
    assert rows[:, 0, 0, 0].tolist() == [6, 0, 3, 3, 2]
    assert prepared.tensors["latents"][1:6:2][:, 0, 0, 0].tolist() == [1, 3, 5]
    assert prepared.tensors["latents"].shape == (7, 1, 2, 2)
    assert prepared.labels.tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert prepared.source_ids.tolist() == list(range(7))


def test_no_rows_are_an_empty_array(folder) -> None:
    rows = Prepared.open(find_shards(folder)).tensors["latents"][np.array([], np.int64)]
    assert rows.shape == (0, 1, 2, 2)


def test_a_shard_is_complete_only_with_the_content_it_was_written_with(folder) -> None:
    path = shard_path(folder, 0)
    assert is_complete(path)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert not is_complete(path)
    path.write_bytes(bytes(content[:-8]))
    assert not is_complete(path)
    path.unlink()
    assert not is_complete(path)


def test_shards_are_ordered_by_rank_and_number(tmp_path) -> None:
    names = [f"latents_rank{r:02d}_shard{s:03d}.safetensors" for r in (0, 1) for s in (0, 2, 10)]
    for name in reversed(names):
        save_file({"latents": np.zeros((1, 1, 1, 1), np.float32)}, tmp_path / name)
    assert [path.name for path in find_shards(tmp_path)] == names


def test_a_folder_without_shards_is_told_apart(tmp_path) -> None:
    assert not holds_shards(tmp_path)
    assert not holds_shards(tmp_path / "absent")
    with pytest.raises(InvalidRequestError, match="latents_rankRR"):
        find_shards(tmp_path)


def test_shards_of_different_kinds_are_refused(folder) -> None:
    odd = tensors(2) | {"cls_tokens": np.zeros((2, 3), np.float32)}
    write_shard(shard_path(folder, 2), odd)
    with pytest.raises(InvalidRequestError, match="shard002"):
        Prepared.open(find_shards(folder))


def test_rows_of_two_tensors_follow_each_other() -> None:
    rows = ShardRows((np.array([[1.0]]), np.array([[2.0], [3.0]])))
    assert rows[np.array([2, 0])].tolist() == [[3.0], [1.0]]
