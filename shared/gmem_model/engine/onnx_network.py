"""A network under ONNX Runtime: on a CPU about three times as fast as PyTorch for one small row.

The graph is exported when the model is loaded, which takes less than a second; nothing but the
weights is published, so every version gains from a better export. ONNX Runtime's CPU kernels give
a row the same bits in any company (`docs/performance`), so modulation needs no padding here.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import onnxruntime
import torch
from torch import Tensor, nn

from gmem_model.network import Network

MAX_BYTES = 1 << 30
"""Weights beyond this are not exported: the file format ends at 2 GiB, and networks of that size
are bound by arithmetic, where ONNX Runtime gains little."""


class OnnxNetwork(Network):
    """Both halves of a network as ONNX Runtime sessions; float32.

    Args:
        network: In eval mode, on the CPU; its weights are copied.
        threads: CPU threads of one evaluation.
    """

    def __init__(self, network: Network, threads: int) -> None:
        nn.Module.__init__(self)
        self.architecture = network.architecture
        self._width = network.modulation_width
        latents = torch.zeros(2, *network.latent_shape)
        self._core = _session(network.core, (latents, torch.zeros(2, self._width)), threads)
        pairs = torch.zeros(2), network.no_condition(2)
        self._modulate = _session(network.unpadded_modulation, pairs, threads)

    @property
    def dtype(self) -> torch.dtype:
        """float32."""
        return torch.float32

    @property
    def device(self) -> torch.device:
        """The CPU."""
        return torch.device("cpu")

    @property
    def modulation_width(self) -> int:
        """M, the number of modulation values of one (time, condition) pair."""
        return self._width

    def modulation(self, t_N: Tensor, condition: Tensor, *, keep: Tensor | None = None) -> Tensor:
        """Return ``(N, M)``; there is no ``keep`` outside training."""
        return _run(self._modulate, t_N, condition)

    def core(self, x_NCSS: Tensor, modulation_NM: Tensor) -> Tensor:
        """Return the prediction ``(N, C, S, S)`` for latents under given modulations."""
        return _run(self._core, x_NCSS, modulation_NM)

    def unpadded_modulation(
        self, t_N: Tensor, condition: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        """Return what `modulation` does."""
        return self.modulation(t_N, condition)


class _Function(nn.Module):
    """A method as a module, which is what can be exported."""

    def __init__(self, method: object) -> None:
        super().__init__()
        self.network = method.__self__  # type: ignore[attr-defined]
        self.method = method

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.method(first, second)  # type: ignore[operator]


def _session(
    method: object, examples: Sequence[Tensor], threads: int
) -> onnxruntime.InferenceSession:
    """Return a session of a function of two batches; the number of rows is free."""
    names = ["first", "second", "result"]
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter that traces is deprecated; the one that replaces it takes ten times as long.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            _Function(method),
            tuple(examples),
            file,  # type: ignore[arg-type]
            input_names=names[:2],
            output_names=names[2:],
            dynamic_axes={name: {0: "rows"} for name in names},
            dynamo=False,
        )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        file.getvalue(), options, providers=["CPUExecutionProvider"]
    )


def _run(session: onnxruntime.InferenceSession, first: Tensor, second: Tensor) -> Tensor:
    inputs = {"first": first.numpy(), "second": second.numpy()}
    return torch.from_numpy(session.run(None, inputs)[0])
