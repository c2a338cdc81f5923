"""Captures: what goes in comes out, and a damaged file says what it is."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.context.workload import Workload
from hullwatch.sensor.batch import Batch, Loss, String
from hullwatch.sensor.capture import CaptureError, CaptureReader, CaptureWriter, workloads_of
from hullwatch.sensor.tier import Facts, Tier
from hullwatch.sensor.wire import EVENT, PROC

FACTS = Facts(Tier.TRACEPOINT, "6.1.0-test", "x86_64", True, False, "/sys/fs/cgroup")


def rows(dtype: np.dtype[Any], count: int, seed: int) -> np.ndarray:
    """Rows of random bytes in order of time: every field takes every value."""
    random = np.random.default_rng(seed)
    made = random.integers(0, 256, count * dtype.itemsize, np.uint8).view(dtype)
    # Bytes between fields do not travel, and numpy compares char[] up to its first NUL.
    clean = np.zeros(count, dtype)
    for name in dtype.names or ():
        clean[name] = made[name]
    clean["ts"] = np.sort(clean["ts"])
    return clean


strings = st.builds(
    String,
    id=st.integers(0, 2**32 - 1),
    kind=st.integers(0, 2**16 - 1),
    marks=st.integers(0, 2**16 - 1),
    orig_len=st.integers(0, 2**32 - 1),
    data=st.binary(max_size=300),
)
losses = st.builds(
    Loss,
    stage=st.text(max_size=10),
    cls=st.integers(0, 2**32 - 1),
    cgroup=st.integers(0, 2**64 - 1),
    count=st.integers(0, 2**64 - 1),
)
batches = st.builds(
    Batch,
    events=st.builds(rows, st.just(EVENT), st.integers(0, 50), st.integers(0, 2**32)),
    procs=st.builds(rows, st.just(PROC), st.integers(0, 10), st.integers(0, 2**32)),
    strings=st.lists(strings, max_size=8).map(tuple),
    losses=st.lists(losses, max_size=4).map(tuple),
    dict_base=st.integers(1, 2**32 - 1),
    wall_offset=st.integers(-(2**63), 2**63 - 1),
    drained=st.integers(0, 2**62),
    tier=st.sampled_from(["lsm", "tracepoint"]),
)
workloads = st.builds(
    Workload,
    cgroup=st.integers(0, 2**63 - 1),
    cgroup_path=st.text(max_size=20),
    state=st.just("resolved"),
    name=st.text(max_size=20),
)


def same(a: Batch, b: Batch) -> None:
    np.testing.assert_array_equal(a.events, b.events)
    np.testing.assert_array_equal(a.procs, b.procs)
    for name in ("strings", "losses", "dict_base", "wall_offset", "drained", "tier"):
        assert getattr(a, name) == getattr(b, name), name


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(batches, st.lists(workloads, max_size=3)), max_size=6))
def test_what_goes_in_comes_out(tmp_path_factory, given_batches):
    path = tmp_path_factory.mktemp("capture") / "c"
    writer = CaptureWriter(path, FACTS)
    expected = []
    for batch, values in given_batches:
        writer.write(batch, values)
        writer.flush()  # each as it is, not gathered
        if len(batch.events) or batch.strings or batch.losses or values:
            expected.append((batch, values))
    writer.close()
    reader = CaptureReader(path)
    read = list(reader)
    reader.close()
    assert reader.torn == ""
    assert len(read) == len(expected)
    for (batch, raw), (wanted, values) in zip(read, expected, strict=True):
        same(batch, wanted)
        assert [msgspec.json.decode(r, type=Workload) for r in raw] == values
    assert len(workloads_of(path)) == sum(len(values) for _, values in expected)


def some_batch(count: int = 100, first: int = 0) -> Batch:
    events = rows(EVENT, count, first)
    events["ts"] = np.arange(count) + first
    return Batch(
        events=events,
        strings=(String(first + 2, 1, 0, 5, b"/x\n\xff\0"),),
        drained=first + count,
        tier="lsm",
    )


def write(path: Path, *given: Batch) -> None:
    writer = CaptureWriter(path, FACTS)
    for batch in given:
        writer.write(batch)
        writer.flush()
    writer.close()


def test_small_drains_are_gathered_and_nothing_waits_for_long(tmp_path: Path):
    writer = CaptureWriter(tmp_path / "c", FACTS)
    for i in range(10):
        writer.write(some_batch(10, i * 10))
    writer.write(Batch(drained=600_000_000, tier="lsm"))
    writer.write(some_batch(10, 600_000_000))
    on_disk = list(CaptureReader(tmp_path / "c"))
    assert len(on_disk) == 1
    assert on_disk[0][0].events["ts"].tolist()[:100] == list(range(100))
    writer.close()
    assert sum(len(b.events) for b, _ in CaptureReader(tmp_path / "c")) == writer.events == 110


def test_tells_of_its_origin(tmp_path: Path):
    write(tmp_path / "c", some_batch())
    about = CaptureReader(tmp_path / "c").about
    assert about["kernel"] == "6.1.0-test" and about["tier"] == "tracepoint"
    assert about["host"] == os.uname().nodename
    assert int(about["started"]) > 0 and about["boot_id"] and about["machine"] == "x86_64"


@pytest.mark.parametrize("there", [False, True])
def test_only_its_owner_may_read_it(tmp_path: Path, there: bool):
    path = tmp_path / "c"
    if there:
        path.touch(mode=0o644)
    write(path, some_batch())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_torn_end_keeps_all_before_it(tmp_path: Path):
    path = tmp_path / "c"
    given = [some_batch(50, i * 1000) for i in range(4)]
    write(path, *given)
    whole = path.read_bytes()
    seen: set[object] = set()
    for length in range(len(whole) - 1, 0, -37):
        path.write_bytes(whole[:length])
        try:
            reader = CaptureReader(path)
        except CaptureError as error:
            assert str(path) in str(error)
            seen.add("refused")
            continue
        read = list(reader)
        for (batch, _), wanted in zip(read, given, strict=False):
            same(batch, wanted)
        if length < len(whole) - 8:
            assert reader.torn or len(read) in (0, 1, 2, 3, 4)
        seen.add(len(read))
        reader.close()
    assert seen >= {"refused", 0, 1, 2, 3}


def test_an_end_without_its_mark_is_torn_or_complete(tmp_path: Path):
    """kill -9 between two batches leaves a file without an end mark: all of it counts."""
    writer = CaptureWriter(tmp_path / "c", FACTS)
    writer.write(some_batch())
    writer.flush()
    assert [len(b.events) for b, _ in CaptureReader(tmp_path / "c")] == [100]


def test_flipped_bytes_are_an_error_or_torn_and_never_a_crash(tmp_path: Path):
    path = tmp_path / "c"
    write(path, some_batch(50), some_batch(50, 1000))
    whole = bytearray(path.read_bytes())
    random = np.random.default_rng(7)
    for at in random.integers(0, len(whole), 400).tolist():
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(random.integers(8))
        path.write_bytes(damaged)
        try:
            reader = CaptureReader(path)
            for batch, _ in reader:
                assert batch.events.dtype == EVENT
            reader.close()
        except CaptureError as error:
            assert str(path) in str(error)


def test_what_is_no_capture_says_so(tmp_path: Path):
    path = tmp_path / "c"
    with pytest.raises(CaptureError, match="no such file"):
        CaptureReader(path)
    for content in (b"", b"not arrow at all", os.urandom(1000), b"\xff" * 64):
        path.write_bytes(content)
        with pytest.raises(CaptureError, match=r"not a capture.*hullwatch record"):
            CaptureReader(path)
    with pytest.raises(CaptureError, match="directory"):
        CaptureReader(tmp_path)


def foreign(path: Path, metadata: dict[str, str], fields: list[tuple[str, Any]]) -> None:
    schema = pa.schema(fields).with_metadata(metadata)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, schema) as stream:
        columns = [pa.array([None], kind) for _, kind in fields]
        stream.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))


def test_other_formats_are_refused(tmp_path: Path):
    path = tmp_path / "c"
    foreign(path, {}, [("x", pa.int64())])
    with pytest.raises(CaptureError, match="unknown"):
        CaptureReader(path)
    foreign(path, {"hullwatch.capture": "999"}, [("x", pa.int64())])
    with pytest.raises(CaptureError, match="999.*use the hullwatch that wrote it"):
        CaptureReader(path)
    foreign(path, {"hullwatch.capture": "1"}, [("drained", pa.int64())])
    with pytest.raises(CaptureError, match="columns"):
        CaptureReader(path)


def test_closing_twice_is_once(tmp_path: Path):
    writer = CaptureWriter(tmp_path / "c", FACTS)
    writer.write(some_batch())
    writer.close()
    writer.close()
    assert len(list(CaptureReader(tmp_path / "c"))) == 1
