import pytest
import torch

from gmem_shared.errors import InvalidRequestError
from gmem_trainer.sampling.devices import choose_devices


@pytest.fixture
def gpus(monkeypatch):
    def set_number(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return set_number


@pytest.mark.parametrize(
    ("number", "wish", "processes", "local_rank", "expected"),
    [
        (0, "auto", None, None, ["cpu", "cpu", "cpu"]),
        (0, "auto", 1, None, ["cpu"]),
        (0, "auto", None, 2, ["cpu"]),
        (2, "auto", None, None, ["cuda:0", "cuda:1"]),
        (2, "cpu", 2, None, ["cpu", "cpu"]),
        (2, "cuda", 3, None, ["cuda:0", "cuda:1", "cuda:0"]),
        (2, "cuda:1", None, None, ["cuda:1"]),
        (2, "auto", None, 1, ["cuda:1"]),
    ],
)
def test_one_device_per_process(gpus, number, wish, processes, local_rank, expected) -> None:
    gpus(number)
    assert choose_devices(wish, processes, local_rank, num_cores=3) == expected


@pytest.mark.parametrize("wish", ["cuda", "cuda:7", "tpu"])
def test_devices_that_are_not_there_are_refused(gpus, wish) -> None:
    gpus(0)
    with pytest.raises(InvalidRequestError, match=f"found '{wish}'"):
        choose_devices(wish, None, None, num_cores=3)
