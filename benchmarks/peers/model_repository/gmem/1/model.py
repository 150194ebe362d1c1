"""A whole request per Triton request, a batch per call: what its dynamic batcher is made for."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).parents[3]))

from sampler import Pipeline

FIELDS = ("class_label", "num_images", "num_steps")


class TritonPythonModel:
    """Answers with the JSON that the other peers answer with."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the network."""
        self._pipeline = Pipeline(Path(os.environ["BENCHMARK_FOLDER"]))

    def execute(self, requests: list[Any]) -> list[Any]:
        """Make the images of a batch."""
        batch = [{field: _value(request, field) for field in FIELDS} for request in requests]
        answers = self._pipeline(batch)
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("answer", np.array([[json.dumps(answer)]], dtype=object))]
            )
            for answer in answers
        ]


def _value(request: Any, field: str) -> int:
    return int(pb_utils.get_input_tensor_by_name(request, field).as_numpy().item())
