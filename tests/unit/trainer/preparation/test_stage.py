import pytest
import torch

from gmem_trainer.preparation.shards import shard_path
from gmem_trainer.preparation.stage import prepare
from gmem_trainer.training.parallel import ALONE, World


class Killed(BaseException):
    """Stands for the moment at which the process dies."""


def contents(folder) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]


def test_a_killed_run_continues_where_it_was(make_maker, tmp_path) -> None:
    told: list[int] = []

    def die(images: int) -> None:
        told.append(images)
        if sum(told) >= 25:
            raise Killed

    killed, whole = make_maker(tmp_path / "killed"), make_maker(tmp_path / "whole")
    with pytest.raises(Killed):
        prepare(killed, "local", ALONE, die)
    finished = contents(tmp_path / "killed")
    assert len(finished) == 2
    before = [path.stat().st_mtime_ns for path in sorted((tmp_path / "killed").glob("*"))]
    told.clear()
    prepared = prepare(killed, "local", ALONE, told.append)
    assert told[0] == 20, "those of the first run"
    assert sum(told) == len(prepared) == 42
    after = [path.stat().st_mtime_ns for path in sorted((tmp_path / "killed").glob("*"))]
    assert after[:2] == before[:2], "left alone"
    prepare(whole, "local", ALONE, lambda images: None)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_damaged_shard_is_made_again(make_maker, tmp_path) -> None:
    maker = make_maker(tmp_path)
    prepare(maker, "local", ALONE, lambda images: None)
    expected = contents(tmp_path)
    path = shard_path(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-4] + b"oops")
    told: list[int] = []
    prepare(maker, "local", ALONE, told.append)
    assert told == [32, 10]
    assert contents(tmp_path) == expected


def test_processes_share_the_shards(make_maker, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(World, "wait", lambda self: None)
    maker = make_maker(tmp_path)
    second = World(1, 2, torch.device("cpu"))
    with pytest.raises(FileNotFoundError):
        prepare(maker, "local", second, lambda images: None)
    assert [path.name[-15:-12] for path in sorted(tmp_path.glob("*.safetensors"))] == ["001", "003"]
    prepare(maker, "local", World(0, 2, torch.device("cpu")), lambda images: None)
    assert len(contents(tmp_path)) == 5
