"""Every command of docs/import.md, on small files under the published names."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from structlog.testing import capture_logs
from typer.testing import CliRunner

from gmem_shared.cli import app
from gmem_shared.store import Store
from tests.support import autoencoders, checkpoints, edm2
from tests.support.autoencoders import TINY, tiny_autoencoder

PAGE = Path(__file__).parents[2] / "docs" / "import.md"
CLASSES = 3


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def commands() -> list[list[str]]:
    lines = "".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines]


def run(command: list[str]) -> None:
    program, *arguments = command
    assert program == "gmem"
    if arguments[:2] == ["model", "import"] and not arguments[2].endswith(".pkl"):
        arguments += ["--num-heads", "4"]  # the small sizes are not published ones
    with capture_logs():
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, (arguments, result.output)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GMEM_STORE__URL", str(tmp_path / "store"))
    monkeypatch.setenv("GMEM_STORE__CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("gmem_shared.logs.configure", lambda settings: None)  # is process-wide
    return tmp_path


@pytest.fixture
def published(folder: Path) -> Path:
    """The files that the page names."""
    checkpoints.save(folder / "GMem_XL_2Miter_ImageNet-1K_K640000_5epo.pth", "gmem-v1", "one-file")
    checkpoints.save(folder / "network.pt", "gmem-v1", "training")
    checkpoints.save(folder / "GMem_XL_160Epoch_in1k256_network.pth", "gmem-v2")
    checkpoints.save(folder / "SiT-XL-2-256x256.pt", "sit")
    checkpoints.save(folder / "last.pt", "repa")
    for name, classes in (("s-2147483-0.070", CLASSES), ("xs-0134217-0.125", 0)):
        network = edm2.network(num_classes=classes, in_channels=4)
        snapshot = edm2.snapshot(network, encoder="StabilityVAEEncoder")
        edm2.write(folder / f"edm2-img512-{name}.pkl", snapshot)
    (folder / "sd-vae-ft-mse").mkdir()
    autoencoders.save_ours(
        folder / "sd-vae-ft-mse" / "diffusion_pytorch_model.safetensors", tiny_autoencoder()
    )
    wide = tiny_autoencoder(TINY.model_copy(update={"z_channels": 32}))
    autoencoders.save_vavae(folder / "vavae-imagenet256-f16d32-dinov2.pt", wide)
    statistics = {"mean": torch.zeros(1, 32, 1, 1), "std": torch.ones(1, 32, 1, 1)}
    torch.save(statistics, folder / "latents_stats.pt")
    save_banks(folder)
    return folder


def save_banks(folder: Path) -> None:
    memory = checkpoints.memory()
    rows, width = memory["memorybank"].shape
    torch.save(memory["memorybank"], folder / "bank.pth")
    torch.save(memory["memoryfreq"], folder / "bank.freq")
    u, s, v = torch.linalg.svd(memory["memorybank"], full_matrices=False)
    factors = {"C": u * s.sqrt(), "M": v.T * s.sqrt(), "S": s, "mean": torch.zeros(width)}
    torch.save(factors, folder / "bank_dmd.pth")
    labels = np.arange(rows) % CLASSES
    for number in range(2):
        shard = {"cls_tokens": memory["memorybank"].numpy() + number, "labels": labels}
        save_file(shard, folder / f"latents_rank00_shard{number:03d}.safetensors")
    for number in range(rows):  # one image per row, in three class folders
        image = folder / "imagenet" / "train" / f"n{min(number, 2)}" / f"{number}.JPEG"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()
    names = ", ".join(f'{{"id": {i}, "name": "class {i}"}}' for i in range(CLASSES))
    (folder / "imagenet.json").write_text(f"[{names}]")


def test_every_command_of_the_page_does_what_it_says(published: Path) -> None:
    for script in blocks("python"):
        exec(script, {})  # noqa: S102 (our own page)
    assert (published / "labels.txt").read_text().split() == ["0", "1", "2", "2", "2", "2", "2"]
    for command in commands():
        run(command)
    store = Store.from_url("store", published / "cache")
    assert store.names("models") == ["edm2", "gmem-first", "gmem-v1", "gmem-v2", "repa", "sit"]
    assert store.names("banks") == ["gmem-first", "gmem-v1", "imagenet", "likeness", "plain"]


def test_page_explains_every_option_of_an_import(folder: Path) -> None:
    with capture_logs():
        usage = CliRunner(env={"COLUMNS": "300", "TERM": "dumb"}).invoke(
            app, ["model", "import", "--help"]
        )
    options = set(re.findall(r"--[a-z][a-z-]+", usage.output)) - {"--help"}
    assert options, usage.output
    assert not [option for option in sorted(options) if f"`{option}`" not in PAGE.read_text()]
