"""Labels as the kernel follows them: who has read a secret, and where it went from there."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.labels import bits_of, names_of
from hullwatch.sensor.patterns import Pattern, compiled
from hullwatch.sensor.sensor import Sensor
from hullwatch.sensor.wire import Class, LabelWay

# Does each line that it is given, in Python, and answers.
ACTOR = """
import array, fcntl, os, mmap, socket, subprocess, sys
print(os.getpid(), flush=True)
kept = {}
for line in sys.stdin:
    try:
        exec(line, globals())
        print("done", flush=True)
    except BaseException as problem:
        print(repr(problem), flush=True)
"""


class Actor:
    def __init__(self, *fds: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", ACTOR],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=fds,
        )
        assert self.process.stdout and self.process.stdin
        self.pid = int(self.process.stdout.readline())

    def do(self, line: str) -> None:
        assert self.process.stdout and self.process.stdin
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def close(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait(10)


@dataclass
class Seen:
    cls: int
    text: str
    pid: int
    labels: tuple[str, ...]
    new: tuple[str, ...]
    way: int


class Watched:
    """A sensor in record mode, for which `*.secret` and `*.private` are what they say."""

    def __init__(self, *, untrusted: bool = False) -> None:
        self.sensor = Sensor(record=True, policy=False)
        self.labels = self.sensor.labels
        self.labels.follow_host(True)
        self.labels.give_paths(
            compiled(
                Pattern(f"*.{name}", bits_of([name]), rank)
                for rank, name in enumerate(("secret", "private"))
            )
        )
        self.labels.give_untrusted(untrusted)
        self.dictionary = Dictionary()
        self.seen: list[Seen] = []
        self.sensor.start()

    def drain(self) -> list[Seen]:
        for _ in range(200):
            batch = self.sensor.drain()
            self.dictionary.add(batch.strings)
            for event in batch.events:
                cls = int(event["cls"])
                new = names_of(int(event["num"])) if cls == Class.LABEL else ()
                text = self.dictionary.text(int(event["obj"]))
                pid = int(event["proc"]) & 0x3FFFFF
                labels = names_of(int(event["labels"]))
                self.seen.append(Seen(cls, text, pid, labels, new, int(event["flags"]) & 0xFFFF))
            if not len(batch.events):
                break
        return self.seen

    def of(self, pid: int) -> tuple[str, ...]:
        found = [one.labels for one in self.labels.processes() if one.tgid == pid]
        return names_of(found[0]) if found else ()

    def told(self, pid: int, way: LabelWay) -> list[tuple[str, tuple[str, ...]]]:
        """(object, labels) of each label that came to a process or went from it, but for pipes,
        which have no name: by one of them it answers the test."""
        return [
            (one.text, one.new)
            for one in self.drain()
            if one.cls == Class.LABEL and one.pid == pid and one.way == way and one.text
        ]

    def on(self, cls: Class, text: str, pid: int) -> set[tuple[str, ...]]:
        """The labels of a process's events about something."""
        return {
            one.labels
            for one in self.drain()
            if one.cls == cls and text in one.text and one.pid == pid
        }


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


Start = Callable[..., Actor]


@pytest.fixture
def start() -> Iterator[Start]:
    made: list[Actor] = []

    def one(*fds: int) -> Actor:
        made.append(Actor(*fds))
        return made[-1]

    yield one
    for actor in made:
        actor.close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token.secret"
    path.write_text("s3cr3t")
    return path


SECRET = ("secret",)


def read(path: Path | str) -> str:
    return f"open({str(path)!r}).read()"


@pytest.mark.scenario
def test_who_reads_a_secret_carries_the_label_from_then_on(
    watched: Watched, start: Start, token: Path, tmp_path: Path
) -> None:
    (tmp_path / "before").touch()
    (tmp_path / "after").touch()
    actor, other = start(), start()
    actor.do(read(tmp_path / "before"))
    assert watched.of(actor.pid) == ()
    actor.do(read(token))
    assert watched.of(actor.pid) == SECRET  # at once, whatever user space has seen of it
    actor.do(read(tmp_path / "after"))
    actor.do(read(token))
    other.do(read(tmp_path / "after"))
    assert watched.on(Class.OPEN, f"{tmp_path}/before", actor.pid) == {()}
    assert watched.on(Class.OPEN, f"{tmp_path}/after", actor.pid) == {SECRET}
    assert watched.on(Class.OPEN, f"{tmp_path}/after", other.pid) == {()}
    assert watched.told(actor.pid, LabelWay.TOOK) == [(str(token), SECRET)]  # once
    assert watched.of(other.pid) == ()


