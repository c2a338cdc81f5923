"""Who tells of calls, and what is believed: the socket's protocol, with the kernel's part noted."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hullwatch.agent import link
from hullwatch.agent.content import Content
from hullwatch.agent.report import Said, Whose
from hullwatch.agent.secrets import Key
from hullwatch.context import tool_call
from hullwatch.context.call import Call, Signal, new_id
from hullwatch.context.calls import Calls
from hullwatch.context.workload import Workload
from hullwatch.reports import Reports, _cgroup_of, is_outside
from hullwatch.sensor.told import Told, ToldQueue
from hullwatch.sensor.wire import OF_THREAD, Class
from support.scratch import poll


class Noted:
    """What the kernel would be told."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.refused: dict[str, int] = {}
        self.running: set[tuple[int, int]] = set()
        self.full = False

    def new_server(self) -> int:
        return 7

    def add_thread(self, tid: int) -> int:
        return OF_THREAD | tid

    def drop_actor(self, actor: int) -> None:
        self.said.append(("drop", actor))

    def serves(self, tgid: int, server: int) -> bool:
        self.said.append(("serves", tgid, server))
        return True

    def forget(self, tgid: int, server: int) -> None:
        self.said.append(("forget", tgid, server))

    def begin(self, actor: int, call: int) -> bool:
        self.running.add((actor, call))
        return not self.full

    def serving(self) -> dict[int, list[int]]:
        return {7: [1007], 8: [1008]}

    def end(self, actor: int, call: int) -> bool:
        self.running.discard((actor, call))
        return True


class Place:
    def __init__(self, folder: Path, content: Content | None = None) -> None:
        self.path = folder / "calls.sock"
        self.spans, self.calls, self.told = Noted(), Calls(), ToldQueue()
        spans: Any = self.spans
        self.ports: dict[int, tuple[int, ...]] = {}
        self.reports = Reports(
            self.path,
            spans,
            self.calls,
            self.told,
            lambda pid, port: self.ports.get(port, ()),
            content=content,
            labels=self.labels_of,
            whose=lambda cgroup: self.whose.get(cgroup),
        )
        self.whose: dict[int, Whose] = {}
        self.labels: dict[int, tuple[str, ...] | None] = {}
        self.asked: list[set[int]] = []

    def labels_of(self, roots: set[int], tgids: set[int]) -> tuple[str, ...] | None:
        assert roots == {os.getpid()}
        self.asked.append(tgids)
        return self.labels.get(len(self.asked), ())

    def events(self) -> list[Told]:
        return list(self.told._waiting)


class Client:
    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(str(path))
        self.file = self.sock.makefile("rb")

    def tell(self, **request: Any) -> None:
        self.sock.sendall(json.dumps(request).encode() + b"\n")

    def ask(self, **request: Any) -> dict[str, Any]:
        self.tell(**request)
        answer: dict[str, Any] = json.loads(self.file.readline())
        return answer


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.reports.close()


def call(ident: int = 1, **more: Any) -> dict[str, Any]:
    told = {"id": ident, "kind": "tool", "source": "gateway", "name": "read", "begin": 0}
    return told | more


def test_a_server_and_its_calls(place: Place) -> None:
    client = Client(place.path)
    assert client.ask(serve="files") == {"ok": True}
    assert client.ask(served=True) == {"ok": True}
    assert place.spans.said == [("serves", os.getpid(), 7), ("forget", os.getpid(), 7)]
    assert client.ask(begin=call(5, begin=time.time_ns())) == {"ok": True}
    assert place.spans.running == {(7, 5)}
    (begun,) = place.calls.running()
    assert (begun.server, begun.pid, begun.name) == ("files", os.getpid(), "read")
    client.tell(end=call(5, end=time.time_ns(), status="error", error="-32602"))
    poll(lambda: not place.spans.running, seconds=5, waiting_for="the end")
    ended = poll(
        lambda: one if (one := place.calls.get(5)) and one.end else None,
        seconds=5,
        waiting_for="its end",
    )
    assert (ended.status, ended.error, ended.begin) == ("error", "-32602", begun.begin)
    assert [one.flags & 1 for one in place.events()] == [0, 1]


