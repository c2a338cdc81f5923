"""Enriched rows as stored columns: nothing is changed, and unknown is never 0 or ''."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hullwatch.sensor.batch import String
from hullwatch.sensor.wire import EVENT, Mark, StrKind
from hullwatch.store.schema import SCHEMA
from hullwatch.store.window import CMDLINE_CUT, Window, encode
from support.enriched import CONTAINER, WALL, Builder

BIG = (1 << 64) - 1


def rows(builder: Builder) -> list[dict]:
    return encode(builder.build(), boot=3).to_pylist()


def test_an_exec_row_carries_the_whole_image():
    b = Builder()
    shell = b.process(41, name="sh")
    long = "x" * 5000
    child = b.process(42, shell, name="python3", argv=("python3", "-c", long), script="/s.py")
    b.event("exec", child, "/usr/bin/python3", b"python3\0-c\0", kind2=int(StrKind.ARGV), ret=0)
    b.event("open", child, "/etc/hosts", op=2)
    exec_, open_ = rows(b)
    assert exec_["cmdline"] == f"python3 -c {long}"
    assert (exec_["cwd"], exec_["env_names"], exec_["script"]) == ("/app", "PATH HOME", "/s.py")
    assert (exec_["object"], exec_["object2"]) == ("/usr/bin/python3", "python3 -c")
    assert (exec_["pid"], exec_["ppid"], exec_["parent"]) == (42, 41, shell.key)
    assert (exec_["class"], exec_["grade"], exec_["boot"]) == ("exec", "vital", 3)
    assert exec_["container_id"] == CONTAINER
    assert open_["op"] == "openat"
    assert open_["grade"] == "bulk"
    assert open_["cwd"] is None
    assert len(open_["cmdline"]) == CMDLINE_CUT
    assert open_["cmdline"].endswith("…")


def test_time_is_wall_and_mono_is_boot_time():
    b = Builder()
    row = rows(b.event("exit", b.process(5)))[0]
    assert row["mono"] == b.clock
    assert int(row["time"].timestamp() * 1e6) == (b.clock + WALL) // 1000


@pytest.mark.parametrize("field", ["proc", "cgroup", "span", "num", "num2"])
def test_64_bit_numbers_survive(field):
    b = Builder()
    row = rows(b.event("open", b.process(5), "/x", **{field: BIG}))[0]
    assert row[field] == BIG


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        (b"/tmp/a\nb\tc", "/tmp/a\nb\tc"),
        (b"/tmp/\x1b[2J\x1b]0;x\x07", "/tmp/\x1b[2J\x1b]0;x\x07"),
        (b"/tmp/\xff\xfe", "/tmp/\\xff\\xfe"),
        ("/tmp/‮gnp.exe".encode(), "/tmp/‮gnp.exe"),
        (b"/" + b"d/" * 2047 + b"f", "/" + "d/" * 2047 + "f"),
    ],
)
def test_hostile_paths_are_kept_as_they_are(path, kept):
    b = Builder()
    assert rows(b.event("open", b.process(5), path))[0]["object"] == kept


def test_unknown_is_null():
    b = Builder()
    row = rows(b.event("open", 0, "/x"))[0]
    for name in ("name", "exe", "cmdline", "parent", "ppid", "uid", "euid", "script", "span"):
        assert row[name] is None, name
    assert row["object2"] is None


def test_a_string_that_is_gone_is_null_and_marked():
    b = Builder()
    enriched = b.event("open", b.process(5), "/x").build()
    b.dictionary.forget_below(1000)
    row = encode(enriched).to_pylist()[0]
    assert row["object"] is None
    assert row["marks"] & Mark.STR_LOST


def test_addresses_and_names_of_destinations():
    b = Builder()
    address = b"\x02\0\xbb\x01\x0a\0\0\x01"
    b.event("connect", b.process(5), address, kind=int(StrKind.ADDR), dest="api.example", port=9)
    b.event("connect", 0, b"\x0a\0\x50\0" + bytes(15) + b"\1", kind=int(StrKind.ADDR))
    first, second = rows(b)
    assert (first["object"], first["dest_name"]) == ("10.0.0.1:443", "api.example")
    assert first["object_kind"] == "addr"
    assert (second["object"], second["dest_name"]) == ("[::1]:80", None)


def test_a_window_outlives_slots_and_ids():
    b = Builder()
    window = Window()
    old = b.process(7, name="old")
    window.add(b.event("open", old, "/old").build())
    b.images.items[old.slot] = replace(old, pid=8, program=replace(old.program, name="new"))
    b.event("open", old.slot, "/new")
    window.add(replace(b.build(), released_images=(old.slot,)))
    b.dictionary.forget_below(1000)
    assert [(row["name"], row["object"]) for row in window.take().to_pylist()] == [
        ("old", "/old"),
        ("new", "/new"),
    ]
    assert window.rows == 0


def test_a_setuid_is_seen_in_later_rows_of_the_same_window():
    b = Builder()
    window = Window()
    process = b.process(7)
    window.add(b.event("open", process, "/a").build())
    process.uid = process.euid = 0
    window.add(b.event("setid", process).event("open", process, "/b").build())
    assert [row["uid"] for row in window.take().to_pylist()] == [1000, 0, 0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, (1 << 32) - 1), max_size=60))
def test_any_dictionary_ids(ids):
    b = Builder()
    for ident in ids:
        if ident:
            b.dictionary.add((String(ident, int(StrKind.PATH), 0, 4, b"/%d" % ident),))
    events = np.zeros(len(ids), EVENT)
    events["cls"], events["obj"] = 10, ids
    window = Window()
    half = len(ids) // 2
    for part in (events[:half], events[half:]):
        window.add(b.wrap(part, [0] * len(part), [0] * len(part)))
    expected = [f"/{ident}" if ident else None for ident in ids]
    assert window.take().column("object").to_pylist() == expected


def test_an_empty_window_has_the_schema():
    taken = Window().take()
    assert taken.schema == SCHEMA
    assert taken.num_rows == 0


def test_many_rows_agree_with_their_source():
    b = Builder()
    enriched = b.many(5000, paths=300, images=40)
    table = encode(enriched)
    events = enriched.batch.events
    assert table.column("proc").to_numpy().tolist() == events["proc"].tolist()
    assert table.column("object").to_pylist() == [
        b.dictionary.text(ident) for ident in events["obj"].tolist()
    ]
    assert table.column("name").to_pylist() == [
        b.images.image(slot).name for slot in enriched.image.tolist()
    ]
