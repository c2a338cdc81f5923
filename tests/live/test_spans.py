"""Calls as the kernel knows them: stamped on events, inherited by what a call starts."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.sensor import Sensor
from hullwatch.sensor.spans import CALLS_AT_ONCE
from hullwatch.sensor.wire import AMBIGUOUS, Class, StrKind
from support.scratch import poll

pytestmark = pytest.mark.scenario

# A server: for each line it is given it does as told, and answers.
SERVER = """
import os, socket, subprocess, sys, threading, time
print(os.getpid(), flush=True)
for line in sys.stdin:
    what, _, rest = line.strip().partition(" ")
    if what == "run":
        subprocess.run(rest.split(" "))
    elif what == "open":
        open(rest).close()
    elif what == "connect":
        s = socket.socket(); s.connect(("127.0.0.1", int(rest))); s.close()
    elif what == "thread":
        t = threading.Thread(target=lambda: open(rest).close()); t.start(); t.join()
    elif what == "wait":
        def wait(path):
            while not os.path.exists(path + ".go"):
                time.sleep(0.01)
            open(path).close()
        waiting = threading.Thread(target=wait, args=(rest,))
        waiting.start()
        print(waiting.native_id, flush=True)
    elif what == "join":
        waiting.join()
    elif what == "background":
        subprocess.Popen(["sh", "-c", "read x; cat " + rest], stdin=subprocess.PIPE)
    print("done", flush=True)
