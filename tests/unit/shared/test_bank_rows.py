import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gmem_shared.bank_rows import Conversion, FileRows
from gmem_shared.errors import InvalidRequestError


@pytest.fixture
def matrix() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)


def test_rows_of_a_file_come_in_the_order_asked_for(tmp_path: Path, matrix: np.ndarray) -> None:
    np.save(tmp_path / "m.npy", matrix)
    rows = FileRows.of_npy(tmp_path / "m.npy")
    assert rows.shape == (20, 3)
    for wanted in ([4, 5, 6, 0, 19, 18, 18], [7], list(range(20))):
        np.testing.assert_array_equal(rows[np.array(wanted)], matrix[wanted])


def test_file_that_ends_too_early_is_refused(tmp_path: Path, matrix: np.ndarray) -> None:
    matrix.tofile(tmp_path / "m")
    rows = FileRows(tmp_path / "m", 0, matrix.dtype, (21, 3))
    with pytest.raises(InvalidRequestError, match="expected 21 rows"):
        rows[np.array([19, 20])]


@pytest.mark.parametrize(
    "content", [np.ones(3), np.asfortranarray(np.ones((3, 2))), np.array([{}], object)]
)
def test_file_without_a_matrix_of_numbers_is_refused(tmp_path: Path, content: np.ndarray) -> None:
    np.save(tmp_path / "m.npy", content, allow_pickle=True)
    with pytest.raises(InvalidRequestError, match=r"m\.npy"):
        FileRows.of_npy(tmp_path / "m.npy")


def test_rows_in_their_own_format_cost_nothing(matrix: np.ndarray) -> None:
    conversion = Conversion(matrix, np.dtype(np.float32))
    ((_, stored),) = conversion.blocks(np.arange(20))
    np.testing.assert_array_equal(stored, matrix)
    assert conversion.worst_error == 0


MEASURE = r"""
import re, sys
from pathlib import Path
import numpy as np
from gmem_shared.bank_format import write_bank
from gmem_shared.bank_rows import FileRows
from gmem_shared.types import ClassInfo

def peak_kib():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


rows = FileRows.of_npy(Path(sys.argv[1]))
n = rows.shape[0]
before = peak_kib()
write_bank(
    Path(sys.argv[2]), vectors=rows, labels=np.arange(n) % 2 - 1,
    source_ids=np.arange(n), classes=[ClassInfo(0, "zero")], encoder="e",
    dtype=np.dtype(np.float16),
)
print(peak_kib() - before)
"""


@pytest.mark.slow
def test_bank_is_written_in_memory_for_some_rows_only(tmp_path: Path) -> None:
    shape = (100_000, 768)
    vectors = np.lib.format.open_memmap(tmp_path / "v.npy", "w+", np.float32, shape)
    for start in range(0, len(vectors), 10_000):
        vectors[start : start + 10_000] = np.float32(start + 1) / 1000
    vectors.flush()
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "v.npy"), str(tmp_path)]
    grown_kib = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert grown_kib < 100 * 1024, f"{grown_kib} KiB for a file of {vectors.nbytes >> 10} KiB"
