import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gmem_model.checkpoint import load_network
from gmem_model.importing.architectures import Unshown, infer_architecture
from gmem_model.importing.layouts import Checkpoint
from gmem_model.importing.model import NETWORK, Wishes, write_model, write_network
from gmem_model.networks import build
from gmem_model.presets import preset
from gmem_shared.errors import InvalidRequestError
from tests.support import checkpoints
from tests.support.checkpoints import ARCHITECTURES

UNSHOWN = Unshown(num_heads=4)


def checkpoint(**changes: torch.Tensor) -> Checkpoint:
    return Checkpoint("sit", "state-dict", checkpoints.weights(ARCHITECTURES["sit"]) | changes)


def test_half_precision_stays_and_other_formats_become_single(tmp_path: Path) -> None:
    weights = checkpoints.weights(ARCHITECTURES["sit"])
    weights["final_layer.linear.bias"] = weights["final_layer.linear.bias"].half()
    weights["final_layer.linear.weight"] = weights["final_layer.linear.weight"].double()
    _, config = write_model(tmp_path, checkpoint(**weights), Wishes(UNSHOWN))
    loaded = load_network(tmp_path / NETWORK, config).state_dict()
    for name, tensor in weights.items():
        assert torch.equal(loaded[name], tensor.float()), name


def test_weights_may_be_any_view(tmp_path: Path) -> None:
    weight = checkpoints.weights(ARCHITECTURES["sit"])["final_layer.linear.weight"]
    given = checkpoint(**{"final_layer.linear.weight": weight.T.contiguous().T})
    _, config = write_model(tmp_path, given, Wishes(UNSHOWN))
    loaded = load_network(tmp_path / NETWORK, config).state_dict()
    assert torch.equal(loaded["final_layer.linear.weight"], weight)


def test_progress_tells_every_byte(tmp_path: Path) -> None:
    sizes: list[int] = []
    given = checkpoint()
    write_model(tmp_path, given, Wishes(UNSHOWN), sizes.append)
    assert sum(sizes) == sum(tensor.nbytes for tensor in given.weights.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"blocks.0.extra": torch.zeros(1)}, "unexpected: blocks.0.extra"),
        ({"t_embedder.mlp.2.bias": torch.zeros(5)}, r"t_embedder.mlp.2.bias \(expected \(32,\)"),
        ({"t_embedder.mlp.2.bias": torch.zeros(32, dtype=torch.int32)}, "of another type"),
        ({"t_embedder.mlp.2.bias": torch.full((32,), torch.nan)}, "NaN or infinity in t_embedder"),
        (
            {"t_embedder.mlp.2.bias": torch.full((32,), 1e300, dtype=torch.float64)},
            "NaN or infinity",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        write_model(tmp_path, checkpoint(**changes), Wishes(UNSHOWN))


def test_rotary_tables_may_be_missing(tmp_path: Path) -> None:
    weights = checkpoints.weights(ARCHITECTURES["gmem-v2"])
    given = Checkpoint("gmem-v2", "state-dict", weights)
    architecture = infer_architecture(given, UNSHOWN, projectors=True)
    bare = {name: w for name, w in weights.items() if not name.startswith("feat_rope.")}
    write_network(tmp_path / NETWORK, Checkpoint("gmem-v2", "state-dict", bare), architecture)


MEASURE = r"""
import re, sys
from pathlib import Path
from gmem_model.importing.architectures import Unshown
from gmem_model.importing.layouts import read_checkpoint
from gmem_model.importing.model import Wishes, write_model

def peak_kib():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])

def import_file(name, heads):
    folder = Path(sys.argv[1])
    write_model(folder, read_checkpoint(folder / name), Wishes(Unshown(heads)))

import_file("small.pt", 4)  # what torch loads for any import does not count
before = peak_kib()
import_file("big.pt", None)
print(peak_kib() - before)
"""


@pytest.mark.slow
def test_import_takes_little_more_memory_than_the_weights(tmp_path: Path) -> None:
    with torch.device("meta"):
        expected = build(preset("SiT-S/2")).state_dict()
    weights = {name: torch.zeros(w.shape) for name, w in expected.items()}
    copies = {name: w.clone() for name, w in weights.items()}
    torch.save({"model": copies, "ema": weights, "opt": {"state": copies}}, tmp_path / "big.pt")
    checkpoints.save(tmp_path / "small.pt", "sit")
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    grown_kib = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    size_kib = sum(w.nbytes for w in weights.values()) >> 10
    assert grown_kib < 1.3 * size_kib, f"{grown_kib} KiB for weights of {size_kib} KiB"
