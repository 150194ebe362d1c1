"""A network under ONNX Runtime: on a CPU about three times as fast as PyTorch for one small row.

The graphs are exported when the model is loaded, which takes about a second; nothing but the
weights is published, so every version gains from a better export. ONNX Runtime's CPU kernels give
a row the same bits in any company (`docs/performance`), so modulation needs no padding here.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.onnx import symbolic_helper

from gmem_model.network import Network
from gmem_model.transformer import Transformer

Array = NDArray[Any]

Function = Callable[..., Tensor]
"""Of a network and batches."""

OPSET = 20
LAST_AXIS = torch.tensor([-1])

MAX_BYTES = 512 << 20
"""Weights beyond this are not exported: the file format ends at 2 GiB, and networks of that size
are bound by arithmetic, where ONNX Runtime gains little."""


class OnnxNetwork(Network):
    """A network, and each half of it, as ONNX Runtime sessions; float32. For one thread.

    Args:
        network: In eval mode, on the CPU; its weights are copied.
        threads: CPU threads of one evaluation.
    """

    fused_from = 8
    """From so many rows on, `forward` costs no more than `core` under prepared modulations. It
    gives the same bits."""

    def __init__(self, network: Transformer, threads: int) -> None:
        nn.Module.__init__(self)
        self.architecture = network.architecture
        self._width = network.modulation_width
        latents = torch.zeros(2, *network.latent_shape)
        modulation = torch.zeros(2, self._width)
        pairs = torch.zeros(2), network.no_condition(2)

        def bound(function: Function, *examples: Tensor, output: Tensor) -> _BoundSession:
            return _BoundSession(_session(network, function, examples, threads), examples, output)

        kind = type(network)
        self._core = bound(kind.core, latents, modulation, output=latents)
        self._modulate = bound(kind.unpadded_modulation, *pairs, output=modulation)
        self._fused = bound(kind.fused, latents, *pairs, output=latents)

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

    def forward(
        self, x_NCSS: Tensor, t_N: Tensor, condition: Tensor, *, keep: Tensor | None = None
    ) -> Tensor:
        """Return the prediction ``(N, C, S, S)`` for latents at their times and conditions."""
        return _tensor(self._fused, x_NCSS, t_N, condition)

    def modulation(self, t_N: Tensor, condition: Tensor, *, keep: Tensor | None = None) -> Tensor:
        """Return ``(N, M)``; there is no ``keep`` outside training."""
        return _tensor(self._modulate, t_N, condition)

    def core(self, x_NCSS: Tensor, modulation_NM: Tensor) -> Tensor:
        """Return the prediction ``(N, C, S, S)`` for latents under given modulations."""
        return _tensor(self._core, x_NCSS, modulation_NM)

    def unpadded_modulation(
        self, t_N: Tensor, condition: Tensor, keep: Tensor | None = None
    ) -> Tensor:
        """Return what `modulation` does."""
        return self.modulation(t_N, condition)

    def forward_arrays(self, x_NCSS: Array, t_N: Array, condition: Array) -> Array:
        """Return what `forward` does, until the next call; for arrays of any precision."""
        return self._fused(x_NCSS, t_N, condition)

    def core_arrays(self, x_NCSS: Array, modulation_NM: Array) -> Array:
        """Return what `core` does, until the next call; for arrays of any precision."""
        return self._core(x_NCSS, modulation_NM)


class _BoundSession:
    """A session that finds its inputs and leaves its output in places of its own.

    Handing arrays over takes up to a quarter of the time of a small network for one row; copying
    them takes next to nothing.

    Args:
        session: Of a function of batches.
        inputs, output: Examples of what it takes and gives.
    """

    def __init__(
        self, session: onnxruntime.InferenceSession, inputs: Sequence[Tensor], output: Tensor
    ) -> None:
        self._session = session
        self._inputs = [np.zeros_like(value.numpy()) for value in inputs]
        self._output = np.zeros_like(output.numpy())
        self._places: dict[int, tuple[list[Array], Array, Any]] = {}

    def __call__(self, *values: Array) -> Array:
        """Return the function of batches of as many rows each; valid until the next call."""
        rows = len(values[0])
        if rows not in self._places:
            self._places[rows] = self._bind(rows)
        inputs, output, binding = self._places[rows]
        for place, value in zip(inputs, values, strict=True):
            np.copyto(place, value)
        self._session.run_with_iobinding(binding)
        return output

    def _bind(self, rows: int) -> tuple[list[Array], Array, Any]:
        if rows > len(self._output):  # what was bound before is bound anew
            self._places.clear()
            *self._inputs, self._output = (
                np.zeros((rows, *array.shape[1:]), array.dtype)
                for array in (*self._inputs, self._output)
            )
        inputs, output = [array[:rows] for array in self._inputs], self._output[:rows]
        binding = self._session.io_binding()
        for number, place in enumerate(inputs):
            binding.bind_input(
                f"input{number}", "cpu", 0, place.dtype, place.shape, place.ctypes.data
            )
        binding.bind_output("output", "cpu", 0, output.dtype, output.shape, output.ctypes.data)
        return inputs, output, binding


class _Function(nn.Module):
    """A function of a network as a module, which is what can be exported."""

    def __init__(self, network: Network, function: Function) -> None:
        super().__init__()
        self.network = network
        self.function = function

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self.network, *inputs)


@symbolic_helper.parse_args("v", "is", "v", "f")
def _rms_norm(g: Any, x: Any, shape: Sequence[int], weight: Any, eps: float) -> Any:
    """Return the graph of ``aten::rms_norm`` over the last axis, which the exporter lacks."""
    axis, epsilon = (g.op("Constant", value_t=value) for value in (LAST_AXIS, torch.tensor(eps)))
    squares = g.op("ReduceMean", g.op("Mul", x, x), axis, keepdims_i=1)
    return g.op("Mul", g.op("Div", x, g.op("Sqrt", g.op("Add", squares, epsilon))), weight)


def _session(
    network: Network, function: Function, examples: Sequence[Tensor], threads: int
) -> onnxruntime.InferenceSession:
    """Return a session of a function of batches; the number of rows is free."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        _model(network, function, examples), options, providers=["CPUExecutionProvider"]
    )