def test_to_try_or_to_look_is_not_to_read(watched: Watched, start: Start, tmp_path: Path) -> None:
    actor = start()
    (tmp_path / "x.secret").touch()
    (tmp_path / "x.secret.txt").touch()
    actor.do(f"os.stat('{tmp_path}/x.secret'); os.path.exists('{tmp_path}/none.secret')")
    actor.do(f"os.close(os.open('{tmp_path}/x.secret', os.O_WRONLY))")
    actor.do(read(tmp_path / "x.secret.txt"))
    actor.do(f"os.rename('{tmp_path}/x.secret.txt', '{tmp_path}/y.secret')")
    assert watched.of(actor.pid) == ()
    assert watched.told(actor.pid, LabelWay.TOOK) == []


@pytest.mark.scenario
def test_children_and_new_programs_carry_it_too(
    watched: Watched, start: Start, token: Path, tmp_path: Path
) -> None:
    (tmp_path / "own").touch()
    (tmp_path / "early").touch()
    actor = start()
    actor.do(
        f"kept['early'] = subprocess.Popen(['sh', '-c', 'read x; cat {tmp_path}/early'],"
        " stdin=subprocess.PIPE)"
    )
    actor.do(read(token))
    actor.do(f"subprocess.run(['sh', '-c', 'cat {tmp_path}/own'])")
    actor.do("kept['early'].communicate(b'go\\n')")  # its pipe is the actor's: now it carries it
    opened = [
        one for one in watched.drain() if one.cls == Class.OPEN and one.text == f"{tmp_path}/own"
    ]
    assert [one.labels for one in opened] == [SECRET] and opened[0].pid != actor.pid
    ran = [one for one in watched.drain() if one.cls == Class.EXEC and one.labels == SECRET]
    assert {os.path.basename(one.text) for one in ran} >= {"cat"}


def test_a_child_from_before_carries_nothing(
    watched: Watched, start: Start, token: Path, tmp_path: Path
) -> None:
    actor = start()
    actor.do("kept['early'] = subprocess.Popen(['sleep', '1000'])")
    actor.do(f"open('{tmp_path}/pid', 'w').write(str(kept['early'].pid))")
    actor.do(read(token))
    assert watched.of(int((tmp_path / "pid").read_text())) == ()
    actor.do("kept['early'].kill()")


@pytest.mark.scenario
def test_it_goes_into_files_and_out_of_them_whatever_they_are_called(
    watched: Watched, start: Start, token: Path, tmp_path: Path
) -> None:
    writer, reader, plain = start(), start(), start()
    copy = tmp_path / "copy"
    plain.do(f"open('{tmp_path}/plain', 'w').write('x')")
    writer.do(read(token))
    writer.do(f"open('{copy}', 'w').write('x')")
    writer.do(f"os.rename('{copy}', '{copy}.2'); os.link('{copy}.2', '{copy}.3')")
    reader.do(read(tmp_path / "plain"))
    assert watched.of(reader.pid) == ()
    reader.do(read(f"{copy}.3"))
    assert watched.of(reader.pid) == SECRET and watched.of(plain.pid) == ()
    assert watched.told(writer.pid, LabelWay.GAVE) == [(str(copy), SECRET)]
    assert watched.told(reader.pid, LabelWay.TOOK) == [(f"{copy}.3", SECRET)]


def test_a_secret_that_is_renamed_after_it_was_read_stays_one(
    watched: Watched, start: Start, token: Path, tmp_path: Path
) -> None:
    first, second = start(), start()
    first.do(read(token))
    token.rename(tmp_path / "harmless")
    second.do(read(tmp_path / "harmless"))
    assert watched.of(second.pid) == SECRET


