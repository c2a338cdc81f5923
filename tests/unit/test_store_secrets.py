"""`hullwatch secrets seen`: what workloads held and touched, in which call, and what came next."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from hullwatch.agent.secrets.paths import LIKELY, PATHS, classify_path
from hullwatch.cli import main
from hullwatch.context.call import AMBIGUOUS, Call
from hullwatch.sensor.wire import Mark, StrKind
from hullwatch.store.query import Reader
from hullwatch.store.secrets import Seen, seen
from support.enriched import WALL, Builder
from support.stores import writer

ADDR = int(StrKind.ADDR)
BOTH = AMBIGUOUS | 9
REFUSED = -111


def address(last: int) -> bytes:
    """192.0.2.`last`, port 443."""
    return b"\x02\0\xbb\x01\xc0\0\x02" + bytes([last])


METADATA = b"\x02\0\x50\0\xa9\xfe\xa9\xfe"


def connect(b: Builder, process: Any, last: int, span: int = 0, **more: Any) -> None:
    b.event("connect", process, address(last), kind=ADDR, span=span, **more)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("store")
    b = Builder()
    server = b.process(99, name="server", env_names=("PATH", "OPENAI_API_KEY"))
    shell = b.process(100, server, name="sh")
    cat, curl = b.process(101, shell, name="cat"), b.process(102, shell, name="curl")
    away = b.process(103, curl, name="away")
    host = b.process(7, workload=0, cgroup=1, name="sshd")
    b.event("exec", server, "/usr/bin/server")
    connect(b, server, 1)  # before anything was touched
    # In no call: `cat token | curl`.
    b.event("open", cat, "/run/secrets/token").event("open", cat, "/data/text.txt")
    b.event("open", cat, "/root/.aws/credentials", ret=-2)
    connect(b, curl, 2, ret=-115, dest="drop.example")
    connect(b, curl, 3, ret=REFUSED)
    connect(b, away, 9)  # too far from it
    connect(b, cat, 4)
    b.event("flow", cat, address(4), kind=ADDR, num=700)
    # In call 1, in call 2, and in one of them.
    b.event("open", server, "/srv/app.key", span=1)
    connect(b, server, 5, span=1)
    connect(b, server, 6, span=2)
    b.event("open", server, "/srv/both.key", span=BOTH)
    connect(b, server, 7, span=BOTH)
    b.event("connect", server, METADATA, kind=ADDR, span=2, ret=-115)
    b.event("open", host, "/etc/shadow")
    b.clock += 120 * 10**9
    connect(b, cat, 8)  # two minutes later
    with_calls = writer(root)
    with_calls.put_workloads([b.workloads.workload(0), b.workloads.workload(1)])
    with_calls.write(b.build())
    given: dict[str, Any] = {"kind": "tool", "source": "gateway", "server": "files"}
    both = [Call(id=n, name=f"tool{n}", begin=WALL + n, **given) for n in (1, 2)]
    with_calls.put_calls(both, {BOTH: (1, 2)})
    with_calls.close()
    return root


@pytest.fixture
def run(store, capsys):
    def ask(*more: str, code: int = 0) -> dict[tuple[str, str], dict[str, Any]]:
        assert main(["secrets", "seen", "--store", str(store), "--json", *more]) == code
        rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        return {(row["how"], row["where"]): row for row in rows}

    return ask


@pytest.fixture
def told(tmp_path):
    """What `seen` says of the events of a test, by place."""

    def ask(b: Builder, **more: Any) -> dict[str, Seen]:
        with_them = writer(tmp_path)
        with_them.put_workloads([b.workloads.workload(at) for at in b.workloads.items])
        with_them.write(b.build())
        with_them.close()
        with Reader(tmp_path) as reader:
            found = seen(reader, **more)
        assert len({(one.workload, one.where) for one in found}) == len(found)
        return {one.where: one for one in found}

    return ask


def ends(one: Seen) -> dict[str, tuple[bool, int]]:
    return {end.address.split(":")[0].split(".")[-1]: (end.same, end.bytes_out) for end in one.then}


def test_after_a_call_nothing_is_certain(told):
    b = Builder()
    server = b.process(99, name="server")
    b.event("open", server, "/srv/app.key", span=1).event("open", server, "/srv/app.key", span=2)
    connect(b, server, 5)
    connect(b, server, 6, span=2)
    assert ends(told(b)["/srv/app.key"]) == {"5": (False, 0), "6": (True, 0)}


def test_every_touch_counts_and_every_byte_once(told):
    b = Builder()
    shell = b.process(100, name="sh")
    both = [b.process(101 + at, shell, name=name) for at, name in enumerate(("cat", "curl"))]
    for process in (shell, *both):
        b.event("open", process, "/srv/app.key")
    b.clock += 3600 * 10**9
    b.event("open", both[1], "/srv/app.key")
    connect(b, both[1], 5)
    b.event("flow", both[1], address(5), kind=ADDR, num=1000)
    b.clock += 59 * 10**9
    connect(b, both[1], 6)
    b.clock += 10**9
    connect(b, both[1], 7)
    one = told(b)["/srv/app.key"]
    assert one.times == 4 and ends(one) == {"5": (True, 1000), "6": (True, 0)}
    assert 58 < max(end.after for end in one.then) < 60


def test_a_call_that_goes_on_in_another_container(told):
    b = Builder()
    b.workloads.items[2] = msgspec.structs.replace(
        b.workloads.workload(1), cgroup=88, container_id="d" * 64, name="other"
    )
    server = b.process(99, name="server")
    other = b.process(200, workload=2, cgroup=88, name="other")
    b.event("open", server, "/srv/app.key", span=1)
    connect(b, other, 5, span=1)
    connect(b, other, 6)
    assert ends(told(b)["/srv/app.key"]) == {"5": (True, 0)}


def test_workloads_are_not_taken_for_each_other(told):
    b = Builder()
    given = b.workloads.workload(1)
    b.workloads.items[2] = msgspec.structs.replace(given, cgroup=88, container_id="d" * 64)
    b.workloads.items[3] = msgspec.structs.replace(
        given, cgroup=89, container_id="e" * 64, name="", state="unknown"
    )
    for at, cgroup in ((1, 77), (2, 88), (3, 89)):
        held = b.process(at, workload=at, cgroup=cgroup, env_names=("API_TOKEN",))
        b.event("exec", held, "/usr/bin/python3").event("open", held, f"/srv/{at}.key")
        b.event("open", held, "/srv/dir.key", marks=int(Mark.DIR))
    found = told(b, where="class = 'open'")
    assert [(one.workload, where) for where, one in found.items()] == [
        ("agent", "/srv/1.key"),
        ("agent", "/srv/2.key"),
        ("e" * 12, "/srv/3.key"),
    ]


def test_names_of_a_cloud_are_no_metadata(told):
    b = Builder()
    server = b.process(99, name="server")
    b.event("connect", server, METADATA[:2] + b"\x35\0" + METADATA[4:], kind=ADDR)
    assert told(b) == {}


def then(row: dict[str, Any]) -> dict[str, bool]:
    """The last number of an address: whether it was the same call or process."""
    return {one["address"].split(":")[0].split(".")[-1]: one["same"] for one in row["then"]}


def test_what_was_held_and_touched_by_kind(run):
    found = {where: (row["workload"], row["kind"]) for where, row in run().items()}
    assert found == {
        ("environment", "OPENAI_API_KEY"): ("agent", "model_api_key"),
        ("file", "/run/secrets/token"): ("agent", "mounted_secret"),
        ("file", "/srv/app.key"): ("agent", "private_key_file"),
        ("file", "/srv/both.key"): ("agent", "private_key_file"),
        ("service", "169.254.169.254:80"): ("agent", "cloud_metadata"),
        ("file", "/etc/shadow"): ("", "account_hashes"),
    }


def test_where_it_went_next(run):
    found = run()
    token = found["file", "/run/secrets/token"]
    assert token["programs"] == ["/usr/bin/cat"] and token["calls"] == []
    # Its own, and its sibling's; not its nephew's, none before, none that failed, none later.
    # The server is its grandparent: no one beside it.
    assert then(token) == {"4": True, "2": False}
    told = {one["address"].split(":")[0]: one for one in token["then"]}
    assert told["192.0.2.4"]["bytes_out"] == 700
    assert told["192.0.2.2"]["name"] == "drop.example"
    assert then(run("--within", "5m")["file", "/run/secrets/token"]).keys() == {"4", "2", "8"}


def test_in_which_call(run):
    found = run()
    app, both = found["file", "/srv/app.key"], found["file", "/srv/both.key"]
    assert app["calls"] == ["files: tool1 (0000000000000001)"]
    assert both["calls"] == [f"~files: tool{n} ({n:016x})" for n in (1, 2)]
    # The same process went on, but for another call, or for one that is not known.
    assert then(app) == {"5": True, "6": False, "7": False, "254": False}
    assert then(both) == {"7": False, "254": False}


def test_a_part_is_asked_for(run, store, capsys):
    assert set(run("--kind", "account_hashes")) == {("file", "/etc/shadow")}
    assert ("file", "/etc/shadow") not in run("--container", "agent")
    assert run("--since", "2037-01-01") == {}
    assert run("--within", "soon", code=2) == run("--within", "30d", code=2) == {}
    assert main(["secrets", "seen", "--store", str(store)]) == 0
    shown = capsys.readouterr().out
    assert "$OPENAI_API_KEY" in shown and "~drop.example" in shown and "the host" in shown


WORDS = sorted(
    {part for _, row in PATHS for one in row.split() for part in re.split(r"[/*]+", one) if part}
)


@given(st.lists(st.sampled_from([*WORDS, "x", ""]) | st.text(max_size=5), max_size=6))
def test_the_first_look_misses_no_path(parts):
    path = "/" + "/".join(parts)
    options = re2.Options()
    options.dot_nl = True
    options.encoding = re2.Options.Encoding.LATIN1
    if classify_path(path) is not None:
        raw = path.encode("utf-8", "surrogatepass")
        assert re2.compile(LIKELY.encode(), options).fullmatch(raw)
