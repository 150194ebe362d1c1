"""A peer of the bank, seen from the benchmark."""

from __future__ import annotations

import json
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import environment
from gmem_shared.bank_data import BankData
from gmem_shared.tensor_file import map_tensors

_SCRIPTS = Path(__file__).parents[1] / "peers"


@dataclass(frozen=True)
class Answers:
    """Seconds of each call, as the peer's process took them, and what the calls returned."""

    seconds: list[float]
    found: list[Any]

    @property
    def median(self) -> float:
        """Median of the seconds."""
        return statistics.median(self.seconds)


@dataclass(frozen=True)
class BankPeer:
    """A running peer that holds the rows of a bank."""

    process: subprocess.Popen[str]
    load_seconds: float

    def measure(self, job: str, *arguments: Sequence[Any]) -> Answers:
        """Call a method of the peer once for each set of arguments."""
        return Answers(**_ask(self.process, job=job, arguments=list(zip(*arguments, strict=True))))


@contextmanager
def bank_peer(name: str, work: Path, data: BankData, snippets: Path) -> Iterator[BankPeer]:
    """Start a peer in its own environment and load a bank's rows, which it keeps for the next time.

    Args:
        name: One of `benchmarks.peers.environments.PEERS`.
        work: Folder for environments, data and logs.
        data: The bank.
        snippets: Its file of vectors.
    """
    home = work / "bank" / f"{name}-{len(data)}"
    home.mkdir(parents=True, exist_ok=True)
    python = environment(name, work / "venvs") / "python"
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [python, _SCRIPTS / f"bank_{name}.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(home), "OMP_NUM_THREADS": "1"},
        )
        try:
            vectors = map_tensors(snippets)["snippets"]
            loaded = _ask(
                process,
                job="load",
                folder=str(home),
                path=str(snippets),
                offset=snippets.stat().st_size
                - vectors.nbytes,  # they are all that follows the header
                shape=vectors.shape,
                labels=data.labels.tolist(),
            )
            yield BankPeer(process, loaded["seconds"])
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)


def _ask(process: subprocess.Popen[str], **job: Any) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(job) + "\n")
    process.stdin.flush()
    answer = process.stdout.readline()
    if not answer:
        raise RuntimeError(f"the peer ended with {process.wait()}; see its log")
    return dict(json.loads(answer))
