"""The ring reader, on memory that a test lays out as the kernel does."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.sensor.ring import Ring

PAGE = mmap.PAGESIZE
BUSY, DISCARD = 1 << 31, 1 << 30
RECORD = np.dtype([("a", "<u8"), ("b", "<u4"), ("c", "<u4")])
ODD = np.dtype([("a", "<u4")])


class FakeRing:
    """A ring buffer's memory in a file: consumer page, producer page, data."""

    def __init__(self, size: int = PAGE, start: int = 0) -> None:
        fd = os.memfd_create("ring")
        os.ftruncate(fd, 2 * PAGE + size)
        self.size = size
        self.memory = mmap.mmap(fd, 2 * PAGE + size)
        self.words = np.frombuffer(self.memory, np.uint64)
        self.words[0] = self.words[PAGE // 8] = start
        self.ring = Ring(SimpleNamespace(name="fake", fd=fd, max_entries=size))  # type: ignore[arg-type]

    @property
    def consumed(self) -> int:
        return int(self.words[0])

    def put(self, data: bytes, flags: int = 0) -> int:
        """Write one record as bpf_ringbuf_output does; the position of its header."""
        at = int(self.words[PAGE // 8])
        step = 8 + (len(data) + 7) // 8 * 8
        assert at + step - self.consumed <= self.size, "the test overfills its ring"
        raw = (len(data) | flags).to_bytes(4, "little") + b"\xaa\xaa\xaa\xaa" + data
        for i, byte in enumerate(raw.ljust(step, b"\xee")):
            self.memory[2 * PAGE + (at + i) % self.size] = byte
        self.words[PAGE // 8] = at + step
        return at

    def mark(self, at: int, length: int, flags: int) -> None:
        """Rewrite a header: commit or discard."""
        header = (length | flags).to_bytes(4, "little")
        start = 2 * PAGE + at % self.size
        self.memory[start : start + 4] = header


@pytest.fixture(params=[0, 8, PAGE - 8, PAGE - 24, 3 * PAGE + 16, (1 << 40) + PAGE - 40])
def fake(request: pytest.FixtureRequest) -> Iterator[FakeRing]:
    """Rings that have been read up to here and there: records wrap at other places."""
    yield FakeRing(start=request.param)


def record(number: int) -> bytes:
    return np.array([(number, number + 1, number + 2)], RECORD).tobytes()


def take(fake: FakeRing, limit: int = 1 << 20, upto: int | None = None) -> list[int]:
    end = fake.ring.produced() if upto is None else upto
    rows = fake.ring.take_fixed(RECORD, end, limit)
    assert rows.dtype == RECORD
    assert (rows["b"] == rows["a"] + 1).all() and (rows["c"] == rows["a"] + 2).all()
    return list(rows["a"].tolist())


def test_an_empty_ring(fake: FakeRing):
    assert take(fake) == []
    assert list(fake.ring.take_variable()) == []
    assert fake.ring.waiting() == 0


def test_records_in_order_around_the_end(fake: FakeRing):
    for turn in range(5):
        for i in range(100):
            fake.put(record(turn * 1000 + i))
        assert fake.ring.waiting() == 100 * 24
        assert take(fake) == [turn * 1000 + i for i in range(100)]
        assert fake.ring.waiting() == 0


def test_copies_do_not_change_when_the_ring_is_written_again(fake: FakeRing):
    for i in range(170):
        fake.put(record(i))
    rows = fake.ring.take_fixed(RECORD, fake.ring.produced(), 1000)
    for i in range(170):
        fake.put(record(9000 + i))
    assert rows["a"].tolist() == list(range(170))


def test_stops_before_a_record_that_is_being_written(fake: FakeRing):
    for i in range(3):
        fake.put(record(i))
    at = fake.put(record(3), BUSY)
    fake.put(record(4))
    assert take(fake) == [0, 1, 2]
    assert take(fake) == []
    assert fake.consumed == at
    fake.mark(at, 16, 0)
    assert take(fake) == [3, 4]


def test_discarded_records_are_skipped(fake: FakeRing):
    fake.put(record(0))
    fake.put(record(1), DISCARD)
    fake.put(record(2))
    assert take(fake) == [0, 2]
    assert fake.ring.waiting() == 0


def test_not_beyond_the_position_given(fake: FakeRing):
    fake.put(record(0))
    upto = fake.ring.produced()
    fake.put(record(1))
    assert take(fake, upto=upto) == [0]
    assert take(fake, upto=upto) == []
    assert take(fake, upto=upto - 24) == []
    assert take(fake) == [1]


def test_at_most_the_limit(fake: FakeRing):
    for i in range(10):
        fake.put(record(i))
    assert take(fake, limit=4) == [0, 1, 2, 3]
    assert take(fake, limit=0) == []
    assert take(fake, limit=100) == [4, 5, 6, 7, 8, 9]


def test_records_that_are_no_whole_words(fake: FakeRing):
    for i in range(20):
        fake.put(np.array([(i,)], ODD).tobytes())
    rows = fake.ring.take_fixed(ODD, fake.ring.produced(), 100)
    assert rows["a"].tolist() == list(range(20))


def test_variable_records(fake: FakeRing):
    sent = [bytes([i]) * size for i, size in enumerate((0, 1, 7, 8, 9, 255, 1000))]
    for data in sent:
        fake.put(data)
    assert [bytes(view) for view in fake.ring.take_variable()] == sent
    assert fake.ring.waiting() == 0


def test_variable_records_skip_and_stop(fake: FakeRing):
    fake.put(b"one")
    fake.put(b"dropped", DISCARD)
    fake.put(b"two")
    at = fake.put(b"later", BUSY)
    fake.put(b"last")
    assert [bytes(v) for v in fake.ring.take_variable()] == [b"one", b"two"]
    assert fake.consumed == at
    fake.mark(at, 5, 0)
    assert [bytes(v) for v in fake.ring.take_variable()] == [b"later", b"last"]


def test_variable_records_up_to_a_limit(fake: FakeRing):
    for i in range(10):
        fake.put(bytes([i]) * 40)
    first = [bytes(v) for v in fake.ring.take_variable(limit=100)]
    assert [data[0] for data in first] == [0, 1]
    rest = [bytes(v) for v in fake.ring.take_variable()]
    assert [data[0] for data in rest] == list(range(2, 10))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 1000),
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.binary(max_size=200)),
            st.tuples(st.just("drop"), st.binary(max_size=200)),
            st.tuples(st.just("take"), st.integers(1, 2000)),
        ),
        max_size=60,
    ),
)
def test_whatever_is_put_is_taken_once_and_in_order(start: int, steps: list[tuple[str, Any]]):
    fake = FakeRing(start=start * 8)
    sent: list[bytes] = []
    got: list[bytes] = []
    for what, value in steps:
        if what == "take":
            got += [bytes(v) for v in fake.ring.take_variable(limit=value)]
        elif fake.ring.waiting() + 8 + len(value) + 8 <= PAGE:
            fake.put(value, DISCARD if what == "drop" else 0)
            sent += [value] if what == "put" else []
    got += [bytes(v) for v in fake.ring.take_variable()]
    assert got == sent
    assert fake.ring.waiting() == 0
