"""Preparation as a stage of a run: whatever is missing is made, whatever is there is verified."""

from __future__ import annotations

import structlog

from gmem_trainer.preparation.engines import ENGINES, Done, Engine
from gmem_trainer.preparation.maker import ShardMaker
from gmem_trainer.preparation.shards import Prepared, is_complete, shard_path
from gmem_trainer.training.parallel import World

_log = structlog.get_logger(__name__)


def prepare(maker: ShardMaker, engine: Engine, world: World, done: Done) -> Prepared:
    """Make the shards that are missing or damaged, and open all of them.

    The processes of a run share the work; each is told of the images it finished itself, those of
    earlier runs included.
    """
    mine = range(world.rank, maker.count, world.size)
    complete = [shard for shard in mine if is_complete(shard_path(maker.folder, shard))]
    done(sum(len(maker.rows_of(shard)) for shard in complete))
    missing = [shard for shard in mine if shard not in set(complete)]
    if missing:
        _log.info("preparation.begins", shards=len(missing), complete=len(complete), engine=engine)
        ENGINES[engine](maker, missing, done)
    world.wait()
    return Prepared.open([shard_path(maker.folder, number) for number in range(maker.count)])
