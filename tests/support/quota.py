"""A quota as a request that is served spends it."""

from __future__ import annotations

from gmem_generator.quota import Quota
from gmem_shared.keys import Principal


async def spent(quota: Quota, principal: Principal, images: int) -> None:
    """Spend and keep; raises what `Quota.spend` does."""
    async with quota.spend(principal, images) as charge:
        charge.keep()
