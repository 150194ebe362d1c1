import pickle

import numpy as np
import pytest
import torch

from gmem_model.importing.edm2 import read_edm2
from gmem_model.networks import build
from gmem_shared.errors import InvalidRequestError
from tests.support import edm2


class Tensorlike:
    """Pickled as a tensor of these sizes over a storage of these values."""

    def __init__(self, values: torch.Tensor, size: tuple[int, ...], stride: tuple[int, ...]):
        storage = values.untyped_storage()
        self._storage = torch.storage.TypedStorage(
            wrap_storage=storage, dtype=values.dtype, _internal=True
        )
        self._size, self._stride = size, stride

    def __reduce__(self):
        arguments = (self._storage, 0, self._size, self._stride, False, {})
        return torch._utils._rebuild_tensor_v2, arguments


@pytest.fixture
def file(tmp_path):
    return tmp_path / "network-snapshot-0000001-0.100.pkl"


def state(content, *path):
    """Return the state of a module in a snapshot."""
    module = content["ema"]
    for name in path:
        module = module.meta["state"]["_modules"][name]
    return module.meta["state"]


@pytest.mark.parametrize("num_classes", [0, 5])
def test_reads_architecture_and_weights(file, num_classes) -> None:
    network = edm2.network(num_classes, concat_balance=0.3, dropout=0.1)
    found = read_edm2(edm2.write(file, edm2.snapshot(network)))
    assert found.architecture == network.architecture
    expected = network.half().state_dict()
    assert found.weights.keys() == expected.keys()
    assert all(torch.equal(found.weights[name], value) for name, value in expected.items())
    build(found.architecture).load_state_dict(found.weights)


def test_reads_arguments_by_position(file) -> None:
    content = edm2.snapshot(edm2.network(sigma_data=0.25))
    arguments = state(content)["_init_kwargs"]
    names = ("img_resolution", "img_channels", "label_dim", "use_fp16", "sigma_data")
    state(content)["_init_args"] = tuple(arguments.pop(name) for name in names)
    assert read_edm2(edm2.write(file, content)).architecture == edm2.architecture(sigma_data=0.25)


@pytest.mark.parametrize(
    ("encoder", "space"),
    [("StandardRGBEncoder", "edm2-rgb"), ("StabilityVAEEncoder", "edm2-sd-vae")],
)
def test_the_encoder_tells_the_latent_space(file, encoder, space) -> None:
    content = edm2.snapshot(edm2.network(), encoder)
    assert read_edm2(edm2.write(file, content)).latent_space == space


def test_without_an_encoder_the_network_works_on_pixels(file) -> None:
    content = edm2.snapshot(edm2.network())
    del content["encoder"]
    assert read_edm2(edm2.write(file, content)).latent_space == "edm2-rgb"


def test_a_tensor_may_be_a_view_of_a_longer_storage(file) -> None:
    content = edm2.snapshot(edm2.network())
    values = torch.arange(20.0)
    state(content)["_buffers"]["view"] = values[3:15].view(3, 4).T
    weights = read_edm2(edm2.write(file, content)).weights
    assert torch.equal(weights["view"], values[3:15].view(3, 4).T)


def other_class(content):
    content["ema"].meta["class_name"] = "Generator"


def no_network(content):
    del content["ema"]


def plain_network(content):
    content["ema"] = {"weights": 1}


def unknown_encoder(content):
    content["encoder"].meta["class_name"] = "MyEncoder"


def unknown_option(content):
    state(content)["_init_kwargs"]["temperature"] = 2


def endless_blocks(content):
    state(content)["_init_kwargs"]["num_blocks"] = 10**9


def no_levels(content):
    state(content)["_init_kwargs"]["channel_mult"] = ()


def negative_width(content):
    state(content)["_init_kwargs"]["channel_mult_emb"] = -3


def missing_option(content):
    del state(content)["_init_kwargs"]["img_resolution"]


def other_filter(content):
    state(content)["_init_kwargs"]["resample_filter"] = [1, 3, 3, 1]


def options_of_another_type(content):
    state(content)["_init_kwargs"] = [1]


def array_for_a_parameter(content):
    state(content)["_parameters"]["weight"] = np.zeros(3)


def number_for_a_module(content):
    state(content)["_modules"]["unet"] = 3


def module_without_a_state(content):
    content["ema"].meta["modules"] = content["ema"].meta.pop("state")


def parameters_in_a_list(content):
    state(content, "unet")["_parameters"] = [1]


def module_within_itself(content):
    state(content, "unet")["_modules"]["self"] = content["ema"].meta["state"]["_modules"]["unet"]


def more_values_than_stored(content):
    tensor = Tensorlike(torch.zeros(3), (1000, 1000, 1000, 1000), (0, 0, 0, 0))
    state(content)["_buffers"]["huge"] = tensor


def beyond_the_storage(content):
    state(content)["_buffers"]["far"] = Tensorlike(torch.zeros(4), (2, 2), (1000, 1))


def one_storage_many_times(content):
    stored = Tensorlike(torch.zeros(100_000), (100_000,), (1,))
    state(content)["_buffers"] |= {f"copy{k}": stored for k in range(20)}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (other_class, "'Precond', found Generator"),
        (no_network, "'ema'"),
        (plain_network, "'ema'"),
        (unknown_encoder, "StandardRGBEncoder, StabilityVAEEncoder, found MyEncoder"),
        (unknown_option, "temperature"),
        (endless_blocks, "num_blocks"),
        (no_levels, "channel_mult"),
        (negative_width, "channel_mult_emb"),
        (missing_option, "input_size"),
        (other_filter, "resample_filter"),
        (options_of_another_type, "the options"),
        (array_for_a_parameter, "expected a tensor, found Array"),
        (number_for_a_module, "found int"),
        (module_without_a_state, "what a module of EDM2 consists of"),
        (parameters_in_a_list, "the _parameters of a module"),
        (module_within_itself, "a tree of modules"),
        (more_values_than_stored, "found 3"),
        (beyond_the_storage, "expected a tensor"),
        (one_storage_many_times, "more values than the file holds"),
    ],
)
def test_anything_but_a_snapshot_is_refused_by_name(file, change, named) -> None:
    content = edm2.snapshot(edm2.network())
    change(content)
    with pytest.raises(InvalidRequestError, match=named) as refusal:
        read_edm2(edm2.write(file, content))
    assert str(file) in refusal.value.detail


@pytest.mark.parametrize("content", [3, [1, 2], {"ema": None}, {"ema": ()}])
def test_another_pickle_is_refused(file, content) -> None:
    file.write_bytes(pickle.dumps(content))
    with pytest.raises(InvalidRequestError, match="no network snapshot"):
        read_edm2(file)