def test_a_server_may_be_named_by_its_port(place: Place) -> None:
    ended = 1 << 21  # nobody's pid: whose it was cannot be told any more
    place.ports[8000] = (1, os.getpid(), ended)
    client = Client(place.path)
    assert client.ask(serve="files", port=8000) == {"ok": True}
    assert client.ask(serve="files", port=8001) == {"ok": True}
    assert client.ask(served=True) == {"ok": True}
    named = [said[1] for said in place.spans.said if said[0] == "serves" and said[1] != os.getpid()]
    # Process 1 is root's: another user may not name it.
    assert named == ([1] if os.geteuid() == 0 else [])
    assert "error" in client.ask(serve="files", port="x")


def test_what_a_peer_left_running_is_lost_when_it_goes(place: Place) -> None:
    client = Client(place.path)
    client.ask(serve="files")
    client.ask(begin=call(5))
    client.sock.shutdown(socket.SHUT_RDWR)
    poll(lambda: not place.spans.running, seconds=5, waiting_for="the end")
    poll(lambda: ("drop", 7) in place.spans.said, seconds=5, waiting_for="the server to go")
    left = place.calls.get(5)
    assert left is not None and left.status == "lost" and left.end


def test_threads_are_the_peers_own(place: Place) -> None:
    client = Client(place.path)
    mine = threading.get_native_id()
    assert "error" in client.ask(begin=call(5), scope="thread", tid=1 << 22)
    assert client.ask(begin=call(5), scope="thread", tid=mine) == {"ok": True}
    client.ask(begin=call(6), scope="thread", tid=mine)
    assert place.spans.running == {(OF_THREAD | mine, 5), (OF_THREAD | mine, 6)}
    client.tell(end=call(5))
    client.tell(end=call(6))
    poll(lambda: ("drop", OF_THREAD | mine) in place.spans.said, seconds=5, waiting_for="its end")
    assert place.spans.said.count(("drop", OF_THREAD | mine)) == 1


@pytest.mark.parametrize(
    ("request_", "why"),
    [
        ({"begin": call(0)}, "1 to 2"),
        ({"begin": call(1 << 63)}, "1 to 2"),
        ({"begin": call(name="")}, "name"),
        ({"begin": call(kind="prayer")}, "not understood"),
        ({"begin": call()}, "scope"),
        ({"begin": call(), "scope": "host"}, "scope"),
        ({"hello": 1}, "say begin"),
    ],
)
def test_what_is_refused_is_told_and_counted(place: Place, request_: Any, why: str) -> None:
    answer = Client(place.path).ask(**request_)
    assert why in answer["error"]
    assert sum(place.reports.refused.values()) == 1 and not place.spans.running


def test_a_call_of_several_requests_goes_on(place: Place) -> None:
    client = Client(place.path)
    client.ask(serve="files")
    for _ in range(2):
        assert client.ask(begin=call(5, begin=time.time_ns())) == {"ok": True}
        assert client.ask(begin=call(5)) == {"ok": True}
        assert place.spans.running == {(7, 5)}
        first = place.calls.running()[0].begin
        client.tell(end=call(5, status="ok"))
        client.ask(served=True)
        assert not place.spans.running
    ended = place.calls.get(5)
    assert ended is not None and ended.end and ended.begin == first
    assert place.reports.stats()["taken_calls"] == 1


def test_an_id_is_one_calls(place: Place) -> None:
    client, other = Client(place.path), Client(place.path)
    assert client.ask(begin=call(5), scope="process") == {"ok": True}
    assert "error" in other.ask(begin=call(5, name="another"), scope="process")
    other.tell(end=call(5))  # it is not theirs to end
    other.ask(served=True)
    assert place.calls.get(5) is not None and not place.calls.running()[0].end


def test_texts_are_cut_and_times_that_cannot_be_are_ours(place: Place) -> None:
    client = Client(place.path)
    client.ask(
        begin=call(
            5, name="n" * 9999, begin=17, attributes={f"a{n}": "v" * 999 for n in range(99)}
        ),
        scope="process",
    )
    (begun,) = place.calls.running()
    assert len(begun.name) == 256 and len(begun.attributes) == 15  # 4 KiB
    assert abs(begun.begin - time.time_ns()) < 60 * 10**9
    assert all(len(str(value)) <= 256 for value in begun.attributes.values())


def test_signals_are_events(place: Place) -> None:
    client = Client(place.path)
    client.ask(serve="files")
    client.tell(
        signal={"kind": "tool_changed", "subject": "read", "detail": "description", "time": 1}
    )
    (told,) = poll(lambda: place.events() or None, seconds=5, waiting_for="the signal")
    assert (told.cls, told.text, told.text2) == (
        int(Class.SIGNAL),
        "read",
        "tool_changed: description",
    )


