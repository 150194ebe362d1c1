"""The processes of one run, started by ``torchrun`` or just the one there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from gmem_model.network import Network
from gmem_model.transformer import Transformer
from gmem_shared.errors import InvalidRequestError

DeviceKind = Literal["auto", "cpu", "cuda"]

_PATIENCE = timedelta(days=7)
"""How long a process waits for others. One that died is torchrun's to notice, and one that embeds
a large data set may take very long."""


@dataclass(frozen=True, slots=True)
class World:
    """This process among those of the run.

    Attributes:
        rank: Number of this process; 0 publishes, logs and saves.
        size: Number of processes.
        device: Where this process computes.
        sharded: Whether weights, averages and moments are spread over the processes (FSDP)
            instead of being held by each of them (DDP).
    """

    rank: int
    size: int
    device: torch.device
    sharded: bool = False

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks for all."""
        return self.rank == 0

    def shard(self, network: Network) -> None:
        """Spread a network's parameters over the processes, if that was asked for."""
        if not self.sharded:
            return
        mesh = init_device_mesh(self.device.type, (self.size,))
        if isinstance(network, Transformer):
            for layer in network.modulation_layers():
                # Called on its own, before the block it belongs to.
                fully_shard(layer, mesh=mesh)
            for block in network.blocks:
                fully_shard(block, mesh=mesh)
        fully_shard(network, mesh=mesh)
        register_fsdp_forward_method(network, "forward_with_projections")

    def wrap(self, objective: nn.Module) -> nn.Module:
        """Return a module whose backward pass leaves the gradients of the whole batch."""
        if self.size == 1 or self.sharded:  # a spread network sees to its gradients itself
            return objective
        return DistributedDataParallel(objective)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean over the processes of a tensor that each of them has."""
        if self.size > 1:
            dist.all_reduce(values)
            values /= self.size
        return values

    def wait(self) -> None:
        """Return when every process came here."""
        if self.size > 1:
            dist.barrier()

    @contextmanager
    def first_ahead(self) -> Iterator[None]:
        """Let process 0 do something before the others, who then find it done."""
        if not self.first:
            self.wait()
        yield
        if self.first:
            self.wait()


ALONE = World(0, 1, torch.device("cpu"))
"""One process on the CPU."""


@contextmanager
def joined(device: DeviceKind = "cpu", *, sharded: bool = False) -> Iterator[World]:
    """Join the processes that ``torchrun`` started; alone without it.

    Raises:
        InvalidRequestError: There is no GPU, or nothing to spread the weights over.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InvalidRequestError(
            "expected a GPU that torch can use, found none; train with --device cpu"
        )
    kind = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    if not dist.is_torchelastic_launched():
        if sharded:
            raise InvalidRequestError(
                "expected several processes to spread the weights over, found one; start with "
                "torchrun --nproc-per-node N -m gmem_shared train …"
            )
        yield World(0, 1, torch.device(kind))
        return
    if kind == "cuda":
        torch.cuda.set_device(dist.get_node_local_rank())
        where = torch.device("cuda", dist.get_node_local_rank())
    else:
        where = torch.device("cpu")
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=_PATIENCE)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), where, sharded)
    finally:
        dist.destroy_process_group()


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor on the CPU; for a spread one every process must ask."""
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu()


def like(tensor: Tensor, full: Tensor) -> Tensor:
    """Return the part of ``full`` that belongs where ``tensor`` is; each process has all of it."""
    if isinstance(tensor, DTensor):
        moved = full.to(tensor.device_mesh.device_type)
        return distribute_tensor(moved, tensor.device_mesh, tensor.placements, src_data_rank=None)
    return full.to(tensor.device)
