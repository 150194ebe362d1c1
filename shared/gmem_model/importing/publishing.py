"""Published checkpoints as versions in the store: the model, and the bank that lies beside it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gmem_model.importing.banks import ForeignBank
from gmem_model.importing.layouts import Checkpoint
from gmem_model.importing.model import CONFIG, Wishes, write_model
from gmem_shared.bank_format import write_bank
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import Condition, SnippetCondition
from gmem_shared.store import Repository, Version

ProgressBar = Callable[[str, int], AbstractContextManager[Callable[[int], None]]]
"""Shows how much of a total is done; see `gmem_shared.progress.progress_bar`."""


class Memory(NamedTuple):
    """The bank of a model, as its configuration names it."""

    default_bank: str
    training_bank: str


def check_bank(bank: ForeignBank, condition: Condition) -> None:
    """Raise `InvalidRequestError` unless a network of this condition takes a bank's snippets."""
    width = bank.vectors.shape[1]
    if not (isinstance(condition, SnippetCondition) and condition.dimension == width):
        raise InvalidRequestError(
            f"expected the bank of a network whose condition is {condition!r}, found snippets of "
            f"width {width}"
        )


def publish_bank(
    repository: Repository, bank: ForeignBank, encoder: str, bar: ProgressBar, message: str
) -> Version:
    """Publish a checkpoint's bank, exactly as it is and without labels.

    The source id of a row is its number in the file.

    Raises:
        InvalidRequestError: The rows do not make a servable bank.
    """
    rows = bank.vectors.shape[0]
    with tempfile.TemporaryDirectory() as folder, bar("bank", rows) as progress:
        files, metadata = write_bank(
            Path(folder),
            vectors=bank.vectors,
            labels=np.full(rows, -1),
            source_ids=np.arange(rows),
            classes=[],
            encoder=encoder,
            weights=bank.frequencies,
            coefficients=bank.factors,
            progress=progress,
        )
        metadata["origin"] = {"layout": bank.layout}
        return repository.publish(files, metadata=metadata, message=message)


def publish_model(
    repository: Repository,
    checkpoint: Checkpoint,
    wishes: Wishes,
    bar: ProgressBar,
    message: str,
    memory: Callable[[Condition], Memory] | None = None,
) -> Version:
    """Publish a checkpoint.

    Args:
        repository: The model to publish to.
        checkpoint: The network.
        wishes: What the checkpoint does not say.
        bar: Shows the progress.
        message: For the log of versions.
        memory: Publishes the bank that belongs to a network of this condition; asked once all else
            is sound.

    Raises:
        InvalidRequestError: Checkpoint, wishes and further files do not make a model.
    """
    size = sum(tensor.nbytes for tensor in checkpoint.weights.values())
    with tempfile.TemporaryDirectory() as folder:
        with bar("network", size) as progress:
            files, config = write_model(Path(folder), checkpoint, wishes, progress)
        if memory is not None:
            config = config.model_copy(update=memory(config.architecture.condition)._asdict())
            files[CONFIG] = config.model_dump_json(indent=2).encode()
        origin = {"family": checkpoint.family, "container": checkpoint.container}
        return repository.publish(files, metadata={"origin": origin}, message=message)
