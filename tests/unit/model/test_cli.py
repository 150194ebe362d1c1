"""``gmem model``: checkpoints of every layout into the store and back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from structlog.testing import capture_logs
from typer.testing import CliRunner

from gmem_model.checkpoint import load_guide, load_network
from gmem_model.cli import app
from gmem_model.encoders.dinov2 import PUBLISHED_VITB14
from gmem_model.engine.models import read_config
from gmem_model.importing.layouts import read_checkpoint
from gmem_shared.bank_format import open_bank
from gmem_shared.errors import GmemError, InvalidRequestError, UnknownSamplerError
from gmem_shared.model_config import AutoencoderSpace, ModelConfig
from gmem_shared.store import OpenVersion, Store
from tests.support import autoencoders, checkpoints, edm2
from tests.support.autoencoders import TINY, tiny_autoencoder
from tests.support.canary import Canary
from tests.support.checkpoints import ARCHITECTURES

HEADS = ("--num-heads", "4")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("GMEM_STORE__URL", str(tmp_path / "store"))
    monkeypatch.setenv("GMEM_STORE__CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("gmem_shared.logs.configure", lambda settings: None)  # is process-wide
    return Store.from_url(str(tmp_path / "store"), tmp_path / "cache")


def run(*arguments: str | Path) -> str:
    with capture_logs():
        result = CliRunner().invoke(app, [str(a) for a in arguments])
    if isinstance(result.exception, GmemError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def opened(store: Store, name: str = "m") -> tuple[OpenVersion, ModelConfig]:
    repository = store.repository("models", name)
    version = repository.open(repository.latest())
    return version, read_config(version)


def test_one_file_of_gmem_v1_becomes_a_model_and_its_bank(store, tmp_path) -> None:
    file = checkpoints.save(tmp_path / "gmem.pth", "gmem-v1", "one-file")
    output = run("import", file, "--name", "m", "--alias", "production", *HEADS)
    assert "published bank m@1" in output
    assert "published model m@1" in output
    assert "not served: import it again with --autoencoder" in output

    version, config = opened(store)
    network = load_network(version.path("network.safetensors"), config)
    expected = checkpoints.weights(ARCHITECTURES["gmem-v1"])
    assert all(torch.equal(w, expected[name]) for name, w in network.state_dict().items())
    assert config.architecture.projector_outputs == ()
    assert (config.default_sampler, config.default_steps) == ("euler-maruyama", 250)
    assert (config.encoder, config.default_bank) == (PUBLISHED_VITB14, "m@production")

    repository = store.repository("banks", "m")
    bank = open_bank(repository.open(repository.resolve("production")))
    assert config.training_bank == f"m@{bank.version.digest}"
    assert torch.equal(torch.tensor(bank.vectors), checkpoints.memory()["memorybank"])
    assert bank.weights.tolist() == checkpoints.memory()["memoryfreq"]


def test_first_release_comes_in_three_files(store, tmp_path) -> None:
    memory = checkpoints.memory()
    file = checkpoints.save(tmp_path / "network.pt", "gmem-v1", "training")
    torch.save(memory["memorybank"], tmp_path / "bank.pth")
    torch.save(memory["memoryfreq"], tmp_path / "bank.freq")
    run("import", file, tmp_path / "bank.pth", "--name", "m", "--bank-name", "b", *HEADS)
    _, config = opened(store)
    digest = store.repository("banks", "b").latest().digest
    assert config.default_bank == config.training_bank == f"b@{digest}"


def test_a_bank_that_is_published_already_is_not_published_again(store, tmp_path) -> None:
    file = checkpoints.save(tmp_path / "gmem.pth", "gmem-v1", "one-file")
    run("import", file, "--name", "m", "--default-bank", "labelled@production", *HEADS)
    assert opened(store)[1].default_bank == "labelled@production"
    assert not store.names("banks")


@pytest.mark.parametrize("family", sorted(ARCHITECTURES))
def test_what_was_imported_can_be_exported_and_imported_again(store, tmp_path, family) -> None:
    container = "one-file" if family == "gmem-v1" else "training"
    file = checkpoints.save(tmp_path / "in.pt", family, container)
    run("import", file, "--name", "m", "--keep-projectors", "--encoder-depth", "2", *HEADS)
    layout = family.removeprefix("gmem-")
    run("export", "m@1", tmp_path / "out.pt", "--layout", layout)
    before, after = (read_checkpoint(tmp_path / name) for name in ("in.pt", "out.pt"))
    assert after.family == family
    assert [*after.weights] == [*before.weights]
    assert all(torch.equal(after.weights[name], w) for name, w in before.weights.items())
    run("import", tmp_path / "out.pt", "--name", "again", "--encoder-depth", "2",
        "--keep-projectors", *HEADS)  # fmt: skip
    assert opened(store, "again")[1].architecture == opened(store)[1].architecture


def test_exported_one_file_holds_the_rows_as_they_came(store, tmp_path) -> None:
    file = checkpoints.save(tmp_path / "in.pth", "gmem-v1", "one-file")
    run("import", file, "--name", "m", *HEADS)
    run("export", "m@1", tmp_path / "out.pth", "--layout", "v1")
    content, memory = torch.load(tmp_path / "out.pth"), checkpoints.memory()
    assert torch.equal(content["memorybank"], memory["memorybank"])
    assert content["memoryfreq"] == memory["memoryfreq"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["store"]


def test_a_layout_of_another_family_is_refused(store, tmp_path) -> None:
    run("import", checkpoints.save(tmp_path / "sit.pt", "sit"), "--name", "m", *HEADS)
    with pytest.raises(InvalidRequestError, match="expected layout sit or ema"):
        run("export", "m@1", tmp_path / "out.pt", "--layout", "v1")
    run("export", "m@1", tmp_path / "out.pt", "--layout", "ema")
    for nowhere in (tmp_path, tmp_path / "missing" / "out.pt"):
        with pytest.raises(InvalidRequestError, match="file in an existing folder"):
            run("export", "m@1", nowhere, "--layout", "ema")
    assert read_checkpoint(tmp_path / "out.pt").container == "training"


def test_edm2_is_imported_with_its_guide_and_not_exported(store, tmp_path) -> None:
    main, guide = edm2.network(), edm2.network(num_classes=0, seed=1)
    edm2.write(tmp_path / "main.pkl", edm2.snapshot(main))
    edm2.write(tmp_path / "guide.pkl", edm2.snapshot(guide))
    run("import", tmp_path / "main.pkl", "--name", "m", "--guide", tmp_path / "guide.pkl",
        "--guidance-scale", "1.5", "--steps", "8")  # fmt: skip
    version, config = opened(store)
    assert config.architecture == main.architecture
    assert (config.default_sampler, config.default_steps) == ("heun", 8)
    assert config.guidance is not None
    assert config.guidance.scale == 1.5
    loaded = load_guide(version.path("guide.safetensors"), config)
    assert loaded.architecture == guide.architecture
    with pytest.raises(InvalidRequestError, match="program code"):
        run("export", "m@1", tmp_path / "out.pkl", "--layout", "ema")


@pytest.mark.parametrize("changes", [{"num_classes": 7}, {"input_size": 16}])
def test_a_guide_must_fit_the_guided_network(store, tmp_path, changes) -> None:
    edm2.write(tmp_path / "main.pkl", edm2.snapshot(edm2.network()))
    edm2.write(tmp_path / "guide.pkl", edm2.snapshot(edm2.network(**changes)))
    with pytest.raises(InvalidRequestError, match="expected a guide for"):
        run("import", tmp_path / "main.pkl", "--name", "m", "--guide", tmp_path / "guide.pkl")


def test_autoencoder_and_class_names_make_a_model_complete(store, tmp_path) -> None:
    autoencoders.save_vavae(tmp_path / "vae.pt", tiny_autoencoder())
    (tmp_path / "classes.json").write_text(json.dumps([{"id": 0, "name": "cat"}]))
    output = run(
        "import", checkpoints.save(tmp_path / "sit.pt", "sit"), "--name", "m", *HEADS,
        "--autoencoder", tmp_path / "vae.pt", "--classes", tmp_path / "classes.json",
        "--sampler", "heun", "--guidance-scale", "4",
    )  # fmt: skip
    assert "not served" not in output
    version, config = opened(store)
    assert isinstance(config.latent_space, AutoencoderSpace)
    assert config.latent_space.autoencoder == TINY
    assert config.latent_space.std == pytest.approx((1 / 0.18215,))
    assert "decoder.conv_in.weight" in load_file(version.path("autoencoder.safetensors"))
    assert [c.name for c in config.classes] == ["cat"]
    assert config.default_sampler == "heun"
    assert config.guidance is not None
    assert (config.guidance.scale, config.guidance.channels) == (4, 3)
    assert '"name": "cat"' in run("describe", "m@1")


def test_gmem_v2_needs_the_statistics_of_its_latents(store, tmp_path) -> None:
    file = checkpoints.save(tmp_path / "v2.pt", "gmem-v2")
    wide = TINY.model_copy(update={"z_channels": 32})
    autoencoders.save_vavae(tmp_path / "vae.pt", tiny_autoencoder(wide))
    command = ["import", file, "--name", "m", *HEADS, "--autoencoder", tmp_path / "vae.pt"]
    with pytest.raises(InvalidRequestError, match="--latent-stats"):
        run(*command)
    statistics = {"mean": torch.arange(32.0), "std": torch.full((32,), 2.0)}
    torch.save({k: v.view(1, 32, 1, 1) for k, v in statistics.items()}, tmp_path / "stats.pt")
    run(*command, "--latent-stats", tmp_path / "stats.pt")
    space = opened(store)[1].latent_space
    assert isinstance(space, AutoencoderSpace)
    assert (space.mean, space.std) == (tuple(range(32)), (2.0,) * 32)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--num-heads"),
        ((*HEADS, "--guidance-scale", "2"), "cannot be guided"),
        ((*HEADS, "--guide", "gmem.pth"), "snapshots of EDM2"),
        ((*HEADS, "--autoencoder", "bank.pth"), "bank.pth"),
        ((*HEADS, "--classes", "gmem.pth"), "gmem.pth"),
        (("bank.pth", "bank.pth", *HEADS), "at most one bank, found 3 files"),
        (("bank.pth", *HEADS, "--default-bank", "b"), "found both"),
        (("narrow.pth", *HEADS), "found snippets of width 3"),
        ((*HEADS, "--family", "edm2"), "expected EDM2, and only it, as .pkl"),
        ((*HEADS, "--steps", "1000000000"), "default_steps"),
    ],
)
def test_what_makes_no_model_is_refused_and_nothing_is_published(
    store, tmp_path, monkeypatch, options, message
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoints.save(Path("gmem.pth"), "gmem-v1", "one-file")
    torch.save(checkpoints.memory()["memorybank"], "bank.pth")
    torch.save(torch.ones(5, 3), "narrow.pth")
    with pytest.raises(InvalidRequestError, match=message):
        run("import", "gmem.pth", *options, "--name", "m")
    assert not store.names("models")
    assert not store.names("banks")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("bank.pth",), "found snippets of width"),
        (("--guide", "guide.pkl"), "two network snapshots of EDM2"),
        (("--guidance-scale", "inf"), "finite"),
    ],
)
def test_a_label_model_takes_neither_bank_nor_guide(
    store, tmp_path, monkeypatch, options, message
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoints.save(Path("sit.pt"), "sit")
    torch.save(checkpoints.memory()["memorybank"], "bank.pth")
    edm2.write(Path("guide.pkl"), edm2.snapshot(edm2.network()))
    with pytest.raises(InvalidRequestError, match=message):
        run("import", "sit.pt", *options, "--name", "m", *HEADS)
    assert not store.names("models")
    assert not store.names("banks")


def test_a_default_sampler_must_exist(store, tmp_path) -> None:
    file = checkpoints.save(tmp_path / "sit.pt", "sit")
    with pytest.raises(UnknownSamplerError, match="found 'magic'"):
        run("import", file, "--name", "m", *HEADS, "--sampler", "magic")
    assert not store.names("models")


@pytest.mark.parametrize(
    "place",
    ["checkpoint", "bank", "frequencies", "autoencoder", "latent-stats", "guide", "classes"],
)
def test_payload_in_any_file_is_refused_unexecuted(store, tmp_path, place) -> None:
    canary = tmp_path / "canary"
    memory = checkpoints.memory()
    checkpoint = checkpoints.save(tmp_path / "network.pt", "gmem-v1", "training")
    bank, evil = tmp_path / "bank.pth", tmp_path / "evil.pkl"
    torch.save(memory["memorybank"], bank)
    torch.save(memory["memoryfreq"], tmp_path / "bank.freq")
    torch.save({"mean": Canary(canary)}, evil)
    options: list[str | Path] = []
    if place == "checkpoint":
        torch.save({"ema": {}, "opt": Canary(canary)}, checkpoint)
    elif place == "bank":
        torch.save(Canary(canary), bank)
    elif place == "frequencies":
        torch.save([Canary(canary)], tmp_path / "bank.freq")
    else:
        options = [f"--{place}", evil]
    with pytest.raises(InvalidRequestError):
        run("import", checkpoint, bank, "--name", "m", *HEADS, *options)
    assert not canary.exists()
    assert not store.names("models")
    assert not store.names("banks")


def test_models_and_presets_are_listed(store, tmp_path) -> None:
    run("import", checkpoints.save(tmp_path / "sit.pt", "sit"), "--name", "m", *HEADS,
        "--alias", "production")  # fmt: skip
    assert "production=1" in run("list")
    assert "LightningDiT-XL/1" in run("presets")
