"""The whole way from a folder of images, with networks and steps as small as they get."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gmem_model.autoencoder import Autoencoder
from gmem_model.checkpoint import load_network
from gmem_shared.bank_format import open_bank
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import AutoencoderArchitecture, LabelCondition, ModelConfig
from gmem_trainer.banks import BankForm
from gmem_trainer.pipeline import execute
from gmem_trainer.presets import Preset, preset
from gmem_trainer.progress import SILENT
from gmem_trainer.run import Run
from tests.numeric.golden_cases import GOLDEN_DIR
from tests.support.folders import write_photos


@pytest.fixture
def small() -> Preset:
    full = preset("folder-small")
    return dataclasses.replace(
        full,
        image_size=16,
        encoder=dataclasses.replace(full.encoder, width=4, dimension=8, steps=2, batch_size=16),
        architecture=full.architecture.model_copy(
            update={"hidden_size": 16, "depth": 1, "num_heads": 2}
        ),
        training=dataclasses.replace(full.training, steps=3, batch_size=8),
        behaviour=dataclasses.replace(full.behaviour, steps=2),
        images_per_class=8,
    )


@pytest.fixture
def photos(tmp_path) -> Path:
    return write_photos(tmp_path / "photos", per_class=30)


def run_of(recipe: Preset, data: Path, workdir: Path, **options) -> Run:
    return Run(recipe, 0, "pets", workdir, 0.0, data=data, device="cpu", **options)


def config_of(store, outcome) -> tuple[ModelConfig, object]:
    opened = store.repository("models", "pets").open(outcome.model)
    return ModelConfig.model_validate(opened.read_json("config.json")), opened


def test_a_folder_becomes_a_bank_and_a_model_that_are_served(
    small, photos, store, tmp_path
) -> None:
    outcome = execute(run_of(small, photos, tmp_path / "work"), store, SILENT)
    assert outcome.promoted
    config, opened = config_of(store, outcome)
    load_network(opened.path("network.safetensors"), config)
    assert (config.architecture.in_channels, config.architecture.input_size) == (3, 16)
    opened_bank = store.repository("banks", "pets").open(outcome.bank)
    bank = open_bank(opened_bank)
    assert bank.encoder == config.encoder
    assert [(info.name, info.rows) for info in bank.classes] == [("cats", 21), ("dogs", 21)]

    from pyarrow import parquet

    uris = parquet.read_table(opened_bank.path("provenance.parquet"))["uri"].to_pylist()
    assert all(Path(uri.removeprefix("file://")).is_file() for uri in uris)
    test = outcome.evaluation["test"]
    assert {"frechet_features", "frechet_pixels", "precision", "recall"} <= test.keys()
    assert outcome.evaluation["protocol"]["test_images"] == 12


def test_running_again_does_nothing_again(small, photos, store, tmp_path, monkeypatch) -> None:
    run = run_of(small, photos, tmp_path / "work")
    first = execute(run, store, SILENT)
    monkeypatch.setattr("gmem_trainer.preparation.maker.ShardMaker.make", None)
    monkeypatch.setattr("gmem_trainer.material.train_encoder", None)
    second = execute(run, store, SILENT)
    assert (second.bank.ref, second.model.ref) == (first.bank.ref, first.model.ref)


def test_curves_lie_in_the_workdir_unless_asked_for_elsewhere(
    small, photos, store, tmp_path
) -> None:
    execute(run_of(small, photos, tmp_path / "work"), store, SILENT)
    (default,) = (tmp_path / "work").glob("*/tensorboard")
    elsewhere = tmp_path / "curves"
    execute(run_of(small, photos, tmp_path / "again", tensorboard=elsewhere), store, SILENT)
    for folder in (default, elsewhere):
        events = EventAccumulator(str(folder))
        events.Reload()
        assert [event.step for event in events.Scalars("loss/loss")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("form", "rows"), [(BankForm("most-used", 10), 10), (BankForm("compressed", 4), 42)]
)
def test_other_forms_of_a_bank_are_published_with_what_they_are(
    small, photos, store, tmp_path, form, rows
) -> None:
    recipe = dataclasses.replace(small, bank=form)
    outcome = execute(run_of(recipe, photos, tmp_path / "work"), store, SILENT)
    opened = store.repository("banks", "pets").open(outcome.bank)
    bank = open_bank(opened)
    assert len(bank) == rows
    if form.kind == "most-used":
        assert bank.weights.sum() == 42
    else:
        factors = load_file(opened.path("coefficients.safetensors"))
        decoded = factors["coefficients"] @ factors["basis"].T + factors["mean"]
        assert np.allclose(decoded, bank.vectors.astype(np.float32), atol=1e-3)


def test_a_flat_folder_makes_a_model_without_classes(small, store, tmp_path) -> None:
    write_photos(tmp_path, 60, names=("flat",))
    outcome = execute(run_of(small, tmp_path / "flat", tmp_path / "work"), store, SILENT)
    assert outcome.promoted
    assert outcome.evaluation["test"]["class_accuracy"] is None
    bank = open_bank(store.repository("banks", "pets").open(outcome.bank))
    assert bank.classes == ()
    assert set(bank.labels) == {-1}


def test_a_label_recipe_with_repa_publishes_a_model_without_bank_and_projectors(
    small, photos, store, tmp_path
) -> None:
    recipe = dataclasses.replace(
        small,
        flip=True,
        architecture=small.architecture.model_copy(
            update={
                "condition": LabelCondition(num_classes=1000),
                "projector_outputs": (768,),
                "projector_dimension": 8,
                "encoder_depth": 1,
            }
        ),
        training=dataclasses.replace(
            small.training, projection_weight=0.5, label_dropout=0.1, snippet_noise=0.0
        ),
    )
    outcome = execute(run_of(recipe, photos, tmp_path / "work"), store, SILENT)
    assert outcome.bank is None
    assert store.names("banks") == []
    config, opened = config_of(store, outcome)
    assert config.encoder is None
    assert [info.name for info in config.classes] == ["cats", "dogs"]
    assert config.architecture.condition.num_classes == 2
    assert config.architecture.projector_outputs == ()
    load_network(opened.path("network.safetensors"), config)
    state = next((tmp_path / "work").glob("*/training.safetensors"))
    assert "network.projectors.0.4.weight" in load_file(state)


def test_a_broken_image_ends_the_run_or_is_left_out(small, photos, store, tmp_path) -> None:
    path = photos / "cats" / "000.png"
    path.write_bytes(path.read_bytes()[:-100])
    run = run_of(small, photos, tmp_path / "work")
    with pytest.raises(InvalidRequestError, match=r"cats/000\.png"):
        execute(run, store, SILENT)
    outcome = execute(dataclasses.replace(run, skip_unreadable=True), store, SILENT)
    assert outcome.promoted


@pytest.mark.parametrize(
    ("name", "message"),
    [("gmem-v1-xl", "--autoencoder"), ("digits", None)],
)
def test_a_recipe_says_which_weights_it_needs(photos, store, tmp_path, name, message) -> None:
    recipe = preset(name)
    if message is None:
        recipe = dataclasses.replace(recipe, dataset=None)
        run = dataclasses.replace(run_of(recipe, photos, tmp_path), data=None)
        message = "--data"
    else:
        run = run_of(recipe, photos, tmp_path)
    with pytest.raises(InvalidRequestError, match=message):
        execute(run, store, SILENT)


def test_a_recipe_without_an_encoder_of_its_own_asks_for_weights(
    small, photos, store, tmp_path
) -> None:
    recipe = dataclasses.replace(small, encoder=None)
    with pytest.raises(InvalidRequestError, match="--encoder"):
        execute(run_of(recipe, photos, tmp_path / "work"), store, SILENT)
    outcome = execute(run_of(recipe, photos, tmp_path / "work", encoder="identity"), store, SILENT)
    config, opened = config_of(store, outcome)
    assert config.architecture.condition.dimension == 3 * 16 * 16
    assert json.loads(opened.path("encoder.json").read_bytes())["kind"] == "identity"
    assert torch.isfinite(load_file(opened.path("network.safetensors"))["pos_embed"]).all()


def test_latents_prepared_by_gmem_v2_make_a_model_with_its_autoencoder(store, tmp_path) -> None:
    data = tmp_path / "latents"
    data.mkdir()
    for name in ("latents_rank00_shard000.safetensors", "latents_stats.pt"):
        shutil.copy(GOLDEN_DIR / "ckpt" / name, data / name)
    sizes = AutoencoderArchitecture(
        channels=32, channel_mult=(1, 1), num_res_blocks=1, z_channels=32
    )
    save_file(Autoencoder(sizes).state_dict(), tmp_path / "vavae.safetensors")
    full = preset("gmem-v2-xl")
    recipe = dataclasses.replace(
        full,
        architecture=full.architecture.model_copy(
            update={
                "hidden_size": 16, "depth": 1, "num_heads": 2,
                "projector_dimension": 8, "encoder_depth": 1,
            }
        ),
        training=dataclasses.replace(full.training, steps=2, batch_size=4, precision="float32"),
        behaviour=dataclasses.replace(full.behaviour, steps=2),
    )  # fmt: skip
    run = run_of(recipe, data, tmp_path / "work", autoencoder=tmp_path / "vavae.safetensors")
    outcome = execute(run, store, SILENT)
    config, opened = config_of(store, outcome)
    statistics = torch.load(data / "latents_stats.pt", weights_only=True)
    assert config.latent_space.mean == pytest.approx(statistics["mean"].flatten().tolist())
    assert opened.path("autoencoder.safetensors").is_file()
    assert "not evaluated" in outcome.evaluation["protocol"]
    assert len(open_bank(store.repository("banks", "pets").open(outcome.bank))) > 0
