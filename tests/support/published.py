"""Small checkpoints in every published layout, brought into a store as their owners would."""

from __future__ import annotations

from pathlib import Path

import pytest
from structlog.testing import capture_logs
from typer.testing import CliRunner

from gmem_model.cli import app
from tests.numeric.golden_cases import GOLDEN_DIR, GoldenCase, cases
from tests.support.autoencoders import TINY, save_vavae, tiny_autoencoder

CKPT = GOLDEN_DIR / "ckpt"
BANKS = {  # beside the checkpoint, where it holds none itself
    "v1_legacy_network.pt": "bank.pth",
    "v2_train.pt": "bank_full.pth",
    "v2_raw.pth": "bank_dmd.pth",
}


def published() -> list[GoldenCase]:
    """The cases that name a checkpoint of a network."""
    return [case for case in cases() if case.kind == "ckpt.forward"]


def import_published(store_url: str, folder: Path) -> list[str]:
    """Import every checkpoint with ``gmem model import``; return the names of the models."""
    with pytest.MonkeyPatch.context() as patch, capture_logs():
        patch.setenv("GMEM_STORE__URL", store_url)
        patch.setenv("GMEM_STORE__CACHE_DIR", str(folder / "cache"))
        patch.setattr("gmem_shared.logs.configure", lambda settings: None)  # is process-wide
        return [_import(case, folder) for case in published()]


def _import(case: GoldenCase, folder: Path) -> str:
    file = Path(case.params["file"]).name
    name = Path(file).stem.replace("_", "-")
    arguments = [str(CKPT / file), "--name", name, "--alias", "production", "--steps", "3"]
    if file in BANKS:
        arguments.insert(1, str(CKPT / BANKS[file]))
    if heads := case.config.get("num_heads"):
        arguments += ["--num-heads", str(heads)]
    if depth := case.config.get("encoder_depth"):
        arguments += ["--encoder-depth", str(depth)]
    if file.startswith("v2"):
        arguments += ["--latent-stats", str(CKPT / "latents_stats.pt")]
    arguments += ["--autoencoder", str(_autoencoder(case, folder))]
    result = CliRunner().invoke(app, ["import", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return name


def _autoencoder(case: GoldenCase, folder: Path) -> Path:
    channels = case.config.get("in_channels") or case.config["img_channels"]
    path = folder / f"autoencoder-{channels}.pt"
    if not path.exists():
        save_vavae(path, tiny_autoencoder(TINY.model_copy(update={"z_channels": channels})))
    return path