def test_a_line_without_end_ends_the_connection(place: Place) -> None:
    client = Client(place.path)
    with contextlib.suppress(OSError):
        client.sock.sendall(b"x" * (1 << 20))
    poll(lambda: not place.reports.stats()["peers"], seconds=5, waiting_for="it to be dropped")


def test_another_agent_is_not_pushed_aside(place: Place) -> None:
    with pytest.raises(OSError, match="another agent"):
        Place(place.path.parent)
    assert Client(place.path).ask(served=True) == {"ok": True}


def test_what_a_killed_agent_left_is_replaced(tmp_path: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(tmp_path / "calls.sock"))
    left.close()
    made = Place(tmp_path)
    assert Client(made.path).ask(served=True) == {"ok": True}
    made.reports.close()
    assert not made.path.exists()


@pytest.mark.parametrize(
    "line",
    [
        b'{"\xff":1}',
        b'{"signal":{"kind":"a","subject":"b","detail":"c","time":-1}}',
        b'{"signal":{"kind":"a","subject":"b","detail":"c","time":1,"call":-1}}',
        json.dumps({"begin": call(5, request_bytes=-1, end=1), "scope": "process"}).encode(),
        json.dumps({"begin": call(5, parent=1 << 70), "scope": "process"}).encode(),
        json.dumps({"begin": call(5, attributes={"n": 1 << 80}), "scope": "process"}).encode(),
    ],
)
def test_no_line_ends_the_thread_or_makes_an_event_that_cannot_be(
    place: Place, line: bytes
) -> None:
    client = Client(place.path)
    client.sock.sendall(line + b"\n")
    client.tell(served=True)
    answers = [json.loads(client.file.readline())]
    while answers[-1] != {"ok": True} or len(answers) < (b"begin" in line or b"xff" in line) + 1:
        answers.append(json.loads(client.file.readline()))
    rows = place.told.take(lambda kind, data: 1)
    assert place.told.refused == 0 and all(rows["ts"] < 1 << 62)
    assert Client(place.path).ask(served=True) == {"ok": True}
    for one in place.calls.changes()[0]:
        assert 0 <= one.parent < 1 << 63 and one.request_bytes >= 0 and one.end == 0


def test_who_sends_too_much_is_dropped(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hullwatch.reports._LINES_A_SECOND", 1.0)
    client = Client(place.path)
    with contextlib.suppress(OSError):
        for _ in range(20_000):
            client.sock.sendall(b'{"signal": {}}\n')
    poll(lambda: place.reports.refused["too_fast"], seconds=10, waiting_for="it to be dropped")


def test_what_it_left_after_being_dropped_is_not_taken(place: Place) -> None:
    """It does not read its answers, so that one cannot be sent."""
    client = Client(place.path)
    line = json.dumps({"begin": call(1), "scope": "nowhere"}).encode() + b"\n"
    with contextlib.suppress(OSError):
        for n in range(5_000):
            more = json.dumps({"begin": call(n + 2), "scope": "process"}).encode() + b"\n"
            client.sock.send(line * 20 + more)
    poll(lambda: not place.reports.stats()["peers"], seconds=10, waiting_for="it to be dropped")
    assert not place.spans.running
    assert all(one.end for one in place.calls.changes()[0])


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.binary(max_size=200), max_size=5))
def test_any_bytes_are_answered_or_dropped(place: Place, lines: list[bytes]) -> None:
    client = Client(place.path)
    for line in lines:
        client.sock.sendall(line.replace(b"\n", b"") + b"\n")
    client.tell(served=True)
    answers = [client.file.readline() for _ in range(len(lines) + 1)]
    assert json.loads(answers[-1]) == {"ok": True}
    client.sock.close()


# The two clients


def test_the_gateways_link(place: Place) -> None:
    async def work() -> None:
        made = await link.connect(place.path)
        assert await made.serve("files") and await made.served()
        one = Call(id=new_id(), kind="tool", source="gateway", name="read", begin=time.time_ns())
        assert await made.begin(one)
        other = Call(id=new_id(), kind="tool", source="gateway", name="read", begin=0)
        assert not await made.begin(other, scope="prayer")
        assert "scope" in made.problem and made.unanswered == 1
        made.signal(Signal(kind="odd", subject="read", detail="", time=time.time_ns()))
        made.end(Call(id=one.id, kind="tool", source="gateway", name="read", begin=0, status="ok"))
        assert await made.served()  # all before it has been read
        await made.close()

    asyncio.run(work())
    (ended,) = (one for one in place.calls.changes()[0] if one.end)
    assert (ended.name, ended.server, ended.status) == ("read", "files", "ok")


