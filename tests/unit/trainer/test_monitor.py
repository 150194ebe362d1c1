from __future__ import annotations

import socket
import threading
import time

import httpx
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from gmem_shared.errors import NotReadyError
from gmem_shared.settings import TrainerSettings
from gmem_trainer import pipeline
from gmem_trainer.monitor import Monitor, monitored
from gmem_trainer.pipeline import execute
from gmem_trainer.progress import SILENT
from tests.support.stack import free_port, wait_for


def scrape(port: int) -> dict[tuple[str, ...], float]:
    """Samples by name and values of their labels, which come in order of their names."""
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_run_is_in_one_stage_at_a_time() -> None:
    registry = CollectorRegistry()
    monitor = Monitor(registry)

    def stages() -> list[str]:
        (family,) = [m for m in registry.collect() if m.name == "gmem_trainer_stage"]
        return [sample.labels["stage"] for sample in family.samples if sample.value]

    assert stages() == ["prepare"]
    monitor.trains(10)
    assert stages() == ["train"]
    monitor.enter("failed")
    assert stages() == ["failed"]


@pytest.fixture
def settings() -> TrainerSettings:
    return TrainerSettings(metrics_port=free_port(), metrics_linger_seconds=30)


def test_a_run_that_has_ended_waits_until_its_figures_were_read(make_run, store, settings) -> None:
    outcomes = []
    run = make_run(metrics=settings)
    training = threading.Thread(target=lambda: outcomes.append(execute(run, store, SILENT)))
    training.start()
    seen: dict[tuple[str, ...], float] = {}

    def ended() -> bool:
        seen.update(scrape(settings.metrics_port))
        return seen["gmem_trainer_stage", "done"] == 1

    wait_for(ended, "a run that is done")
    training.join(30)
    (outcome,) = outcomes
    assert seen["gmem_trainer_step",] == seen["gmem_trainer_steps",] == 6
    assert seen["gmem_trainer_images_total",] == 6 * 16
    assert seen["gmem_trainer_prepared_images_total",] > 1000
    assert seen["gmem_trainer_loss", "loss"] > 0
    validation = outcome.evaluation["validation"]
    for figure in ("class_accuracy", "frechet_features", "recall", "nn_ratio"):
        assert seen["gmem_trainer_evaluation", figure, "validation"] == validation[figure]
    assert seen["gmem_trainer_published_version", "banks", "tiny"] == outcome.bank.seq
    assert seen["gmem_trainer_published_version", "models", "tiny"] == outcome.model.seq
    age = time.time() - seen["gmem_trainer_published_timestamp_seconds", "models", "tiny"]
    assert 0 <= age < 60
    assert seen["gmem_trainer_promoted", "tiny"] == 1


def test_a_run_that_fails_says_so_before_it_ends(make_run, store, settings, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no memory")

    monkeypatch.setattr(pipeline, "build_memory", broken)
    failures = []

    def work() -> None:
        with pytest.raises(RuntimeError, match="no memory"):
            execute(make_run(metrics=settings), store, SILENT)
        failures.append(True)

    training = threading.Thread(target=work)
    training.start()
    wait_for(
        lambda: scrape(settings.metrics_port)["gmem_trainer_stage", "failed"] == 1, "a failed run"
    )
    training.join(30)
    assert failures == [True]


def test_nobody_who_reads_keeps_a_run_for_ever() -> None:
    settings = TrainerSettings(metrics_port=free_port(), metrics_linger_seconds=0.1)
    with monitored(settings) as monitor:
        monitor.enter("publish")


def test_a_port_that_is_taken_is_named_with_its_setting(settings) -> None:
    with (
        socket.create_server(("127.0.0.1", settings.metrics_port)),
        pytest.raises(NotReadyError, match="GMEM_TRAINER__METRICS_PORT"),
        monitored(settings),
    ):
        pass


def test_without_a_port_nothing_is_served_and_nothing_waits() -> None:
    started = time.monotonic()
    with monitored(TrainerSettings()):
        pass
    assert time.monotonic() - started < 1
