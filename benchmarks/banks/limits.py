"""The bank against what no bank could beat: numpy, an empty call, FAISS called directly."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from benchmarks.banks.features import ROWS_PER_CLASS
from benchmarks.banks.outcome import Outcome, call_by_call, median_seconds
from benchmarks.banks.questions import DRAWN, NEIGHBOURS, Bank, Rows, Vectors, recall
from benchmarks.banks.service import Service
from benchmarks.harness.interleave import interleaved, ratios
from benchmarks.harness.report import Claim, Table
from gmem_shared.types import DrawSpec

ENOUGH = 0.999
PASSES = 4
"""How often every query is asked in a repetition."""
PATIENCE_MS = 500.0
"""How long a filtered search may take before it is not made to try harder."""
EFFORTS = tuple(4**power for power in range(4, 10))
OURS = "the bank"


def gather(bank: Bank, repetitions: int, outcome: Outcome) -> None:
    """Gather rows from all over the file: the vectors alone, and all that makes an answer."""
    sides: dict[str, Callable[[Rows], object]] = {
        "numpy": partial(np.take, bank.data.vectors, axis=0),
        OURS: bank.data.take,
    }
    seconds = call_by_call(sides, lambda number: bank.random_rows(number, 400), repetitions)
    outcome.milliseconds(f"Gather of {DRAWN} rows, {bank.size}", seconds)
    name = f"gather of {DRAWN} rows, with ids, labels and weights, against numpy's of the vectors"
    outcome.claims.append(Claim(name, ratios(seconds[OURS], seconds["numpy"]), "at most", 1.5))


def calls(service: Service, bank: Bank, repetitions: int, outcome: Outcome) -> None:
    """Draw and gather over gRPC, call after call, against a call that does nothing."""
    classes = len(bank.data.classes)

    async def draw(count: int, number: int) -> None:
        await service.client.draw(bank.name, [DrawSpec(count, number, (number % classes,))])

    def gathers(repetition: int) -> float:
        rows = [some.tolist() for some in bank.random_rows(repetition, 200)]
        return service.seconds(200, lambda number: service.client.gather(bank.name, rows[number]))

    empty, drawn = "empty call", f"Draw({DRAWN})"
    sides: dict[str, Callable[[int], float]] = {
        empty: lambda _: service.seconds(200, service.empty),
        "Draw(32)": lambda _: service.seconds(200, partial(draw, 32)),
        drawn: lambda _: service.seconds(200, partial(draw, DRAWN)),
        f"Gather({DRAWN})": gathers,
        "Draw(8192), a stream": lambda _: service.seconds(5, partial(draw, 8192)),
    }
    seconds = interleaved(sides, repetitions)
    outcome.milliseconds(f"Calls over gRPC, {bank.size}", seconds)
    against = ratios(seconds[drawn], seconds[empty])
    outcome.claims.append(
        Claim(f"{drawn} over gRPC against an empty call", against, "at most", 4.0)
    )


def search_everywhere(bank: Bank, repetitions: int, outcome: Outcome) -> None:
    """Search all rows: FAISS on the index file, and the bank on the same file."""
    index = faiss.read_index(str(bank.index), faiss.IO_FLAG_MMAP_IFC)
    searcher = bank.searcher()
    effort = _effort(index, bank.effort)

    def direct(queries: Vectors) -> Rows:
        rows: Rows = index.search(queries, NEIGHBOURS, params=effort)[1]
        return rows

    def ours(queries: Vectors) -> Rows:
        return searcher.search(queries, NEIGHBOURS).rows

    sides = {"FAISS": direct, OURS: ours}
    truth = bank.neighbours()
    recalls = {side: recall(truth, search(bank.queries)) for side, search in sides.items()}
    for together in (1, 16):
        batches = np.split(bank.queries, len(bank.queries) // together) * PASSES
        seconds = call_by_call(sides, lambda _, batches=batches: batches, repetitions)
        what = f"{NEIGHBOURS} neighbours among {bank.size}, {together} at once"
        outcome.milliseconds(f"{what}, effort {bank.effort}", seconds, recalls)
        outcome.claims.append(
            Claim(
                f"{what}: time against FAISS on the same index",
                ratios(seconds[OURS], seconds["FAISS"]),
                "at most",
                1.2,
            )
        )
    name = f"{NEIGHBOURS} neighbours among {bank.size}: recall"
    outcome.claims.append(Claim(name, [recalls[OURS]], "at least", 0.95))


def search_in_class(bank: Bank, repetitions: int, outcome: Outcome) -> None:
    """Search a class: the bank, and FAISS's index with a filter, within reason."""
    index = faiss.read_index(str(bank.index), faiss.IO_FLAG_MMAP_IFC)
    searcher = bank.searcher()
    asked = list(zip(bank.queries[:, np.newaxis], bank.labels, strict=True))[:16]
    truth = bank.neighbours_in_class()[: len(asked)]

    def filtered(effort: int, question: tuple[Vectors, int]) -> Rows:
        selector = faiss.IDSelectorRange(*bank.data.class_rows(question[1]))
        parameters = _effort(index, effort, selector)
        rows: Rows = index.search(question[0], NEIGHBOURS, params=parameters)[1]
        return rows

    def ours(question: tuple[Vectors, int]) -> Rows:
        return searcher.search(question[0], NEIGHBOURS, [question[1]]).rows

    tried: list[tuple[int, float, float]] = []
    for effort in EFFORTS:
        begin = time.perf_counter()
        reached = recall(truth, np.vstack([filtered(effort, question) for question in asked]))
        milliseconds = 1000 * (time.perf_counter() - begin) / len(asked)
        tried.append((effort, reached, milliseconds))
        if reached >= ENOUGH or milliseconds > PATIENCE_MS:
            break
    effort, reached, _ = tried[-1]
    sides = {
        "FAISS, filtered": lambda _: median_seconds(partial(filtered, effort), asked[:4]),
        OURS: lambda _: median_seconds(ours, asked),
    }
    seconds = interleaved(sides, repetitions)
    exact = recall(truth, np.vstack([ours(question) for question in asked]))
    what = f"{NEIGHBOURS} neighbours in a class of {ROWS_PER_CLASS:,}, {bank.size}"
    outcome.milliseconds(what, seconds, {"FAISS, filtered": reached, OURS: exact})
    title = f"FAISS's index with a filter by class, {bank.size}"
    outcome.tables.append(Table(title, ["effort", "recall", "ms"], tried))
    outcome.claims += [
        Claim(f"{what}: recall", [exact], "at least", 1.0),
        Claim(
            f"{what}: how many times as fast as the filtered index, at its recall of {reached:.3f}",
            ratios(seconds["FAISS, filtered"], seconds[OURS]),
            "at least",
            10.0,
        ),
    ]


def opening(store: Path, bank: Bank, outcome: Outcome) -> None:
    """Open and use a version in fresh processes."""
    command = [sys.executable, "-m", "benchmarks.banks.opening", str(store), bank.name]
    lines = [subprocess.check_output(command, text=True).splitlines()[-1] for _ in range(3)]
    found = [json.loads(line) for line in lines]
    outcome.raw["opening"] = found
    shares = [one["private"] / one["size"] for one in found]
    name = f"private memory of an open version, of its {found[0]['size'] / 1e6:,.0f} MB"
    outcome.claims.append(Claim(name, shares, "at most", 0.05))


def _effort(index: Any, effort: int, selector: Any = None) -> Any:
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=min(effort, index.nlist), sel=selector)
    return faiss.SearchParametersHNSW(efSearch=effort, sel=selector)
