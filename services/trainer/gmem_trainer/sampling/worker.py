"""One process's share of a sampling job: the model and the bank, opened, and what they make."""

from __future__ import annotations

import torch

from gmem_model.decoding import Decoder
from gmem_model.engine.models import open_network, read_config
from gmem_shared.bank_format import open_bank
from gmem_shared.settings import StoreSettings
from gmem_shared.store import OpenVersion, Store
from gmem_shared.types import Kind, Reference
from gmem_trainer.generation import BatchSampler
from gmem_trainer.sampling.conditions import chooser
from gmem_trainer.sampling.job import Job, solver_of
from gmem_trainer.sampling.parts import Part


class Worker:
    """Makes the batches of a job, one at a time.

    Args:
        place: The store with the job's versions.
        job: What to make.
        device: ``cpu`` or ``cuda:0``, …
    """

    def __init__(self, place: StoreSettings, job: Job, device: str) -> None:
        opened = _open(place, "models", job.model)
        config = read_config(opened)
        network = open_network(opened, config).to(device)
        decoder = Decoder.open(opened, config, device)
        bank = None if job.bank is None else open_bank(_open(place, "banks", job.bank))
        self._job = job
        self._choose = chooser(job, config, bank)
        self._sample = BatchSampler(network, decoder, solver_of(job, config), device)

    def make(self, number: int) -> Part:
        """Make the images of a batch."""
        indices = self._job.indices(number)
        latents = self._sample.initial_latents(self._job.seed, indices)
        conditions = self._choose(indices, latents)
        images = self._sample(conditions.values, self._job.seed, indices)
        return Part(images, indices, conditions.rows, conditions.labels)


def _open(place: StoreSettings, kind: Kind, pinned: str) -> OpenVersion:
    """Open ``name@sha256-…``."""
    reference = Reference.parse(pinned)
    repository = Store.from_settings(place).repository(kind, reference.name)
    return repository.open(repository.resolve(reference.selector))


def reproducible(device: str) -> None:
    """Set up torch so that a batch has the same bits in every process of a job.

    One thread per process on a CPU: as many processes as cores are faster than as many threads,
    and a sum does not depend on how many threads shared it. On a GPU the published programs allow
    TF32, and so does this.
    """
    torch.set_num_threads(1)
    if torch.device(device).type == "cuda":
        torch.set_float32_matmul_precision("high")
