"""How long a user waits for the first image after typing ``make run``, the model being published.

A client asks for an image over and over from the moment the process starts. ``gmem serve`` alone
and the bare import of torch, which the engine cannot do without, show where the time goes.

Run: ``python -m benchmarks.start_up [--quick]``.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path

import typer

from benchmarks.harness import systems, versions
from benchmarks.harness.interleave import Spread, interleaved, ratios
from benchmarks.harness.report import ROOT, Claim, Result, Table, save
from benchmarks.harness.servers import free_port

MAKE, SERVE, TRAIN, TORCH = "make run", "gmem serve", "gmem train --if-missing", "import torch"
GOAL_SECONDS, GOAL = 10.0, 4.0
PATIENCE_SECONDS = 120.0
POLL_SECONDS = 0.02
BODY = b'{"class_label": 7, "seed": 1}'

SETTING = (
    "The digits bank and model are published and in the page cache, every start is a new process "
    "on all cores, and a client asks for one image every 20 ms until it has one. *make run* is "
    "two processes, one after the other: `gmem train --if-missing`, then `gmem serve`."
)


def main(quick: bool = False, repetitions: int = 5) -> None:
    """Measure."""
    systems.prepare()
    store = systems.WORK / "start-store"
    versions.copy_store(systems.STORE, store)
    gmem = [sys.executable, "-m", "gmem_shared"]
    commands = {
        TRAIN: [*gmem, "train", "--preset", "digits", "--if-missing"],
        TORCH: [sys.executable, "-c", "import torch"],
    }
    sides = {
        MAKE: partial(_serve, _make, store),
        SERVE: partial(_serve, lambda port: [*gmem, "serve", "--port", str(port)], store),
    } | {name: partial(_finish, command, store) for name, command in commands.items()}
    starts = interleaved(sides, 1 if quick else repetitions)
    save(_result(starts), systems.results(quick=quick))


def _make(port: int) -> list[str]:
    # The stamps are up to date when a user starts a second time; in a fresh checkout, or beside a
    # file that was just edited, make would install first.
    stamps = [f"--old-file={sys.prefix}/{stamp}" for stamp in (".dev", ".embedded")]
    return ["make", "run", *stamps, f"VENV={sys.prefix}", f"PORT={port}"]


def _serve(command: Callable[[int], Sequence[str]], store: Path, repetition: int) -> float:
    """Start a server and stop it when it has made an image."""
    port = free_port()
    started = time.perf_counter()
    process = _popen(command(port), store)
    try:
        while (status := _ask(port)) != HTTPStatus.OK:
            seconds = time.perf_counter() - started
            assert process.poll() is None, f"the server ended with {process.returncode}"
            assert seconds < PATIENCE_SECONDS, f"no image after {seconds:.0f} s, status {status}"
            time.sleep(POLL_SECONDS)
        return time.perf_counter() - started
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _ask(port: int) -> int:
    """Ask for an image; return the status, 0 when nobody listens."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/generate", BODY, {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as answer:  # noqa: S310
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def _finish(command: Sequence[str], store: Path, repetition: int) -> float:
    """Run a command to its end."""
    started = time.perf_counter()
    process = _popen(command, store)
    assert process.wait(PATIENCE_SECONDS) == 0, command
    return time.perf_counter() - started


def _popen(command: Sequence[str], store: Path) -> subprocess.Popen[bytes]:
    settings = {"GMEM_STORE__URL": str(store), "GMEM_LOG__LEVEL": "WARNING"}
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _result(seconds: Mapping[str, Sequence[float]]) -> Result:
    claims = [
        Claim(f"{MAKE}, second start: seconds to an image", seconds[MAKE], "at most", GOAL_SECONDS),
        Claim(f"{MAKE} against {TORCH}", ratios(seconds[MAKE], seconds[TORCH]), "at most", GOAL),
    ]
    rows = [[side, str(Spread.of(of_side))] for side, of_side in seconds.items()]
    return Result(
        name="start_up",
        title="Start-up",
        setting=SETTING,
        claims=claims,
        tables=[Table("Seconds to the first image, or to the end", ["", "s"], rows)],
        raw=seconds,
    )


if __name__ == "__main__":
    typer.run(main)
