"""Jobs beside the evaluations."""

from __future__ import annotations

import threading

import pytest
import torch

from gmem_model.decoding import Decoder
from gmem_model.engine.delivery import Delivery
from gmem_shared.model_config import PixelSpace
from tests.support.autoencoders import latent_config, tiny_autoencoder
from tests.support.engine import PATIENCE_SECONDS

CPU = torch.device("cpu")
DECODERS = {
    "pixels": lambda: Decoder(PixelSpace()),
    "autoencoder": lambda: Decoder(latent_config().latent_space, tiny_autoencoder()),
}


@pytest.mark.parametrize("decoder", DECODERS)
def test_jobs_run_in_their_order_and_closing_finishes_them(decoder: str) -> None:
    delivery = Delivery(DECODERS[decoder](), CPU, threads=1)
    done: list[int] = []
    for number in range(100):
        delivery.put(lambda number=number: done.append(number))  # type: ignore[misc]
    delivery.close()
    assert done == list(range(100))


def test_pixels_are_delivered_at_once() -> None:
    delivery = Delivery(DECODERS["pixels"](), CPU, threads=1)
    threads: list[threading.Thread] = []
    delivery.put(lambda: threads.append(threading.current_thread()))
    assert threads == [threading.current_thread()]
    delivery.close()


def test_an_autoencoder_holds_up_nobody() -> None:
    delivery = Delivery(DECODERS["autoencoder"](), CPU, threads=1)
    released = threading.Event()
    outcome: list[bool] = []
    delivery.put(lambda: outcome.append(released.wait(PATIENCE_SECONDS)))
    released.set()  # would never be reached if the job ran here
    delivery.close()
    assert outcome == [True]
