"""Names in baselines: finite, and the same whenever they are asked for."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hullwatch.detect.baseline.objects import (
    MAX_TEXT,
    dns_object,
    end_object,
    group_of,
    listen_object,
    path_object,
    within,
)
from hullwatch.detect.scene import address_data
from hullwatch.sensor.dictionary import decode_address


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/usr/bin/python3.11", "/usr/bin/python3.11"),
        ("/proc/1234/status", "/proc/{n}/status"),
        ("/proc/12/task/13/comm", "/proc/{n}/task/{n}/comm"),
        ("/data/550e8400-e29b-41d4-a716-446655440000.json", "/data/{uuid}.json"),
        ("/cache/blobs/3f2a9c0d1e4b5a69.bin", "/cache/blobs/{hex}.bin"),
        ("/usr/lib/x/mod.cpython-311.pyc.140234234", "/usr/lib/x/mod.cpython-311.pyc.{n}"),
        ("/tmp/tmpab3d_f9x/in", "/tmp/{tmp}/in"),
        ("/tmp/tmp.Ab3dE9kLm0", "/tmp/{tmp}"),
        ("/tmp/ccX7Ya2b.s", "/tmp/{tmp}.s"),
        ("/tmp/notes.txt", "/tmp/notes.txt"),
        ("/etc/facade", "/etc/facade"),
        ("/usr/lib/deadbeefdeadbeef", "/usr/lib/deadbeefdeadbeef"),  # no digit: a word
        ("/x/*", "/x/{star}"),
        ("pipe:[123456]", "pipe:[{n}]"),
        ("", ""),
    ],
)
def test_paths(path, expected):
    assert path_object(path) == expected


pieces = st.sampled_from(
    [
        "tmp",
        "tmp.",
        "/",
        "/tmp/",
        "-",
        "_",
        ".",
        "a1B2c3",
        "123456",
        "0123456789ab",
        "*",
        "x",
        "{n}",
    ]
)
texts = st.one_of(
    st.text(max_size=80),
    st.lists(pieces, max_size=12).map("".join),
    st.lists(st.uuids().map(str), max_size=3).map("/".join),
)


@given(texts)
def test_a_name_is_its_own_name(text):
    once = path_object(text)
    assert path_object(once) == once
    assert len(once) <= MAX_TEXT and "*" not in once


@given(
    st.integers(1, 10**9), st.integers(1, 10**9), st.uuids(), st.binary(min_size=16, max_size=16)
)
def test_what_a_program_makes_up_gives_one_name(one, other, uid, raw):
    assert path_object(f"/proc/{one}/fd/{other}") == "/proc/{n}/fd/{n}"
    assert path_object(f"/var/x-{uid}/y") == "/var/x-{uuid}/y"
    if re.search(r"\d", raw.hex()) and not raw.hex().isdecimal():
        assert path_object(f"/blobs/{raw.hex()}") == "/blobs/{hex}"


@given(texts, st.sampled_from(["exec", "read", "write", "connect", "listen", "dns"]))
def test_a_group_is_its_own_group_and_covers_its_names(text, kind):
    name = {"dns": dns_object(text)}.get(kind, path_object(text))
    group = group_of(kind, name)
    if kind in ("exec", "read", "write"):
        assert group.endswith("/*") and group_of(kind, group) == group
    assert within(group, kind, name)


def _address(text):
    return decode_address(address_data(text))


def test_ends():
    assert end_object(_address("10.0.0.1:443")) == "10.0.0.1:443"
    assert end_object(_address("10.0.0.1:443"), "API.Example.com.") == "api.example.com:443"
    assert end_object(_address("[::ffff:10.0.0.1]:443")) == "10.0.0.1:443"
    assert end_object(_address("[2001:db8::1]:443")) == "[2001:db8::1]:443"
    assert end_object(_address("/run/docker.sock")) == "unix:/run/docker.sock"
    assert end_object(_address("@bus-123456")) == "unix:@bus-{n}"
    assert end_object(None) == ""
    assert listen_object(_address("127.0.0.1:40123")) == "127.0.0.1:{high}"
    assert listen_object(_address("0.0.0.0:8080")) == "0.0.0.0:8080"


def test_groups():
    assert group_of("connect", "a.b.example.com:443") == "*.b.example.com:443"
    assert group_of("connect", "10.0.0.1:443") == "{ip}:443"
    assert group_of("connect", "[::1]:443") == "{ip}:443"
    assert group_of("connect", "redis:6379") == "{name}:6379"
    assert group_of("connect", "unix:/run/x.sock") == "unix:/run/*"
    assert group_of("dns", "x.evil.example") == "*.evil.example"
    assert group_of("read", "/etc/passwd") == "/etc/*"
    assert group_of("read", "/x") == "/*"


def test_accepted_patterns():
    assert within("/data/**", "read", "/data/a/b")
    assert not within("/data/**", "read", "/database")
    assert within("/data/*", "read", "/data/a") and not within("/data/*", "read", "/data/a/b")
    assert within("*.example.com:443", "connect", "a.example.com:443")
    assert not within("*.example.com:443", "connect", "a.example.com:80")
    assert within("**", "exec", "/bin/x")
