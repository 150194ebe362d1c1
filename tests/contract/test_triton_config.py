"""``config.pbtxt`` says what `gmem_shared.triton_io` says."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import ModelConfig

import gmem_generator
from gmem_shared import triton_io

REPOSITORY = Path(gmem_generator.__file__).parents[1] / "model_repository"


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    text = (REPOSITORY / triton_io.MODEL_NAME / "config.pbtxt").read_text()
    return text_format.Parse(text, ModelConfig())


def test_the_model_is_decoupled_and_has_one_unbatched_engine(config) -> None:
    assert config.name == triton_io.MODEL_NAME
    assert config.model_transaction_policy.decoupled
    assert config.max_batch_size == 0
    assert [group.count for group in config.instance_group] == [1]


def test_tensors_are_those_of_the_contract(config) -> None:
    table = [
        line.split()[:2]
        for line in (triton_io.__doc__ or "").splitlines()
        if line.split()[1:2]
        and line.split()[1] in {"BYTES", "FP32", "INT32", "UINT64", "INT64", "UINT8"}
    ]
    types = {"BYTES": "TYPE_STRING"}
    expected = {name: types.get(dtype, f"TYPE_{dtype}") for name, dtype in table}
    tensors = [*config.input, *config.output]
    data_type = tensors[0].DESCRIPTOR.fields_by_name["data_type"].enum_type
    found = {t.name: data_type.values_by_number[t.data_type].name for t in tensors}
    assert found == expected
    assert [t.name for t in config.input] == [
        triton_io.OPERATION,
        triton_io.SNIPPETS,
        triton_io.LABELS,
        triton_io.SEEDS,
        triton_io.INDICES,
    ]
    assert [t.name for t in config.output] == [triton_io.IMAGES, triton_io.META]


def test_only_the_rows_are_optional(config) -> None:
    assert [t.name for t in config.input if not t.optional] == [triton_io.OPERATION]
