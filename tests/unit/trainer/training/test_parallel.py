import pytest
import torch

from gmem_shared.errors import InvalidRequestError
from gmem_trainer.training.parallel import ALONE, joined, like, whole


def test_one_process_needs_no_launcher() -> None:
    with joined("cpu") as world:
        assert (world.rank, world.size, world.first) == (0, 1, True)
        world.wait()
        with world.first_ahead():
            pass
        module = torch.nn.Linear(2, 2)
        assert world.wrap(module) is module
        values = torch.tensor([1.0, 2.0])
        assert world.mean(values).tolist() == [1, 2]


def test_one_process_has_nobody_to_share_weights_with() -> None:
    with pytest.raises(InvalidRequestError, match="torchrun"), joined("cpu", sharded=True):
        pass


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="--device cpu"), joined("cuda"):
        pass


def test_a_tensor_held_by_one_process_is_whole() -> None:
    tensor = torch.arange(4.0, requires_grad=True)
    assert torch.equal(whole(tensor), torch.arange(4.0))
    assert torch.equal(like(tensor, torch.ones(4)), torch.ones(4))
    assert ALONE.device.type == "cpu"
