"""The golden index: vectors computed by the original implementations, and who reproduces them.

``index.json`` lists files of tensors and, per file, cases: a kind, inputs, expected outputs and
tolerances. A handler is registered for a (family, kind) and computes a case's outputs with the
production code; every module ``golden_*`` may hold some, and `test_golden` does the rest.
``GMEM_GOLDEN_DIR`` chooses another index.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

GOLDEN_DIR = Path(os.environ.get("GMEM_GOLDEN_DIR", Path(__file__).parent / "golden"))

Handler = Callable[["GoldenCase"], dict[str, Tensor]]
HANDLERS: dict[tuple[str, str], Handler] = {}


def handles(family: str, *kinds: str) -> Callable[[Handler], Handler]:
    """Register the function that computes the outputs of these kinds of cases."""

    def register(handler: Handler) -> Handler:
        HANDLERS.update({(family, kind): handler for kind in kinds})
        return handler

    return register


@dataclass(frozen=True)
class GoldenCase:
    file: dict[str, Any]
    case: dict[str, Any]

    @property
    def id(self) -> str:
        return f"golden-{Path(self.file['file']).stem}-{self.case['id']}"

    @property
    def family(self) -> str:
        return str(self.file["family"])

    @property
    def kind(self) -> str:
        return str(self.case["kind"])

    @property
    def config(self) -> dict[str, Any]:
        """The original constructor's arguments; one that is left out has the original's default."""
        return dict(self.file["config"])

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.case["params"])

    @property
    def dtype(self) -> torch.dtype:
        return torch.float64 if self.params.get("model_dtype") == "float64" else torch.float32

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        tensors = _tensors(self.file["file"], self.file["sha256"])
        return {role: tensors[name] for role, name in self.case["inputs"].items()}

    @property
    def pair(self) -> tuple[str, str]:
        return self.family, self.kind

    @property
    def weights(self) -> dict[str, Tensor]:
        return self.weights_under(self.file["state_dict_prefix"])

    def weights_under(self, prefix: str) -> dict[str, Tensor]:
        """Return one state dict of a file that may hold several."""
        tensors = _tensors(self.file["file"], self.file["sha256"])
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    def check(self, outputs: dict[str, Tensor]) -> None:
        """Fail unless every expected output is there and |got - expected| is in tolerance."""
        assert outputs.keys() == self.case["outputs"].keys()
        tensors = _tensors(self.file["file"], self.file["sha256"])
        for role, rule in self.case["outputs"].items():
            got, expected = outputs[role].double(), tensors[rule["tensor"]].double()
            assert got.shape == expected.shape, f"{role}: {got.shape} != {expected.shape}"
            error = (got - expected).abs()
            allowed = rule["atol"] + rule["rtol"] * expected.abs()
            wrong = ~(error <= allowed)  # NaN is wrong, too
            assert not wrong.any(), (
                f"{role}: {int(wrong.sum())} of {wrong.numel()} elements are out of tolerance, "
                f"at worst |got - expected| = {error.max():.3g} where {allowed.min():.3g} is "
                f"allowed; the case says: {self.case.get('notes', '')}"
            )


@cache
def index() -> dict[str, Any]:
    return json.loads((GOLDEN_DIR / "index.json").read_text())


def cases() -> list[GoldenCase]:
    """Return every case of the index."""
    return [GoldenCase(file, case) for file in index()["files"] for case in file["cases"]]


@cache
def _tensors(file: str, sha256: str) -> dict[str, Tensor]:
    path = GOLDEN_DIR / file
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found == sha256, f"{path} is not the file its index describes"
    return load_file(path)
