"""The control socket: answers, streams, and never in the agent's way."""

from __future__ import annotations

import json
import os
import socket
import threading
import time

import pytest

from hullwatch.control import Control, ControlError, ask, follow


@pytest.fixture
def path(tmp_path):
    return tmp_path / "control.sock"


@pytest.fixture
def control(path):
    made = Control(path, lambda: {"tier": "lsm"}, backlog=64 << 10)
    yield made
    made.close()


def wait(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_status(control, path):
    assert ask(path) == {"tier": "lsm"}
    assert path.stat().st_mode & 0o777 == 0o600


def test_nobody_there(tmp_path):
    with pytest.raises(ControlError, match="no agent is running here; start it"):
        ask(tmp_path / "none.sock")


def test_the_socket_of_a_killed_agent_is_taken_over(path):
    left = socket.socket(socket.AF_UNIX)
    left.bind(str(path))
    left.close()
    with pytest.raises(ControlError, match="no agent is running"):
        ask(path)
    made = Control(path, lambda: {"n": 1})
    assert ask(path) == {"n": 1}
    made.close()
    assert not path.exists()


def test_followers_get_their_topic_in_order(control, path):
    got = []

    def listen():
        with pytest.raises(ControlError, match="ended the stream"):
            got.extend(value for value in follow(path, "findings") if value)

    thread = threading.Thread(target=listen)
    thread.start()
    wait(lambda: control.wants("findings"))
    for number in range(50):
        control.publish("findings", json.dumps({"id": number}).encode())
        control.publish("events", b'{"no": 1}')
    wait(lambda: len(control._inbox) == 0)
    control.close()
    thread.join(10)
    assert [value["id"] for value in got] == list(range(50))
    control.close = lambda: None


def test_nothing_is_kept_for_nobody(control):
    control.publish("findings", b"{}")
    assert not control._inbox


def test_a_slow_follower_is_dropped_and_counted(control, path):
    slow = socket.socket(socket.AF_UNIX)
    slow.connect(str(path))
    slow.sendall(b'{"ask": "follow", "topic": "events"}\n')
    wait(lambda: control.wants("events"))
    line = b'"' + b"x" * 10_000 + b'"'
    for _ in range(2000):
        control.publish("events", line)
        if not control.wants("events"):
            break
        wait(lambda: control._inbox_bytes < 20_000)
    assert not control.wants("events")
    assert control.dropped >= 1
    assert ask(path) == {"tier": "lsm"}
    slow.close()


@pytest.mark.parametrize(
    "request_", [b"rubbish\n", b"[]\n", b'{"ask": "fly"}\n', b'{"ask": "follow", "topic": 3}\n']
)
def test_bad_requests_get_an_error(control, path, request_):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        sock.sendall(request_)
        assert "error" in json.loads(sock.recv(4096))
    assert ask(path) == {"tier": "lsm"}


def test_an_endless_request_is_cut_off(control, path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(str(path))
        with pytest.raises(OSError):
            while True:
                sock.sendall(b"x" * 4096)
    assert ask(path) == {"tier": "lsm"}


def test_a_failing_status_is_an_error_not_the_end(path):
    made = Control(path, lambda: 1 // 0)
    for _ in range(2):
        with pytest.raises(ControlError, match="ZeroDivisionError"):
            ask(path)
    made.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_others_are_refused(tmp_path):
    path = tmp_path / "control.sock"
    made = Control(path, lambda: {"secret": 1})
    path.chmod(0o666)  # even where the file's mode would let them
    directory = os.open(tmp_path, os.O_PATH)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.fchdir(directory)
        os.setuid(65534)
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(path.name)
                os.write(write, sock.recv(100))
            except OSError as error:
                os.write(write, str(error).encode())
        os._exit(0)
    os.waitpid(child, 0)
    answer = os.read(read, 200)
    made.close()
    for fd in (directory, read, write):
        os.close(fd)
    assert b"permission denied" in answer.lower()
    assert b"secret" not in answer
