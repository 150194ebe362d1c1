"""LitServe: batches of at most 64 requests, formed within a fixed window."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import litserve
from sampler import Pipeline

FOLDER, PORT, WINDOW_MS = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])


class Digits(litserve.LitAPI):
    """Requests stay the JSON they came as."""

    def setup(self, device: str) -> None:
        """Load the network in the worker."""
        self.pipeline = Pipeline(FOLDER)

    def batch(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Keep a batch the list it is."""
        return inputs

    def predict(self, x: list[dict[str, Any]], **_: Any) -> list[dict[str, Any]]:
        """Make the images of a batch."""
        return self.pipeline(x)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Keep the answers the list they are."""
        return output


if __name__ == "__main__":
    api = Digits(max_batch_size=64, batch_timeout=WINDOW_MS / 1000)
    server = litserve.LitServer(api, accelerator="cpu", timeout=600)
    server.run(host="127.0.0.1", port=PORT, log_level="warning", generate_client_file=False)
