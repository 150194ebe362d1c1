from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from gmem_shared.errors import CorruptVersionError
from gmem_shared.tensor_file import PAGE_BYTES, map_tensors, write_tensors

TENSORS = {
    "bytes": np.arange(5, dtype=np.uint8),
    "wide": np.arange(7, dtype=np.int64),
    "halves": np.arange(6, dtype=np.float16).reshape(2, 3),
}


def test_any_safetensors_reader_reads_the_file(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", TENSORS)
    found = load_file(tmp_path / "file")
    assert found.keys() == TENSORS.keys()
    for name, array in TENSORS.items():
        np.testing.assert_array_equal(found[name], array)


def test_mapped_arrays_are_page_aligned_and_read_only(tmp_path: Path) -> None:
    write_tensors(tmp_path / "file", {"snippets": np.ones((3, 4), np.float16)})
    mapped = map_tensors(tmp_path / "file")["snippets"]
    assert mapped.ctypes.data % PAGE_BYTES == 0
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 0


def test_files_of_the_stock_writer_can_be_mapped(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "file", {"key": "value"})
    np.testing.assert_array_equal(map_tensors(tmp_path / "file")["halves"], TENSORS["halves"])


def header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        (1 << 60).to_bytes(8, "little"),
        header(b"[]"),
        header(b"{"),
        header(b'{"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}') + bytes(8),
        header(b'{"a": {"dtype": "F16", "shape": [8], "data_offsets": [0, 16]}}') + bytes(4),
        header(b'{"a": {"dtype": "F16", "shape": [3], "data_offsets": [0, 4]}}') + bytes(4),
        header(b'{"a": {"dtype": "F16", "shape": [2], "data_offsets": [-8, -4]}}') + bytes(4),
    ],
)
def test_files_whose_header_lies_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(CorruptVersionError, match="publish the version again"):
        map_tensors(tmp_path / "file")
