"""The preparation of a small folder as a program: ``… FOLDER local|ray``."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import torch

from gmem_model.encoders import SnippetEncoder
from gmem_model.encoders.convnet import ConvNet
from gmem_trainer.codec import Codec
from gmem_trainer.preparation.maker import ShardMaker
from gmem_trainer.preparation.stage import prepare
from gmem_trainer.training.parallel import ALONE
from tests.support.folders import small_folder


def main(folder: Path, engine: str) -> None:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as photos:
        maker = ShardMaker(
            source=small_folder(Path(photos) / "photos").train,
            folder=folder,
            shard_rows=10,
            latents=Codec.open("pixels", None).encoder,
            encoder=SnippetEncoder.of(ConvNet(3, 16, width=4, dimension=8), "tiny"),
            tokens=True,
            flip=True,
            device=torch.device("cpu"),
            threads=1,
        )
        told: list[int] = []
        prepared = prepare(maker, engine, ALONE, told.append)
    print(f"{sum(told)} of {len(prepared)} images")  # noqa: T201 (what the test reads)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
