from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmem_shared.philox import join64, philox4x32, philox64, split64

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "block"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_known_answers_of_the_published_generator(counter, key, block) -> None:
    result = philox4x32(np.array(counter, np.uint32), np.array(key, np.uint32))
    assert tuple(int(word) for word in result) == block


def test_a_block_does_not_depend_on_its_neighbours() -> None:
    counters = np.arange(4 * 100, dtype=np.uint32).reshape(100, 4)
    key = np.array([1, 2], np.uint32)
    together = philox4x32(counters, key)
    alone = np.stack([philox4x32(counter, key) for counter in counters])
    np.testing.assert_array_equal(together, alone)


@given(st.integers(0, 2**64 - 1))
def test_splitting_and_joining_64_bits_is_lossless(value) -> None:
    assert int(join64(*split64(np.array([value], np.uint64)))[0]) == value


@given(*[st.integers(0, 2**64 - 1)] * 3)
def test_a_block_without_arrays_is_the_same(low, high, key) -> None:
    words = np.array([low, high], "<u8").view("<u4")
    block = philox4x32(words, np.array([key], "<u8").view("<u4"))
    assert philox64(low, high, key) == int(block[0]) | int(block[1]) << 32
