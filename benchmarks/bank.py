"""The bank against the limits of the machine and against what a user would pick instead.

Limits: a numpy gather of the same file, an empty gRPC call, FAISS called directly on the same
index. Peers, each in an environment and a process of its own: hnswlib, Qdrant's local mode and
milvus-lite. The vectors are generated, see `benchmarks.banks.features`; banks, indexes and the
peers' data are kept under ``.gmem/bench/bank`` for the next run.
"""

from __future__ import annotations

from contextlib import ExitStack

import typer

from benchmarks.banks import alternatives, limits
from benchmarks.banks.features import ROWS_PER_CLASS
from benchmarks.banks.outcome import Outcome
from benchmarks.banks.peer import bank_peer
from benchmarks.banks.questions import Bank
from benchmarks.banks.service import bank_service
from benchmarks.harness.report import Result, save
from benchmarks.harness.systems import WORK, results
from gmem_bank.index import pin_threads
from gmem_shared import logs
from gmem_shared.settings import LogSettings
from gmem_shared.store import Store

FULL_ROWS, GRAPH_ROWS, PEER_ROWS = 1_280_000, 102_400, 20_480
QUICK_ROWS, QUICK_PEER_ROWS = 51_200, 5_120
STORE = WORK / "bank" / "store"


def main(
    quick: bool = False,
    rows: int = FULL_ROWS,
    graph_rows: int = GRAPH_ROWS,
    peer_rows: int = PEER_ROWS,
    repetitions: int = 5,
) -> None:
    """Measure; the quick run has a small bank, at which little is hard."""
    if quick:
        rows, graph_rows, peer_rows, repetitions = QUICK_ROWS, QUICK_ROWS, QUICK_PEER_ROWS, 3
    logs.configure(LogSettings(level="WARNING"))
    store = Store.from_url(str(STORE), cache_dir=WORK / "bank" / "cache")
    bank, graph_bank, peer_bank = (Bank.of(store, n) for n in (rows, graph_rows, peer_rows))
    pin_threads()
    outcome = Outcome()
    limits.gather(bank, repetitions, outcome)
    limits.search_everywhere(bank, repetitions, outcome)
    limits.search_in_class(bank, repetitions, outcome)
    limits.opening(STORE, bank, outcome)
    with bank_service(str(STORE)) as service, ExitStack() as stack:
        limits.calls(service, bank, repetitions, outcome)
        peers = {
            title: stack.enter_context(bank_peer(name, WORK, peer_bank.data, peer_bank.snippets))
            for title, name in (("Qdrant local", "qdrant"), ("milvus-lite", "milvus_lite"))
        }
        alternatives.draws(service, store, peer_bank, peers, repetitions, outcome, goal=10.0)
        alternatives.searches(peer_bank, peers, repetitions, outcome)
        graph = bank_peer("hnswlib", WORK, graph_bank.data, graph_bank.snippets)
        graphs = {"hnswlib": stack.enter_context(graph)}
        alternatives.draws(service, store, graph_bank, graphs, repetitions, outcome)
        alternatives.searches(graph_bank, graphs, repetitions, outcome)
    result = Result(
        name="bank",
        title="The bank",
        setting=(
            f"{rows:,} x 768 float16 in {rows // ROWS_PER_CLASS:,} classes, generated (low-rank "
            f"plus noise), in a local store, the file in the page cache. A search uses one thread. "
            f"Qdrant's local mode, which is meant for 20,000 rows, and milvus-lite hold "
            f"{peer_rows:,} rows, hnswlib {graph_rows:,}; the bank is asked at the same sizes."
        ),
        claims=outcome.claims,
        tables=outcome.tables,
        raw=outcome.raw,
    )
    save(result, results(quick=quick))


if __name__ == "__main__":
    typer.run(main)
