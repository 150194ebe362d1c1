"""Checkpoint files of every published layout: imported as a model version, loaded, evaluated."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from gmem_model.checkpoint import load_network
from gmem_model.importing.architectures import Unshown
from gmem_model.importing.layouts import read_checkpoint
from gmem_model.importing.model import NETWORK, Wishes, write_model
from gmem_model.network import Network
from tests.numeric.golden_cases import GOLDEN_DIR, GoldenCase, handles
from tests.numeric.golden_edm2 import labels

CKPT = "ckpt"


def imported(case: GoldenCase) -> Network:
    wishes = Wishes(
        unshown=Unshown(case.config.get("num_heads"), case.config.get("encoder_depth")),
        encoder="encoder",
        default_bank="bank@production",
    )
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = read_checkpoint(GOLDEN_DIR / case.params["file"])
        _, config = write_model(Path(folder), checkpoint, wishes)
        return load_network(Path(folder) / NETWORK, config)


@handles(CKPT, "ckpt.forward")
@torch.no_grad()
def forward(case: GoldenCase) -> dict[str, Tensor]:
    network, given = imported(case), case.inputs
    if "sigma" in given:
        conditions = labels(network, given["x"], given.get("class_labels"))
        return {"denoised": network(given["x"], given["sigma"], conditions)}
    condition = given["cond"] if "cond" in given else given["y"]
    return {"x": network(given["x"], given["t"], condition)}