def test_files_that_are_open_already_are_followed(
    watched: Watched, start: Start, token: Path, tmp_path: Path
) -> None:
    writer, reader = start(), start()
    writer.do(f"kept['file'] = open('{tmp_path}/open', 'w')")
    reader.do(f"kept['file'] = open('{tmp_path}/open')")
    writer.do(read(token))
    reader.do("kept['file'].read()")
    assert watched.of(reader.pid) == ()
    writer.do("kept['file'].write('x'); kept['file'].flush()")
    reader.do("kept['file'].read()")
    assert watched.of(reader.pid) == SECRET


@pytest.mark.parametrize(
    "how",
    ["write", "writev", pytest.param("splice", marks=pytest.mark.scenario), "sendfile", "tee"],
)
def test_it_goes_through_pipes(
    watched: Watched, start: Start, token: Path, tmp_path: Path, how: str
) -> None:
    r, w = os.pipe()
    reader, writer, neighbour = start(r), start(w), start(r)
    (tmp_path / "data").write_text("data")
    writer.do(read(token))
    data = f"kept['d'] = os.open('{tmp_path}/data', os.O_RDONLY)"
    act = {
        "write": f"os.write({w}, b'x')",
        "writev": f"os.writev({w}, [b'x', b'y'])",
        "splice": f"{data}; os.splice(kept['d'], {w}, 4)",
        "sendfile": f"{data}; os.sendfile({w}, kept['d'], 0, 4)",
        "tee": f"kept['p'] = os.pipe(); os.write(kept['p'][1], b'x');"
        f" import ctypes; ctypes.CDLL(None).tee(kept['p'][0], {w}, 1, 0)",
    }[how]
    writer.do(act)
    assert watched.of(reader.pid) == ()  # it has not read yet
    reader.do(f"os.read({r}, 9)")
    assert watched.of(reader.pid) == SECRET
    assert watched.of(neighbour.pid) == ()
    os.close(r)
    os.close(w)


def test_a_pipe_without_a_secret_gives_nothing(watched: Watched, start: Start, token: Path) -> None:
    """Labels exist, and somebody else talks through a pipe."""
    r, w = os.pipe()
    reader, writer, other = start(r), start(w), start()
    other.do(read(token))
    writer.do(f"os.write({w}, b'x')")
    reader.do(f"os.read({r}, 9)")
    assert watched.of(other.pid) == SECRET
    assert watched.of(reader.pid) == watched.of(writer.pid) == ()
    os.close(r)
    os.close(w)


@pytest.mark.scenario
def test_a_shell_pipeline(watched: Watched, start: Start, token: Path, tmp_path: Path) -> None:
    """`cat token | base64 | send`, as it is done."""
    actor, reader = start(), start()
    actor.do(f"subprocess.run('cat {token} | base64 | cat > {tmp_path}/out', shell=True)")
    assert watched.of(actor.pid) == ()
    reader.do(read(tmp_path / "out"))
    assert watched.of(reader.pid) == SECRET


@pytest.mark.parametrize("kind", ["SOCK_STREAM", "SOCK_SEQPACKET", "SOCK_DGRAM"])
@pytest.mark.parametrize(
    "how", ["os.write({0}, b'x')", "kept['s'].send(b'x')", "kept['s'].sendmsg([b'x'])"]
)
def test_it_goes_through_socket_pairs(
    watched: Watched, start: Start, token: Path, kind: str, how: str
) -> None:
    a, b = socket.socketpair(socket.AF_UNIX, getattr(socket, kind))
    one, two = start(a.fileno()), start(b.fileno())
    for actor, end in ((one, a), (two, b)):
        actor.do(f"kept['s'] = socket.socket(fileno=os.dup({end.fileno()}))")
    one.do("kept['s'].send(b'x')")
    two.do("kept['s'].recv(9)")
    assert watched.of(two.pid) == ()
    one.do(read(token))
    one.do(how.format(a.fileno()))
    two.do("kept['s'].recvmsg(9)")
    assert watched.of(two.pid) == SECRET
    a.close()
    b.close()


