"""Model versions in the layouts of the programs that first published them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmem_model.checkpoint import load_network
from gmem_model.importing.model import NETWORK
from gmem_shared.bank_data import BankData
from gmem_shared.bank_rows import BLOCK_ROWS
from gmem_shared.errors import InvalidRequestError
from gmem_shared.model_config import ModelConfig
from gmem_shared.store import OpenVersion

Layout = Literal["v1", "v2", "sit", "repa", "ema"]
LAYOUTS: tuple[Layout, ...] = get_args(Layout)

_KINDS = {
    ("sit", "snippet", "interpolant"): "v1",
    ("lightningdit", "snippet", "transport"): "v2",
    ("sit", "label", "transport"): "sit",
    ("sit", "label", "interpolant"): "repa",
}
"""Family, condition and process of a network, and the layout of its own program."""


def export_model(
    opened: OpenVersion,
    config: ModelConfig,
    layout: Layout,
    path: Path,
    bank: BankData | None = None,
) -> None:
    """Write a checkpoint file.

    Args:
        opened: The model version.
        config: Its configuration.
        layout: ``v1`` is one file of network, bank and frequencies; ``v2`` and ``ema`` hold the
            weights under ``ema``; ``sit`` and ``repa`` are the bare weights. ``ema`` suits every
            transformer, the others only their own family.
        path: The file; another of this name is replaced once the new one is complete.
        bank: Whose rows go into a ``v1`` file, in the order of their source ids.

    Raises:
        InvalidRequestError: The model is of another family than the layout, there is no bank, or no
            folder for the file.
    """
    _check_layout(opened, config, layout)
    if path.is_dir() or not path.parent.is_dir():
        raise InvalidRequestError(f"expected {path} to be a file in an existing folder; choose one")
    weights = load_network(opened.path(NETWORK), config).state_dict()
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        content: Any = weights
        if layout in ("v2", "ema"):
            content = {"ema": weights}
        elif layout == "v1":
            content = {"network": weights, **_memory(Path(folder), bank)}
        torch.save(content, Path(folder) / path.name)
        (Path(folder) / path.name).replace(path)


def _check_layout(opened: OpenVersion, config: ModelConfig, layout: Layout) -> None:
    a = config.architecture
    own = _KINDS.get((a.family, a.condition.kind, config.process.kind))
    if own is None:
        raise InvalidRequestError(
            f"expected a transformer, found {opened.version.ref} of family {a.family!r}, whose own "
            f"files hold program code and are not written here"
        )
    if layout not in (own, "ema"):
        raise InvalidRequestError(
            f"expected layout {own} or ema for {opened.version.ref}, found {layout}"
        )


def _memory(folder: Path, bank: BankData | None) -> dict[str, Tensor | list[int]]:
    """Put the rows back in the order they had, in a file, as a bank may exceed the memory."""
    if bank is None:
        raise InvalidRequestError("expected a bank for a v1 file, found none; name it with --bank")
    order = np.argsort(bank.source_ids, kind="stable")
    shape = (len(bank), bank.dimension)
    rows: NDArray[np.float32] = np.memmap(folder / "memorybank", np.float32, "w+", shape=shape)
    for start in range(0, len(order), BLOCK_ROWS):
        rows[start : start + BLOCK_ROWS] = bank.vectors[order[start : start + BLOCK_ROWS]]
    return {"memorybank": torch.from_numpy(rows), "memoryfreq": bank.weights[order].tolist()}
