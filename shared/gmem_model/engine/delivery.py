"""The way from finished latents to listeners: beside the evaluations where decoding takes long."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext

import torch

from gmem_model.decoding import Decoder


class Delivery:
    """Runs jobs in their order: on a thread of its own if the decoder has work to do, else at once.

    On a GPU, the thread has a stream of its own, too.

    Args:
        decoder: What the jobs decode with.
        device: Where the latents are.
        threads: CPU threads of one job.
    """

    def __init__(self, decoder: Decoder, device: torch.device, threads: int) -> None:
        self._executor: ThreadPoolExecutor | None = None
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)
        if decoder.computes or self._stream is not None:
            self._executor = ThreadPoolExecutor(
                1, "delivery", initializer=torch.set_num_threads, initargs=(threads,)
            )

    def put(self, job: Callable[[], None]) -> None:
        """Have a job run after those before it; it must not raise."""
        if self._executor is None:
            job()
            return
        ready = None
        if self._stream is not None:
            ready = torch.cuda.Event()
            ready.record()
        self._executor.submit(self._run, job, ready)

    def close(self) -> None:
        """Finish the jobs."""
        if self._executor is not None:
            self._executor.shutdown()

    def _run(self, job: Callable[[], None], ready: torch.cuda.Event | None) -> None:
        with self._on_stream(ready):
            job()

    def _on_stream(self, ready: torch.cuda.Event | None) -> AbstractContextManager[object]:
        if self._stream is None or ready is None:
            return nullcontext()
        self._stream.wait_event(ready)
        return torch.cuda.stream(self._stream)
