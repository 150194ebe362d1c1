from __future__ import annotations

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from gmem_generator.jobs.making import MANIFEST, assemble, pack
from gmem_generator.pipeline import FinishedImage
from gmem_generator.provenance import Provenance
from gmem_generator.replay import ReplayToken

TOKEN = ReplayToken(model=f"m@sha256-{'0' * 64}", seed=1, index=0, sampler="heun", steps=1)


def image(index: int, size: int = 50) -> FinishedImage:
    png = np.random.default_rng(index).bytes(size)
    origin = Provenance(index, 1, None, None, None, TOKEN, TOKEN.encode())
    return FinishedImage(index, np.zeros((2, 2, 1), np.uint8), png, 1, origin)


def parts(count: int, images: int, size: int = 50):
    for part in range(count):
        yield pack([image(part * images + i, size) for i in range(images)])


def test_the_result_has_every_image_of_every_part_and_one_manifest() -> None:
    content = b"".join(assemble(parts(4, 5)))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == [*(f"{index:06d}.png" for index in range(20)), MANIFEST]
        assert archive.read("000013.png") == image(13).png
        assert archive.read(MANIFEST).count(b"\n") == 20


def test_it_depends_on_nothing_but_the_images() -> None:
    assert b"".join(assemble(parts(3, 2))) == b"".join(assemble(parts(3, 2)))


@pytest.mark.slow
def test_more_images_than_a_plain_zip_can_have_fit() -> None:
    content = b"".join(assemble(parts(66, 1000)))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert len(archive.namelist()) == 66_001
        assert archive.read("065999.png") == image(65_999).png


@pytest.mark.slow
def test_the_size_of_the_result_does_not_matter_to_memory() -> None:
    def peak(count: int) -> int:
        tracemalloc.start()
        for _ in assemble(parts(count, 8, size=100_000)):
            pass
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(80) < 1.5 * peak(10)
