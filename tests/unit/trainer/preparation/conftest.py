from pathlib import Path

import pytest
import torch

from gmem_model.encoders import SnippetEncoder
from gmem_model.encoders.convnet import ConvNet
from gmem_trainer.codec import Codec
from gmem_trainer.preparation.maker import ShardMaker
from tests.support.folders import small_folder


@pytest.fixture
def make_maker(tmp_path):
    """Build a maker of 10-image shards of 42 colour images."""
    dataset = small_folder(tmp_path / "photos")
    torch.manual_seed(0)
    encoder = SnippetEncoder.of(ConvNet(3, 16, width=4, dimension=8), "tiny")

    def make(folder: Path, **changes) -> ShardMaker:
        options = {
            "source": dataset.train,
            "folder": folder,
            "shard_rows": 10,
            "latents": Codec.open("pixels", None).encoder,
            "encoder": encoder,
            "tokens": True,
            "flip": True,
            "device": torch.device("cpu"),
            "threads": 1,
        }
        return ShardMaker(**options | changes)

    return make
