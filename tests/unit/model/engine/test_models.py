"""From files to a network that was tried out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from gmem_model.checkpoint import load_guide
from gmem_model.engine import models
from gmem_model.engine.models import describe_model, open_network, read_config, try_out
from gmem_model.network import Network
from gmem_model.sit import SiT
from gmem_shared.errors import CorruptVersionError, NotReadyError
from gmem_shared.model_config import AutoencoderArchitecture, AutoencoderSpace, ModelConfig
from gmem_shared.store import OpenVersion, Store
from gmem_shared.types import ClassInfo, VersionRef
from tests.support.models import (
    edm2_config,
    label_config,
    publish_tiny_model,
    tiny_config,
    tiny_network,
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.from_url(str(tmp_path / "store"), cache_dir=tmp_path / "cache")


def opened(store: Store, files: dict[str, bytes] | None = None) -> OpenVersion:
    repository = store.repository("models", "tiny")
    version = repository.publish(files) if files else publish_tiny_model(store)
    return repository.open(version)


def test_a_published_model_opens_as_it_was_saved(store: Store) -> None:
    version = opened(store)
    config = read_config(version)
    assert config == tiny_config(default_bank="tiny@production")
    network = open_network(version, config).network
    for name, value in tiny_network(config).state_dict().items():
        assert torch.equal(network.state_dict()[name], value)
    assert not network.training


@pytest.mark.parametrize("content", [b"{}", b"not json", b'{"schema_version": 2}'])
def test_a_configuration_of_another_format_is_refused(store: Store, content: bytes) -> None:
    with pytest.raises(CorruptVersionError, match=r"config\.json of model tiny@1"):
        read_config(opened(store, {"config.json": content}))


class DependsOnCompany(SiT):
    """What a CPU does whose kernels change with the number of rows."""

    def core(self, x_NCSS: Tensor, modulation_NM: Tensor) -> Tensor:
        return super().core(x_NCSS, modulation_NM) + 1e-7 * len(x_NCSS)


def test_a_network_that_depends_on_company_is_told_apart(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = opened(store)
    config = read_config(version)
    assert try_out(open_network(version, config), config, version.version.ref)
    monkeypatch.setattr(
        models, "load_network", lambda path, config: DependsOnCompany(config.architecture)
    )
    assert not try_out(open_network(version, config), config, version.version.ref)


@pytest.mark.parametrize("config", [edm2_config(), label_config()], ids=["second", "itself"])
def test_guidance_is_opened_and_tried_with_its_model(store: Store, config: ModelConfig) -> None:
    version = store.repository("models", "tiny").open(publish_tiny_model(store, config=config))
    guided = open_network(version, config)
    assert try_out(guided, config, version.version.ref)
    assert guided.reference is not None
    assert (guided.reference is guided.network) == (config.guidance.guide is None)


def test_a_guide_that_is_not_finite_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = store.repository("models", "tiny").open(
        publish_tiny_model(store, config=edm2_config())
    )

    def spoiled(path: Path, config: ModelConfig) -> Network:
        guide = load_guide(path, config)
        for parameter in guide.parameters():
            parameter.data.fill_(torch.nan)
        return guide

    monkeypatch.setattr(models, "load_guide", spoiled)
    guided, config = open_network(version, read_config(version)), read_config(version)
    with pytest.raises(NotReadyError, match="not finite"):
        try_out(guided, config, version.version.ref)


@pytest.mark.parametrize(
    ("config", "samplers"),
    [
        (tiny_config(), ("euler", "heun", "ab2", "euler-maruyama")),
        (edm2_config(), ("heun", "euler")),
    ],
    ids=["interpolant", "edm"],
)
def test_a_description_names_the_samplers_of_the_process(
    config: ModelConfig, samplers: tuple[str, ...]
) -> None:
    version = VersionRef("tiny", 1, "")
    assert describe_model(version, config, max_steps=5, aliases=()).samplers == samplers


def test_images_are_as_large_as_the_autoencoder_makes_them() -> None:
    space = AutoencoderSpace(autoencoder=AutoencoderArchitecture(z_channels=1), eight_bit="sit")
    config = tiny_config().model_copy(update={"latent_space": space})
    info = describe_model(VersionRef("tiny", 1, ""), config, max_steps=5, aliases=())
    assert info.image_shape == (64, 64, 3)


def test_a_description_carries_what_a_front_end_needs() -> None:
    version = VersionRef("tiny", 1, "sha256-00")
    info = describe_model(version, tiny_config(), max_steps=5, aliases=("production",))
    assert info.version == version
    assert info.image_shape == (8, 8, 1)
    assert (info.max_steps, info.aliases) == (5, ("production",))
    assert (info.condition, info.classes, info.default_guidance_scale) == ("snippet", (), None)


def test_a_label_model_names_every_class_and_its_guidance() -> None:
    info = describe_model(VersionRef("sit", 1, ""), label_config(), max_steps=5, aliases=())
    assert (info.condition, info.encoder, info.default_bank) == ("label", None, None)
    assert info.default_guidance_scale == 1.5
    assert info.classes == (
        ClassInfo(0, "cat", ("n02121808",)), ClassInfo(1, "dog"), ClassInfo(2, "2"),
    )  # fmt: skip
