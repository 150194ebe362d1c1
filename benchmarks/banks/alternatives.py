"""The bank against what a user would pick instead, each peer at a size that it can hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

from benchmarks.banks.outcome import Outcome, median_seconds
from benchmarks.banks.peer import BankPeer
from benchmarks.banks.questions import DRAWN, NEIGHBOURS, Bank, Rows, recall
from benchmarks.banks.service import Service
from benchmarks.harness.interleave import interleaved, ratios
from benchmarks.harness.report import Claim
from gmem_bank.local import LocalBank
from gmem_shared.ports import BankSource
from gmem_shared.settings import Settings
from gmem_shared.store import Store
from gmem_shared.types import DrawSpec

ASKED = 16
"""Searches per repetition: Qdrant's local mode takes about a second for one in a class."""
SERVED, HERE = "the bank, gRPC", "the bank, in process"


def draws(
    service: Service,
    store: Store,
    bank: Bank,
    peers: Mapping[str, BankPeer],
    repetitions: int,
    outcome: Outcome,
    *,
    goal: float | None = None,
) -> None:
    """Draw rows of a class with their vectors.

    A peer is told the rows, as if its client had drawn them; Qdrant can also choose for itself,
    though not the same twice.
    """

    async def draw(source: BankSource, number: int) -> None:
        spec = DrawSpec(DRAWN, number, (number % len(bank.data.classes),))
        await source.draw(bank.name, [spec])

    def fetched(peer: BankPeer, repetition: int) -> float:
        return _all(peer, "fetch", bank.rows_of_classes(repetition, 20))

    def chosen(peer: BankPeer, _: int) -> float:
        return _all(peer, "draw_class", [DRAWN] * 5, bank.labels[:5])

    with _in_process(store) as (runner, local):
        sides: dict[str, Callable[[int], float]] = {
            SERVED: lambda _: service.seconds(100, partial(draw, service.client)),
            HERE: lambda _: median_seconds(lambda n: runner.run(draw(local, n)), range(100)),
        }
        for name, peer in peers.items():
            sides[f"{name}, rows told"] = partial(fetched, peer)
            if name == "Qdrant local":
                sides[f"{name}, rows chosen by it"] = partial(chosen, peer)
        seconds = interleaved(sides, repetitions)
    outcome.milliseconds(f"Draw of {DRAWN} rows of a class, {bank.size}", seconds)
    for side, taken in seconds.items():
        if goal and side not in (SERVED, HERE):
            for ours in (SERVED, HERE):
                name = f"draws/s of {ours}, against {side}"
                outcome.claims.append(Claim(name, ratios(taken, seconds[ours]), "at least", goal))


def searches(bank: Bank, peers: Mapping[str, BankPeer], repetitions: int, outcome: Outcome) -> None:
    """Find neighbours among all rows and within a class."""
    everywhere = _Question("search", "among all rows", bank, bank.neighbours()[:ASKED])
    in_class = _Question("search_class", "in a class", bank, bank.neighbours_in_class()[:ASKED])
    for question in (everywhere, in_class):
        sides: dict[str, Callable[[int], float]] = {HERE: question.ask_bank}
        sides |= {name: partial(question.ask_peer, name, peer) for name, peer in peers.items()}
        seconds = interleaved(sides, repetitions)
        title = f"{NEIGHBOURS} neighbours {question.where}, {bank.size}"
        outcome.milliseconds(title, seconds, question.recalls)


@dataclass(frozen=True)
class _Question:
    """A search that all sides are asked for; notes how much of the truth each finds."""

    job: str
    where: str
    bank: Bank
    truth: Rows
    recalls: dict[str, float] = field(default_factory=dict)

    def ask_bank(self, repetition: int) -> float:
        searcher = self.bank.searcher()
        found: list[Rows] = []

        def ask(number: int) -> None:
            labels = [self.bank.labels[number]] if self.job == "search_class" else None
            query = self.bank.queries[number : number + 1]
            found.append(searcher.search(query, NEIGHBOURS, labels).rows[0])

        seconds = median_seconds(ask, range(len(self.truth)))
        self.recalls[HERE] = recall(self.truth, found)
        return seconds

    def ask_peer(self, name: str, peer: BankPeer, repetition: int) -> float:
        queries = self.bank.queries[:ASKED].tolist()
        labels = [self.bank.labels[:ASKED]] if self.job == "search_class" else []
        answers = peer.measure(self.job, queries, [NEIGHBOURS] * len(queries), *labels)
        self.recalls[name] = recall(self.truth, answers.found)
        return answers.median


def _all(peer: BankPeer, job: str, *arguments: Any) -> float:
    answers = peer.measure(job, *arguments)
    if set(answers.found) != {DRAWN}:
        raise RuntimeError(f"expected {DRAWN} vectors each time, found {set(answers.found)}")
    return answers.median


@contextmanager
def _in_process(store: Store) -> Iterator[tuple[asyncio.Runner, LocalBank]]:
    with asyncio.Runner() as runner:
        local = LocalBank(store, Settings(), CollectorRegistry())
        local.host.refresh()
        yield runner, local
        runner.run(local.close())