"""


@dataclass
class Seen:
    cls: int
    text: str
    span: int
    proc: int


class Watched:
    """A sensor in record mode, and the events of the processes that a test starts."""

    def __init__(self) -> None:
        self.sensor = Sensor(record=True, policy=False)
        self.spans = self.sensor.spans
        self.dictionary = Dictionary()
        self.sets: dict[int, set[int]] = {}
        self.seen: list[Seen] = []
        self.sensor.start()

    def drain(self) -> list[Seen]:
        for _ in range(200):
            batch = self.sensor.drain()
            self.dictionary.add(batch.strings)
            for string in batch.strings:
                if string.kind == StrKind.CALLS:
                    ours, *calls = np.frombuffer(string.data, np.uint64).tolist()
                    self.sets[ours | string.id] = set(calls)
            for event in batch.events:
                text = self.dictionary.text(int(event["obj"]))
                self.seen.append(
                    Seen(int(event["cls"]), text, int(event["span"]), int(event["proc"]))
                )
            if not len(batch.events):
                break
        return self.seen

    def spans_of(self, cls: Class, text: str) -> set[int]:
        return {one.span for one in self.drain() if one.cls == cls and text in one.text}


class Server:
    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout and self.process.stdin
        self.pid = int(self.process.stdout.readline())

    def ask(self, line: str) -> str:
        assert self.process.stdout and self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        if answer != "done":
            assert self.process.stdout.readline() == "done\n"
        return answer

    def do(self, line: str) -> None:
        assert self.ask(line) == "done"

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(10)


@pytest.fixture(scope="module")
def module_watched() -> Iterator[Watched]:
    """One for all: to load the programs takes longer than most tests."""
    made = Watched()
    yield made
    made.sensor.close()


@pytest.fixture
def watched(module_watched: Watched) -> Watched:
    module_watched.drain()
    module_watched.seen.clear()
    return module_watched


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_nothing_acts_for_a_call_unless_told(
    watched: Watched, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "plain").touch()
    server.do(f"open {tmp_path}/plain")
    assert watched.spans_of(Class.OPEN, f"{tmp_path}/plain") == {0}


def test_a_call_is_on_all_that_is_done_in_it(
    watched: Watched, server: Server, tmp_path: Path
) -> None:
    for name in ("before", "one", "two", "after", "thread"):
        (tmp_path / name).touch()
    spans = watched.spans
    actor = spans.new_server()
    assert actor and spans.serves(server.pid, actor)
    server.do(f"open {tmp_path}/before")
    for call, name in ((101, "one"), (102, "two")):
        assert spans.begin(actor, call)
        server.do(f"open {tmp_path}/{name}")
        server.do(f"run /bin/sh -c /bin/cat<{tmp_path}/{name}")
        assert spans.end(actor, call)
    assert spans.begin(actor, 103)
    server.do(f"thread {tmp_path}/thread")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        server.do(f"connect {port}")
        listener.accept()[0].close()
    assert spans.end(actor, 103)
    server.do(f"open {tmp_path}/after")
    assert watched.spans_of(Class.OPEN, f"{tmp_path}/before") == {0}
    assert watched.spans_of(Class.OPEN, f"{tmp_path}/one") == {101}
    assert watched.spans_of(Class.OPEN, f"{tmp_path}/two") == {102}
    assert watched.spans_of(Class.OPEN, f"{tmp_path}/after") == {0}
    assert watched.spans_of(Class.OPEN, f"{tmp_path}/thread") == {103}
    assert watched.spans_of(Class.CONNECT, f"127.0.0.1:{port}") == {103}
    assert watched.spans_of(Class.FLOW, f"127.0.0.1:{port}") >= {103}
    ran = [one for one in watched.seen if one.cls == Class.EXEC and one.span in (101, 102)]
    assert {one.span for one in ran} == {101, 102}


def test_what_a_call_started_acts_for_it_when_it_is_over(
    watched: Watched, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "late").touch()
    spans = watched.spans
    actor = spans.new_server()
    spans.serves(server.pid, actor)
    spans.begin(actor, 201)
    server.do(f"background {tmp_path}/late")
    spans.end(actor, 201)
    spans.begin(actor, 202)
    server.close()  # the background process reads the end of its input, and goes on
    spans.end(actor, 202)

    def opened() -> set[int]:
        return watched.spans_of(Class.OPEN, f"{tmp_path}/late")

    for _ in range(200):
        if opened():
            break
        threading.Event().wait(0.02)
    assert opened() == {201}


def test_of_calls_at_once_all_are_named(watched: Watched, server: Server, tmp_path: Path) -> None:
    for name in ("both", "all", "last"):
        (tmp_path / name).touch()
    spans = watched.spans
    actor = spans.new_server()
    spans.serves(server.pid, actor)
    calls = list(range(301, 301 + CALLS_AT_ONCE))
    assert spans.begin(actor, calls[0]) and spans.begin(actor, calls[1])
    server.do(f"run cat {tmp_path}/both")
    for call in calls[2:]:
        assert spans.begin(actor, call)
    assert not spans.begin(actor, 999)
    assert spans.refused["calls"] == 1
    server.do(f"open {tmp_path}/all")
    for call in calls[1:]:
        assert spans.end(actor, call)
    assert not spans.end(actor, calls[1])
    server.do(f"open {tmp_path}/last")
    (both,) = watched.spans_of(Class.OPEN, f"{tmp_path}/both")
    (every,) = watched.spans_of(Class.OPEN, f"{tmp_path}/all")
    assert both & AMBIGUOUS and watched.sets[both] == set(calls[:2])
    assert every & AMBIGUOUS and watched.sets[every] == set(calls)
    assert watched.spans_of(Class.OPEN, f"{tmp_path}/last") == {calls[0]}


def test_a_launcher_hands_its_calls_on(watched: Watched, tmp_path: Path) -> None:
    """npx starts node: what is started outside of a call is of the server, too."""
    (tmp_path / "deep").touch()
    spans = watched.spans
    actor = spans.new_server()
    spans.serves(os.getpid(), actor)
    server = Server()
    spans.forget(os.getpid(), actor)
    spans.begin(actor, 401)
    server.do(f"open {tmp_path}/deep")
    server.close()
    assert watched.spans_of(Class.OPEN, f"{tmp_path}/deep") == {401}
    assert server.pid not in spans.acting()  # it has ended


def test_a_thread_speaks_for_itself(watched: Watched, server: Server, tmp_path: Path) -> None:
    for name in ("by-thread", "by-main"):
        (tmp_path / name).touch()
    spans = watched.spans
    process = spans.new_server()
    spans.serves(server.pid, process)
    spans.begin(process, 502)
    tid = server.ask(f"wait {tmp_path}/by-thread")
    actor = spans.add_thread(int(tid))
    assert spans.begin(actor, 501)
    server.do(f"open {tmp_path}/by-main")
    (tmp_path / "by-thread.go").touch()
    server.do("join")
    # It ends a moment after it was joined, and with it what it said of itself: another may get its
    # number.
    poll(
        lambda: actor not in spans.running(),
        seconds=60,
        waiting_for="the end of a thread that was joined",
    )
    assert spans.running()[process] == (502,)
    assert not spans.end(actor, 501)
    assert watched.spans_of(Class.OPEN, f"{tmp_path}/by-main") == {502}
    assert watched.spans_of(Class.OPEN, "by-thread") == {501}
