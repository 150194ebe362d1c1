"""How many cores there are to use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gmem_model.engine.cores import usable_cores

AFFINITY = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("text", "cores"),
    [
        ("max 100000\n", AFFINITY),
        ("100000 100000\n", 1),
        ("150000 100000\n", 1),
        ("50000 100000\n", 1),
        ("100000000 100000\n", AFFINITY),
    ],
)
def test_a_container_has_no_more_than_its_share(text: str, cores: int, tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert usable_cores(tmp_path / "cpu.max") == cores


def test_without_a_container_all_cores_count(tmp_path: Path) -> None:
    assert usable_cores(tmp_path / "cpu.max") == AFFINITY