def test_labels_are_of_the_peer_and_its_server(place: Place) -> None:
    client = Client(place.path)
    place.labels |= {1: ("secret",), 2: None, 3: ("private", "untrusted")}
    assert client.ask(labels=True) == {"ok": True, "labels": ["secret"]}
    assert client.ask(labels=True) == {"ok": True, "labels": None}
    assert client.ask(serve="files") == {"ok": True}
    assert client.ask(labels=True)["labels"] == ["private", "untrusted"]
    assert place.asked == [{os.getpid()}, {os.getpid()}, {os.getpid(), 1007}]


def test_the_link_asks_for_labels(place: Place) -> None:
    async def work() -> None:
        made = await link.connect(place.path)
        place.labels |= {1: ("secret",), 2: None}
        assert await made.labels() == ("secret",)
        assert await made.labels() is None and made.late == 0
        assert await made.labels() == ()
        await made.close()
        assert await made.labels() is None

    asyncio.run(work())


def test_a_peer_learns_which_container_it_is_in_and_of_no_other(place: Place) -> None:
    box = Whose("box", "a" * 64, {"image": "acme/agent:1"})
    mine = _cgroup_of(os.getpid())
    assert mine

    async def work() -> None:
        made = await link.connect(place.path)
        assert await made.workload() is None, "not known yet"
        place.whose[mine + 1] = Whose("other", "b" * 64)
        assert await made.workload() is None
        place.whose[mine] = box
        assert await made.workload() == box
        await made.close()
        assert await made.workload() is None

    asyncio.run(work())


@pytest.mark.parametrize("said", [b"{}", b'{"workload": 1}', b'{"workload": {"name": "x"}}', b"["])
def test_an_answer_that_names_no_container(tmp_path: Path, said: bytes) -> None:
    async def work() -> None:
        async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(said + b"\n")

        server = await asyncio.start_unix_server(agent, str(tmp_path / "odd.sock"))
        made = await link.connect(tmp_path / "odd.sock")
        assert await made.workload() is None
        await made.close()
        server.close()

    asyncio.run(asyncio.wait_for(work(), 20))


def test_labels_that_come_late_are_not_taken_for_another_answer(tmp_path: Path) -> None:
    """An agent that is slow, and one that says odd things."""

    async def work() -> None:
        go = asyncio.Event()

        async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            while line := await reader.readline():
                if b"labels" in line:
                    await go.wait()
                    writer.write(b'{"labels": ["secret"]}\n')
                else:
                    writer.write(b'{"ok": true, "content": 7}\n')

        server = await asyncio.start_unix_server(agent, str(tmp_path / "slow.sock"))
        made = await link.connect(tmp_path / "slow.sock")
        assert await made.labels() is None and await made.labels() is None
        assert made.late == 2 and made.up
        begin = asyncio.create_task(
            made.begin(Call(id=1, kind="tool", source="gateway", name="t", begin=0))
        )
        await asyncio.sleep(0)
        begin.cancel()  # whoever waited is gone; its answer comes all the same
        await asyncio.gather(begin, return_exceptions=True)
        go.set()
        assert await made.begin(Call(id=2, kind="tool", source="gateway", name="t", begin=0))
        assert made.content == 7
        assert await made.labels() == ("secret",) and made.unanswered == 0
        await made.close()
        server.close()

    asyncio.run(asyncio.wait_for(work(), 20))


@pytest.mark.parametrize("said", [b"{}", b'{"labels": 1}', b'{"labels": [1]}', b"[", b""])
def test_labels_that_are_none(tmp_path: Path, said: bytes) -> None:
    async def work() -> None:
        async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(said + b"\n")
            writer.close()

        server = await asyncio.start_unix_server(agent, str(tmp_path / "odd.sock"))
        made = await link.connect(tmp_path / "odd.sock")
        assert await made.labels() is None
        await made.close()
        server.close()

    asyncio.run(asyncio.wait_for(work(), 20))


def test_who_is_outside_of_containers() -> None:
    assert is_outside(os.getpid()) is (len(_spaces()) == 1)
    assert not is_outside(1 << 21), "who has ended is nowhere"


