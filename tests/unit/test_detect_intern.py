"""Small integers for what was seen before."""

from __future__ import annotations

import numpy as np

from hullwatch.detect.intern import KeyTable


def test_every_key_is_new_once_and_zero_is_a_key_like_others():
    table = KeyTable(100)
    made: list[int] = []

    def make(row: int) -> int:
        made.append(row)
        return len(made) - 1

    keys = np.array([0, 7, 0, 2**64 - 1, 7], np.uint64)
    assert table.look(keys, make).tolist() == [0, 1, 0, 2, 1]
    assert table.look(keys, make).tolist() == [0, 1, 0, 2, 1]
    assert made == [0, 1, 3]
    table.clear()
    assert table.look(keys[1:3], make).tolist() == [4, 3]
