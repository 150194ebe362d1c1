"""A recipe that trains in a second: the real thing, only fewer steps and a smaller network."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from gmem_shared.store import Store
from gmem_trainer.presets import Preset, preset
from gmem_trainer.run import Run


@pytest.fixture
def tiny() -> Preset:
    full = preset("digits")
    return dataclasses.replace(
        full,
        encoder=dataclasses.replace(full.encoder, width=4, steps=3, batch_size=32),
        architecture=full.architecture.model_copy(
            update={"hidden_size": 16, "depth": 1, "num_heads": 2}
        ),
        training=dataclasses.replace(full.training, steps=6, batch_size=16, warmup_steps=2),
        behaviour=dataclasses.replace(full.behaviour, steps=2),
        images_per_class=20,
    )


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.from_url(str(tmp_path / "store"), tmp_path / "cache")


@pytest.fixture
def make_run(tiny: Preset, tmp_path: Path) -> Callable[..., Run]:
    """Build a tiny run that is content with any accuracy."""

    def make(**changes: object) -> Run:
        run = Run(tiny, seed=0, name="tiny", workdir=tmp_path / "work", min_accuracy=0.0)
        return dataclasses.replace(run, **changes)

    return make