_graphs: dict[tuple[str, Function], bytes] = {}
"""Exported functions without their weights, by architecture."""


def _model(network: Network, function: Function, examples: Sequence[Tensor]) -> bytes:
    """Return a function as a model; only the first network of an architecture is exported.

    An export takes ten times as long as all else that loading does, on a core that serves another
    version meanwhile.
    """
    key = (network.architecture.model_dump_json(), function)
    weights = {f"network.{name}": value for name, value in network.state_dict().items()}
    if key not in _graphs:
        exported = _export(network, function, examples)
        model = onnx.load_model_from_string(exported)
        tensors = model.graph.initializer
        if not weights.keys() >= {tensor.name for tensor in tensors}:
            return exported  # it holds what was computed from the weights
        for tensor in tensors:
            tensor.ClearField("raw_data")
        _graphs[key] = model.SerializeToString()
    model = onnx.load_model_from_string(_graphs[key])
    for tensor in model.graph.initializer:
        tensor.raw_data = weights[tensor.name].numpy().tobytes()
    return model.SerializeToString()


def _export(network: Network, function: Function, examples: Sequence[Tensor]) -> bytes:
    inputs = [f"input{number}" for number in range(len(examples))]
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The exporter that traces is deprecated; the one that replaces it takes ten times as long.
        warnings.simplefilter("ignore")
        torch.onnx.register_custom_op_symbolic(  # type: ignore[attr-defined]
            "aten::rms_norm", _rms_norm, OPSET
        )
        torch.onnx.export(
            _Function(network, function),
            tuple(examples),
            file,  # type: ignore[arg-type]
            input_names=inputs,
            output_names=["output"],
            dynamic_axes={name: {0: "rows"} for name in (*inputs, "output")},
            do_constant_folding=False,  # which would rename weights; the session folds, too
            dynamo=False,
            opset_version=OPSET,
        )
    return file.getvalue()


def _tensor(session: _BoundSession, *values: Tensor) -> Tensor:
    return torch.from_numpy(session(*(value.numpy() for value in values)).copy())
