"""Which device each process of a job computes on."""

from __future__ import annotations

import torch

from gmem_shared.errors import InvalidRequestError


def choose_devices(
    wish: str, processes: int | None, local_rank: int | None, num_cores: int
) -> list[str]:
    """Return one device per process.

    Args:
        wish: ``auto`` (the GPUs, or the CPU where there is none), ``cpu``, ``cuda`` (all GPUs) or
            ``cuda:<number>``.
        processes: How many; by default one per GPU or core. They share the GPUs in turn.
        local_rank: Set if another program starts the processes: this is one of them, on the GPU
            of this number.
        num_cores: CPU cores for this job.

    Raises:
        InvalidRequestError: There is no such device.
    """
    available = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    if wish == "auto":
        wish = "cuda" if available else "cpu"
    if wish == "cpu":
        count = 1 if local_rank is not None else num_cores
        return ["cpu"] * (processes or count)
    chosen = available if wish == "cuda" else [name for name in available if name == wish]
    if not chosen:
        raise InvalidRequestError(
            f"expected auto, cpu, or one of this machine's GPUs ({', '.join(available) or 'none'}),"
            f" found {wish!r}"
        )
    if local_rank is not None:
        return [chosen[local_rank % len(chosen)]]
    return [chosen[number % len(chosen)] for number in range(processes or len(chosen))]
