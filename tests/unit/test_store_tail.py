"""The IPC tail: whatever cuts it short, the whole messages before the cut are there."""

from __future__ import annotations

import contextlib
import os

import pyarrow as pa
import pytest

from hullwatch.store.tail import TailFile, read_tail
from hullwatch.store.window import encode
from support.enriched import Builder


@pytest.fixture
def tail(tmp_path):
    b = Builder()
    made = TailFile(tmp_path / "1.arrows")
    sizes = []
    for number in range(4):
        b.event("open", b.process(10 + number, name=f"p{number}"), f"/f{number}")
        made.append(encode(b.build()))
        sizes.append(made.size)
    yield made, sizes
    made.close()


def test_a_reader_sees_each_append_while_the_file_is_open(tail):
    made, _ = tail
    batches, scan = read_tail(made.path)
    assert [batch.column("name").to_pylist() for batch in batches] == [[f"p{n}"] for n in range(4)]
    assert scan == (made.size, 0, 4, "")


def message_ends(data):
    """Where each message of an Arrow stream is over: schema, dictionaries, batches."""
    source, ends = pa.BufferReader(data), []
    reader = pa.ipc.MessageReader.open_stream(source)
    with contextlib.suppress(StopIteration):
        while reader.read_next_message():
            ends.append(source.tell())
    return ends


def test_every_cut_keeps_the_whole_messages_before_it(tail):
    made, sizes = tail
    data = made.path.read_bytes()
    ends = message_ends(data)
    assert set(sizes) < set(ends)
    for cut in [*range(0, len(data), 37), *ends, *(size + d for size in sizes for d in (-1, 0, 1))]:
        made.path.write_bytes(data[:cut])
        whole = sum(size <= cut for size in sizes)
        batches, scan = read_tail(made.path)
        assert len(batches) == whole
        assert scan.rows == whole
        assert scan.good + scan.torn == min(cut, len(data))
        if whole and whole < 4:
            # Nothing is torn where a dictionary ends, though its batch is not there.
            assert scan.good == (cut if cut in ends else sizes[whole - 1])


def test_rubbish_after_whole_messages_is_left_over(tail):
    made, sizes = tail
    with made.path.open("ab") as file:
        file.write(b"\xff\xff\xff\xff" + os.urandom(200))
    batches, scan = read_tail(made.path)
    assert len(batches) == 4
    assert scan.good == sizes[-1]
    assert scan.torn == 204


def test_a_failed_append_leaves_no_trace(tail, monkeypatch):
    made, sizes = tail
    real = os.write

    def half(fd, data):
        if half.calls:
            raise OSError(28, "No space left on device")
        half.calls += 1
        return real(fd, data[: len(data) // 2])

    half.calls = 0
    monkeypatch.setattr(os, "write", half)
    b = Builder()
    with pytest.raises(OSError, match="No space"):
        made.append(encode(b.event("open", b.process(1), "/lost").build()))
    monkeypatch.undo()
    assert made.path.stat().st_size == sizes[-1]
    assert read_tail(made.path)[1].torn == 0


def test_it_notices_that_it_was_removed(tail):
    made, _ = tail
    assert not made.vanished()
    made.path.unlink()
    assert made.vanished()
