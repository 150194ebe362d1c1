"""Who makes the shards: this process, one after the other, or Ray, many at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

from gmem_shared.errors import InvalidRequestError
from gmem_trainer.preparation.maker import ShardMaker

Engine = Literal["local", "ray"]
Done = Callable[[int], None]
"""Told the number of images finished since the last call."""


def make_locally(maker: ShardMaker, shards: Sequence[int], done: Done) -> None:
    """Make shards one after the other."""
    for shard in shards:
        maker.make(shard, done)


class _Actor:
    """A worker of Ray that keeps encoder and autoencoder loaded from shard to shard."""

    def __init__(self, maker: ShardMaker) -> None:
        self._maker = maker

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard = int(row["item"])
        self._maker.make(shard)
        return {"images": len(self._maker.rows_of(shard))}


def make_with_ray(maker: ShardMaker, shards: Sequence[int], done: Done) -> None:
    """Make shards with Ray Data, on the cluster this process is connected to or a local one.

    The folder must be the same for all nodes. A worker on a GPU reserves one.

    Raises:
        InvalidRequestError: Ray is not installed.
    """
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InvalidRequestError(
            "expected Ray to be installed for --embed-with ray: pip install 'gmem-serving[ray]'"
        ) from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, configure_logging=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    on_gpu = maker.device.type == "cuda"
    made = ray.data.from_items(list(shards), override_num_blocks=len(shards)).map(
        _Actor,  # type: ignore[arg-type]  # Ray's types know functions only
        fn_constructor_args=(maker,),
        concurrency=(1, len(shards)),
        num_cpus=None if on_gpu else maker.threads,
        num_gpus=1 if on_gpu else None,
    )
    for row in made.iter_rows():
        done(int(row["images"]))


ENGINES: dict[Engine, Callable[[ShardMaker, Sequence[int], Done], None]] = {
    "local": make_locally,
    "ray": make_with_ray,
}
