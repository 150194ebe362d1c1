"""Fixed-grid samplers as tables.

What a sampler does after a network evaluation is a linear combination with coefficients known in
advance. So a sampler is nothing but a table with one line per evaluation, and rows of different
samplers, step counts, guidance and progress can share one batch
(`docs/adr/0004-sampler-is-a-table.md`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from gmem_model.samplers import edm, interpolant, transport
from gmem_model.samplers.plan import BEFORE_FIRST, Plan, integrate
from gmem_shared.errors import InvalidRequestError, OutOfRangeError, UnknownSamplerError
from gmem_shared.model_config import EDM, Guidance, Interpolant, Process, Transport

__all__ = ["BEFORE_FIRST", "Plan", "integrate", "plan", "samplers_of"]


def plan(
    sampler: str,
    num_steps: int,
    process: Process | None = None,
    guidance: Guidance | None = None,
    *,
    reverse: bool = False,
) -> Plan:
    """Tabulate a sampler.

    Args:
        sampler: One of `samplers_of` the process.
        num_steps: As the process counts them, at least 1, for a `Transport` at least 2.
        process: How noise becomes data with the network; GMem v1's linear path by default.
        guidance: Its scale and interval; none by default, and at scale 1.
        reverse: Go from data to noise; for the deterministic samplers of a `Transport`.

    Raises:
        UnknownSamplerError: The process has no sampler of this name.
        OutOfRangeError: There are too few steps.
        InvalidRequestError: The process diverges where the sampler looks.
    """
    process = process or Interpolant()
    known = _samplers(process, reverse=reverse)
    if sampler not in known:
        raise UnknownSamplerError(f"expected one of {', '.join(known)}; found {sampler!r}")
    least = 2 if isinstance(process, Transport) else 1
    if num_steps < least:
        message = f"expected at least {least}, found {num_steps}"
        raise OutOfRangeError(
            f"num_steps: {message}", errors=[{"field": "num_steps", "message": message}]
        )
    table = known[sampler](num_steps)
    if not table.is_finite():
        raise InvalidRequestError(
            f"expected a process that {sampler} can integrate, found one that diverges: {process}; "
            "choose another sampler, diffusion or last step"
        )
    if guidance is None or guidance.scale == 1:
        return table
    return table.guided(guidance)


def samplers_of(process: Process) -> tuple[str, ...]:
    """Return the names of the samplers that can integrate a process on a fixed grid."""
    return tuple(_samplers(process))


def _samplers(process: Process, *, reverse: bool = False) -> dict[str, Callable[[int], Plan]]:
    """Return functions from a number of steps to the plan."""
    if isinstance(process, Transport):
        return transport.samplers_of(process, reverse=reverse)
    if reverse:
        return {}
    if isinstance(process, EDM):
        return {name: partial(table, process) for name, table in edm.SAMPLERS.items()}
    return {name: partial(table, process) for name, table in interpolant.SAMPLERS.items()}