def _spaces() -> list[str]:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.split()[1:] for line in lines if line.startswith("NSpid:"))


def test_a_link_without_its_agent_says_no_and_goes_on(place: Place) -> None:
    async def work() -> None:
        made = await link.connect(place.path)
        assert await made.serve("files")
        place.reports._drop(next(iter(place.reports._peers.values())))
        one = Call(id=new_id(), kind="tool", source="gateway", name="read", begin=time.time_ns())
        assert not await made.begin(one)
        made.end(one)
        assert not made.up and made.unsent >= 1 and made.problem

    asyncio.run(work())


def test_the_workloads_context(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HULLWATCH_CALLS", str(place.path))
    monkeypatch.setattr(tool_call, "_link", None)
    monkeypatch.setattr(tool_call, "_tried", -1e9)
    with (
        pytest.raises(ValueError, match="boom"),
        tool_call.tool_call("outer", server="s") as outer,
        tool_call.tool_call("inner", parent=outer, thread=False) as inner,
    ):
        assert outer and inner
        assert {actor for actor, _ in place.spans.running} == {
            OF_THREAD | threading.get_native_id(),
            7,
        }
        raise ValueError("boom")
    poll(lambda: not place.spans.running, seconds=5, waiting_for="their ends")
    ended = {one.name: one for one in place.calls.changes()[0]}
    assert ended["inner"].parent == outer
    assert {(one.status, one.error) for one in ended.values()} == {("error", "ValueError")}


def test_without_an_agent_a_workload_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HULLWATCH_CALLS", str(tmp_path / "nobody.sock"))
    monkeypatch.setattr(tool_call, "_link", None)
    monkeypatch.setattr(tool_call, "_tried", -1e9)
    with tool_call.tool_call("alone") as ident:
        assert ident == 0


TOKEN = "glpat-" + "a1B2c3D4e5F6g7H8i9J0"
ARGUMENTS = "gen_ai.tool.call.arguments"


def _content(*patterns: str) -> Content:
    def lookup(cgroup: int) -> Workload:
        return Workload(cgroup=cgroup, cgroup_path="/", state="host", container_id="")

    return Content(patterns, 32 << 10, Key(bytes(32)), lookup)


def test_content_is_taken_of_chosen_workloads_and_redacted_again(tmp_path: Path) -> None:
    content = _content("host")
    place = Place(tmp_path, content)
    try:
        client = Client(place.path)
        client.ask(serve="files")
        assert client.ask(begin=call()) == {"ok": True, "content": 32 << 10}
        long = json.dumps({"text": '"' * 30_000})
        for text in (f"use {TOKEN} now", long):
            said = {"call": 1, "name": ARGUMENTS, "text": text}
            assert client.ask(said=said, answer=True) == {"ok": True}
        for wrong in ({"call": 2, "name": ARGUMENTS}, {"call": 1, "name": "other"}):
            assert "error" in client.ask(said=wrong, answer=True)
        client.tell(said={"call": 1, "name": ARGUMENTS, "lost": True})
        client.ask(serve="files")
        first, second = content.take()
        assert TOKEN not in first.text and "[gitlab_token:" in first.text
        assert (second.cut, first.container) == (True, "host")
        assert content.dropped == {"incomplete": 1}
    finally:
        place.reports.close()


@pytest.mark.parametrize("patterns", [(), ("other",)])
def test_of_others_no_content_is_asked_for_or_taken(tmp_path: Path, patterns: Any) -> None:
    content = _content(*patterns)
    place = Place(tmp_path, content if patterns else None)
    try:
        client = Client(place.path)
        client.ask(serve="files")
        assert client.ask(begin=call()) == {"ok": True}
        client.ask(said={"call": 1, "name": ARGUMENTS, "text": "secret"}, answer=True)
        assert content.take() == []
    finally:
        place.reports.close()


def test_a_link_knows_whether_content_is_wanted(tmp_path: Path) -> None:
    content = _content("host")
    place = Place(tmp_path, content)

    async def talk() -> None:
        made = await link.connect(place.path)
        await made.serve("files")
        assert made.content == 0
        told = Call(id=1, kind="tool", source="gateway", name="read", begin=time.time_ns())
        assert await made.begin(told) and made.content == 32 << 10
        made.said(Said(1, ARGUMENTS, "text"))
        await made.serve("files")
        await made.close()

    try:
        asyncio.run(talk())
        assert [item.text for item in content.take()] == ["text"]
    finally:
        place.reports.close()
