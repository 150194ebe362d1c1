"""Front ends as processes that share a store and a Redis, and what clients do with their jobs."""

from __future__ import annotations

import base64
import io
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.stack import wait_for

ROOT = Path(__file__).parents[2]
UNHURRIED = {
    "GMEM_GENERATOR__BANK_SOURCE": "tests.support.fakes:FakeBank",
    "GMEM_GENERATOR__BACKEND": "tests.support.fakes:UnhurriedFakeBackend",
}


@dataclass
class Replica:
    """One front end."""

    process: subprocess.Popen[bytes]
    url: str

    def submit(self, key: str | None = None, **body: Any) -> httpx.Response:
        wishes = {"Prefer": "respond-async"} | ({} if key is None else {"Idempotency-Key": key})
        return httpx.post(f"{self.url}/generate", json=body, headers=wishes, timeout=30)

    def job(self, job_id: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/jobs/{job_id}", timeout=30)
        return dict(answer.json())

    def wait_for_images(self, job_id: str, count: int) -> None:
        wait_for(
            lambda: self.job(job_id).get("images", {}).get("done", 0) >= count,
            f"{count} images of job {job_id}",
        )

    def ended(self, job_id: str, seconds: float = 90.0) -> dict[str, Any]:
        wait_for(lambda: self.job(job_id).get("ended_at") is not None, f"{job_id} ends", seconds)
        return self.job(job_id)

    def result(self, job_id: str) -> dict[str, bytes]:
        """The PNGs of a job by name, of an archive that is whole."""
        answer = httpx.get(f"{self.url}/jobs/{job_id}/result", follow_redirects=True, timeout=60)
        assert answer.status_code == 200, answer.text
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            names = archive.namelist()
            assert archive.testzip() is None
            assert len(names) == len(set(names))
            return {name: archive.read(name) for name in names if name.endswith(".png")}

    def answer(self, request: Mapping[str, Any]) -> dict[str, bytes]:
        """The PNGs of the same request as an answer."""
        answer = httpx.post(f"{self.url}/generate", json=request, timeout=120)
        assert answer.status_code == 200, answer.text
        return {
            f"{image['index']:06d}.png": base64.b64decode(image["b64_png"])
            for image in answer.json()["images"]
        }

    def metric(self, name: str) -> float:
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        return sum(float(v) for v in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", text, re.M))


@contextmanager
def replicas(count: int, folder: Path, redis_url: str, **settings: str) -> Iterator[list[Replica]]:
    """Run front ends; every process is gone afterwards. ``settings`` are of the environment."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "GMEM_STORE__URL": str(folder / "store"),
        "GMEM_STORE__CACHE_DIR": str(folder / "cache"),
        "GMEM_REDIS__URL": redis_url,
        "GMEM_JOBS__CLAIM_SECONDS": "1",
        **settings,
    }
    with ExitStack() as stack:
        started = []
        for number in range(count):
            log = stack.enter_context((folder / f"front-{number}.log").open("wb"))
            process = subprocess.Popen(
                [sys.executable, "-m", "gmem_shared", "serve", "--port", "0"],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
            )
            stack.callback(_end, process)
            started.append(process)
        yield [Replica(process, _address(process)) for process in started]


def _address(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(rb"http://\S+", line):
            return found[0].decode()
    raise AssertionError(f"a front end ended with status {process.wait()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()