@pytest.mark.parametrize("accepted", ["before", pytest.param("after", marks=pytest.mark.scenario)])
def test_it_goes_through_a_unix_socket(
    watched: Watched, start: Start, token: Path, tmp_path: Path, accepted: str
) -> None:
    """Also where the client has gone before the server takes the connection."""
    server, client = start(), start()
    address = str(tmp_path / "socket")
    server.do(f"kept['l'] = socket.socket(1); kept['l'].bind('{address}'); kept['l'].listen()")
    client.do(read(token))
    client.do(f"kept['c'] = socket.socket(1); kept['c'].connect('{address}')")
    accept = "kept['s'] = kept['l'].accept()[0]"
    if accepted == "before":
        server.do(accept)
    client.do("kept['c'].sendall(b'x'); kept['c'].close()")
    if accepted == "after":
        server.do(accept)
    assert watched.of(server.pid) == ()
    server.do("kept['s'].recv(9)")
    assert watched.of(server.pid) == SECRET
    assert watched.told(server.pid, LabelWay.TOOK) == [(address, SECRET)]


@pytest.mark.scenario
def test_a_connection_is_judged_by_who_opens_it(
    watched: Watched, start: Start, token: Path
) -> None:
    actor = start()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        actor.do(f"kept['early'] = socket.create_connection(('127.0.0.1', {port}))")
        actor.do(read(token))
        actor.do(f"kept['late'] = socket.create_connection(('127.0.0.1', {port}))")
        actor.do("kept['late'].sendall(b'x')")
        assert watched.told(actor.pid, LabelWay.GAVE) == []  # told by the connect
        actor.do("kept['early'].sendall(b'x'); kept['early'].sendall(b'x')")
        connects = [
            one.labels
            for one in watched.drain()
            if one.cls == Class.CONNECT and one.pid == actor.pid and str(port) in one.text
        ]
        assert connects == [(), SECRET]
        assert watched.told(actor.pid, LabelWay.GAVE) == [(f"127.0.0.1:{port}", SECRET)]
        actor.do("kept['early'].close(); kept['late'].close()")
    flows = [
        one.labels for one in watched.drain() if one.cls == Class.FLOW and one.pid == actor.pid
    ]
    assert flows == [SECRET, SECRET]


def test_an_fd_that_is_handed_over_is_followed(watched: Watched, start: Start, token: Path) -> None:
    """By the first read; to hold it is not to have read it."""
    fd = os.open(token, os.O_RDONLY)
    opener, holder = start(), start(fd)
    opener.do(read(token))
    assert watched.of(holder.pid) == ()
    holder.do(f"os.pread({fd}, 9, 0)")
    assert watched.of(holder.pid) == SECRET
    os.close(fd)


@pytest.mark.scenario
def test_a_label_ends_with_what_carries_it(
    watched: Watched, start: Start, token: Path, tmp_path: Path
) -> None:
    actor, reader = start(), start()
    actor.do(read(token))
    actor.do(f"open('{tmp_path}/copy', 'w').write('x')")
    actor.close()
    assert watched.of(actor.pid) == ()
    (tmp_path / "copy").unlink()
    for number in range(50):  # the inode's number is used again
        (tmp_path / f"new-{number}").write_text("x")
        reader.do(read(tmp_path / f"new-{number}"))
    assert watched.of(reader.pid) == ()


def test_user_space_may_say_so_too(watched: Watched, start: Start, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    actor = start()
    labels = watched.labels
    assert labels.add(actor.pid, bits_of(["untrusted", "label-9"]))
    actor.do(read(tmp_path / "file"))
    labels.drop(actor.pid, bits_of(["label-9"]))
    assert watched.of(actor.pid) == ("untrusted",)
    labels.drop(actor.pid, bits_of(["untrusted"]))
    assert watched.of(actor.pid) == ()
    assert watched.on(Class.OPEN, f"{tmp_path}/file", actor.pid) == {("untrusted", "label-9")}


def test_labels_of_several_kinds_add_up(
    watched: Watched, start: Start, token: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.private").touch()
    actor = start()
    actor.do(read(token))
    actor.do(read(tmp_path / "x.private"))
    assert watched.of(actor.pid) == ("secret", "private")


def test_a_local_address_is_nobody_outside(start: Start) -> None:
    watched = Watched(untrusted=True)
    try:
        actor = start()
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
            actor.do(f"socket.create_connection(('127.0.0.1', {port})).close()")
        assert watched.of(actor.pid) == ()
    finally:
        watched.sensor.close()
