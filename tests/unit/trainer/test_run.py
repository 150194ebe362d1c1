import pytest

from gmem_shared.errors import InvalidRequestError
from gmem_trainer.presets import preset
from gmem_trainer.run import Run, device_kind, engine_name


def test_an_engine_or_device_that_does_not_exist_is_refused() -> None:
    assert engine_name("ray") == "ray"
    with pytest.raises(InvalidRequestError, match="local or ray, found 'spark'"):
        engine_name("spark")
    with pytest.raises(InvalidRequestError, match="auto, cpu or cuda, found 'tpu'"):
        device_kind("tpu", preset("digits"))


def test_the_device_follows_the_recipe_unless_it_is_named() -> None:
    assert device_kind("auto", preset("digits")) == "cpu"
    assert device_kind("auto", preset("gmem-v2-xl")) == "auto"
    assert device_kind("cuda", preset("digits")) == "cuda"


def test_whatever_decides_the_result_decides_the_folder(tiny, tmp_path) -> None:
    def folder(data: str = "data", **options):
        return Run(tiny, 0, "tiny", tmp_path, 0.0, **options).folder(data)

    assert folder() == folder(threads=3, checkpoint_every=7)
    others = [folder("other"), folder(encoder="identity"), folder(autoencoder=tmp_path)]
    assert len({folder(), *others}) == 4
