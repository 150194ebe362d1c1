"""Whole requests, from class label to PNG, as a user of any framework would write it.

Runs in every peer's environment: numpy, ONNX Runtime and Pillow only, and nothing of the product.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image


class Pipeline:
    """Makes the images of a batch of requests; all take as long as the longest.

    A request is ``{"class_label": int, "num_images": int, "num_steps": int}``.

    Args:
        folder: Where ``network.onnx`` and ``bank.npz`` are.
    """

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._network = onnxruntime.InferenceSession(
            folder / "network.onnx", options, providers=["CPUExecutionProvider"]
        )
        bank = np.load(folder / "bank.npz")
        self._bank = [bank["vectors"][bank["labels"] == label] for label in range(10)]
        self._rng = np.random.default_rng()

    def __call__(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return ``{"images": [{"b64_png": …}, …]}`` for each request."""
        images = [request["num_images"] for request in requests]
        steps = np.repeat([request["num_steps"] for request in requests], images)
        snippets = np.concatenate([self._draw(request) for request in requests])
        noise = self._rng.standard_normal((len(steps), 1, 8, 8), dtype=np.float32)
        pixels = iter(_pixels(self.sample(noise, steps, snippets)))
        return [{"images": [_png(next(pixels)) for _ in range(n)]} for n in images]

    def _draw(self, request: dict[str, Any]) -> NDArray[np.float32]:
        rows = self._bank[request["class_label"]]
        return rows[self._rng.integers(len(rows), size=request["num_images"])]

    def sample(
        self,
        x: NDArray[np.float32],
        steps: NDArray[np.int64],
        snippets: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Take noise ``(n, C, S, S)`` to images by two-step Adams-Bashforth.

        Rows of fewer steps idle until the longest has made all of its own.
        """
        before = np.zeros_like(x)
        for k in range(steps.max()):
            t = np.maximum(1 - k / steps, 0).astype(np.float32)
            (v,) = self._network.run(None, {"x": x, "t": t, "snippet": snippets})
            step = np.where(k < steps, -1 / steps, 0).astype(np.float32)[:, None, None, None]
            x = x + step * (v if k == 0 else 1.5 * v - 0.5 * before)
            before = v
        return x


def _pixels(x: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(np.rint(127.5 * (x[:, 0] + 1)), 0, 255).astype(np.uint8)


def _png(pixels: NDArray[np.uint8]) -> dict[str, str]:
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG")
    return {"b64_png": base64.b64encode(encoded.getvalue()).decode()}
