"""BentoML: adaptive batching of at most 64 requests; it sheds none, so large is its latency."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bentoml
from sampler import Pipeline


@bentoml.service(workers=1, traffic={"timeout": 600})
class Digits:
    """One worker; BentoML chooses how long a batch waits from the durations it measures."""

    def __init__(self) -> None:
        self.pipeline = Pipeline(Path(os.environ["BENCHMARK_FOLDER"]))

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=600_000)
    def generate(self, requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Make the images of a batch."""
        return self.pipeline(requests)
