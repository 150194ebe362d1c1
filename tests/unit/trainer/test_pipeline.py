import io

import numpy as np
import pytest
import torch
from PIL import Image

from gmem_model.checkpoint import load_network
from gmem_model.encoders import open_encoder
from gmem_shared.bank_format import open_bank
from gmem_shared.model_config import ModelConfig
from gmem_shared.store import Store
from gmem_trainer.data import digits
from gmem_trainer.pipeline import execute
from gmem_trainer.progress import SILENT


class Killed(BaseException):
    """Stands for the moment at which the process dies."""


def test_a_run_publishes_a_bank_and_a_model_that_belong_together(make_run, store) -> None:
    run = make_run()
    outcome = execute(run, store, SILENT)
    bank = open_bank(store.repository("banks", "tiny").open(outcome.bank))
    model = store.repository("models", "tiny").open(outcome.model)
    config = ModelConfig.model_validate(model.read_json("config.json"))
    assert config.encoder == bank.encoder
    assert config.default_bank == "tiny@production"
    assert outcome.model.manifest.metadata["bank"] == outcome.bank.digest
    load_network(model.path("network.safetensors"), config)
    assert model.read_json("evaluation.json") == outcome.evaluation
    assert Image.open(io.BytesIO(model.path("samples.png").read_bytes())).size == (546, 546)


def test_the_bank_holds_the_training_images_and_no_others(make_run, store) -> None:
    outcome = execute(make_run(), store, SILENT)
    opened = store.repository("banks", "tiny").open(outcome.bank)
    bank, dataset = open_bank(opened), digits(1797)
    assert sorted(bank.source_ids) == sorted(dataset.train.source_ids)
    images = dataset.train.find(bank.source_ids)
    assert np.array_equal(images.labels, bank.labels)
    assert [info.name for info in bank.classes][7] == "seven"

    from pyarrow import parquet

    provenance = parquet.read_table(opened.path("provenance.parquet"))
    assert provenance["source_id"].to_pylist() == bank.source_ids.tolist()


def test_the_published_encoder_makes_the_published_snippets(make_run, store) -> None:
    outcome = execute(make_run(), store, SILENT)
    encoder = open_encoder(store.repository("models", "tiny").open(outcome.model))
    bank = open_bank(store.repository("banks", "tiny").open(outcome.bank))
    images = digits(1797).train.find(bank.source_ids)
    snippets = encoder.embed(torch.from_numpy(images.pixels))
    assert np.allclose(snippets, bank.vectors, atol=1e-3)
    assert encoder.id == bank.encoder


def test_the_seed_decides_every_byte_of_bank_and_model(make_run, tmp_path) -> None:
    def digests(seed: int, folder: str) -> tuple[str, str]:
        store = Store.from_url(str(tmp_path / folder), tmp_path / "cache")
        outcome = execute(make_run(seed=seed, workdir=tmp_path / folder), store, SILENT)
        return outcome.bank.digest, outcome.model.digest

    first = digests(0, "a")
    assert digests(0, "b") == first
    assert set(digests(1, "c")).isdisjoint(first)


def test_running_again_publishes_nothing_new(make_run, store) -> None:
    first = execute(make_run(), store, SILENT)
    second = execute(make_run(), store, SILENT)
    assert (second.bank.ref, second.model.ref) == (first.bank.ref, first.model.ref)
    for kind in ("banks", "models"):
        repository = store.repository(kind, "tiny")
        assert len(repository.versions()) == 1
        assert len(repository.alias_history("production")) == 1


def test_images_below_the_gate_are_published_but_not_served(make_run, store) -> None:
    outcome = execute(make_run(min_accuracy=1.0), store, SILENT)
    assert not outcome.promoted
    assert store.repository("models", "tiny").latest().ref == outcome.model.ref
    assert store.repository("models", "tiny").aliases() == {}
    assert store.repository("banks", "tiny").aliases() == {}


@pytest.mark.parametrize(
    "stage",
    [
        "gathering.trained_encoder",
        "material.prepare",
        "pipeline.publish_bank",
        "pipeline.train",
        "pipeline.open_bank",
        "pipeline.Judge",
        "pipeline.evaluate",
        "pipeline.publish_model",
        "pipeline.promote",
    ],
)
def test_a_run_killed_in_any_stage_is_completed_by_the_next(
    make_run, store, monkeypatch, tmp_path, stage
) -> None:
    def die(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(f"gmem_trainer.{stage}", die)
        with pytest.raises(Killed):
            execute(make_run(), store, SILENT)
    outcome = execute(make_run(), store, SILENT)
    assert outcome.promoted
    for version, kind in ((outcome.bank, "banks"), (outcome.model, "models")):
        repository = store.repository(kind, "tiny")
        repository.verify(version)
        assert [v.seq for v in repository.versions()] == [1]
        assert repository.alias("production").digest == version.digest
