"""What the kernel says of sockets: who spoke to whom, how much, and under which name.

Every test acts in a network namespace of its own, so nothing leaves it and ports are free.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import select
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hullwatch.sensor.wire import Mark
from support.watch import Child, Watch, call

pytestmark = pytest.mark.scenario

CLONE_NEWNET = 0x40000000
TCP, UDP = socket.IPPROTO_TCP, socket.IPPROTO_UDP
V4, V6 = socket.AF_INET, socket.AF_INET6
STREAM, DGRAM = socket.SOCK_STREAM, socket.SOCK_DGRAM


def flags(family: int, kind: int, protocol: int) -> int:
    """As sensor/events.py puts them together."""
    return family << 16 | kind << 8 | protocol


def loopback_up() -> None:
    with socket.socket(V4, DGRAM) as any_socket:
        request = struct.pack("16sH14x", b"lo", 0x1 | 0x40)  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, request)  # SIOCSIFFLAGS


@pytest.fixture
def alone(watch: Watch) -> Callable[[Callable[[], Any]], Child]:
    """watch.act in a network namespace of its own, loopback up."""

    def act(function: Callable[[], Any]) -> Child:
        def inside() -> Any:
            assert call("unshare", CLONE_NEWNET) == 0
            loopback_up()
            return function()

        return watch.act(inside)

    return act


def exchange(family: int, host: str, out: bytes, back: bytes) -> list[int]:
    """One TCP connection to ourselves, closed in order: [server port, client port]."""
    server = socket.create_server((host, 0), family=family)
    client = socket.create_connection(server.getsockname()[:2])
    accepted, _ = server.accept()
    ports = [server.getsockname()[1], client.getsockname()[1]]
    client.sendall(out)
    while len(out) > 0:
        out = out[len(accepted.recv(65536)) :]
    accepted.sendall(back)
    while len(back) > 0:
        back = back[len(client.recv(65536)) :]
    client.close()
    accepted.close()
    server.close()
    return ports


@pytest.mark.parametrize(
    ("family", "host", "shown"), [(V4, "127.0.0.1", "127.0.0.1"), (V6, "::1", "[::1]")]
)
def test_tcp_connection_both_sides_and_its_bytes(watch: Watch, alone, family, host, shown):
    child = alone(lambda: exchange(family, host, b"x" * 5000, b"y" * 123456))
    port, client_port = child.result
    end, kind = f"{shown}:{port}", flags(family, STREAM, TCP)
    connect, accept = child.event("connect"), child.event("accept")
    assert (connect.obj, connect.port, connect.ret, connect.flags) == (end, client_port, 0, kind)
    assert (accept.obj, accept.port, accept.flags) == (end, client_port, kind)
    assert accept.ret > 2
    assert connect.obj2 == accept.obj2 == host
    assert child.event("bind").obj == end
    listen = child.event("listen")
    assert (listen.obj, listen.flags) == (end, kind) and listen.num > 0
    for event in (connect, accept, listen):
        assert not event.marks & (Mark.RAW_PATH | Mark.STR_LOST)

    outgoing = watch.expect("flow", proc=child.proc, obj=end, num=5000)
    incoming = watch.expect("flow", proc=child.proc, obj=end, num=123456)
    assert (outgoing.num2, incoming.num2) == (123456, 5000)
    for flow in (outgoing, incoming):
        assert (flow.port, flow.obj2, flow.flags) == (client_port, host, kind)
        assert flow.cgroup == connect.cgroup
    assert len(child.events("flow")) == 2


def test_flow_ends_are_told_when_the_connection_is_reset(watch: Watch, alone):
    def act() -> int:
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        client.sendall(b"x" * 777)
        accepted.recv(1000)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        select.select([accepted], [], [], 10)
        accepted.close()
        return server.getsockname()[1]

    child = alone(act)
    end = f"127.0.0.1:{child.result}"
    assert watch.expect("flow", proc=child.proc, obj=end, num=777).num2 == 0
    assert watch.expect("flow", proc=child.proc, obj=end, num2=777).num == 0


def test_ipv4_mapped_address_is_the_ipv4_address(watch: Watch, alone):
    def act() -> int:
        server = socket.create_server(("127.0.0.1", 0))
        port = server.getsockname()[1]
        client = socket.socket(V6, STREAM)
        client.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        client.connect(("::ffff:127.0.0.1", port))
        return port

    child = alone(act)
    connect = child.event("connect")
    assert connect.obj == f"127.0.0.1:{child.result}"
    assert connect.obj2 == "127.0.0.1"
    assert connect.flags == flags(V6, STREAM, TCP)


def test_refused_connection(watch: Watch, alone):
    child = alone(lambda: socket.socket().connect_ex(("127.0.0.1", 9)))
    assert child.result == 111
    event = child.event("connect")
    assert (event.obj, event.ret) == ("127.0.0.1:9", -111)


def test_non_blocking_connection(watch: Watch, alone):
    def act() -> list[int]:
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.socket()
        client.setblocking(False)
        done = client.connect_ex(server.getsockname())
        select.select([], [client], [], 10)
        client.send(b"12345")
        return [server.getsockname()[1], done, client.getsockname()[1]]

    child = alone(act)
    port, done, client_port = child.result
    event = child.event("connect")
    assert (event.obj, event.ret) == (f"127.0.0.1:{port}", -done)
    assert event.port == client_port
    assert watch.expect("flow", proc=child.proc, num=5).obj == f"127.0.0.1:{port}"


def test_unreachable_and_unreadable_addresses(watch: Watch, alone):
    def act() -> list[int]:
        one, two = socket.socket(), socket.socket()
        return [
            one.connect_ex(("192.0.2.1", 80)),
            call("connect", two.fileno(), ctypes.c_void_p(8), 16),
        ]

    child = alone(act)
    assert child.result == [101, -14]
    assert child.event("connect", ret=-101).obj == "192.0.2.1:80"
    assert child.event("connect", ret=-14).marks & Mark.UNREADABLE


def test_unix_sockets(watch: Watch, tmp_path: Path):
    path, abstract = str(tmp_path / "s\nock"), f"\0hwtest\0{os.getpid()}"

    def act() -> None:
        for name in (path, abstract):
            server = socket.socket(socket.AF_UNIX)
            server.bind(name)
            server.listen(3)
            client = socket.socket(socket.AF_UNIX)
            client.connect(name)
            server.accept()
        socket.socket(socket.AF_UNIX).connect_ex("/no/such/socket")

    child = watch.act(act)
    for cls in ("bind", "listen", "connect", "accept"):
        first, second = child.events(cls)[:2]
        assert first.obj == path, cls
        assert second.string.data[4:] == abstract.encode(), cls
        assert first.flags >> 16 == socket.AF_UNIX
    assert child.events("connect")[2].obj == "/no/such/socket"
    assert child.events("connect")[2].ret == -2


def test_datagrams(watch: Watch, alone):
    def act() -> list[int]:
        server = socket.socket(V4, DGRAM)
        server.bind(("127.0.0.1", 0))
        end = server.getsockname()
        loose, tied = socket.socket(V4, DGRAM), socket.socket(V4, DGRAM)
        loose.sendto(b"x" * 10, end)
        loose.sendmsg([b"x" * 11], [], 0, end)
        tied.connect(end)
        tied.send(b"x" * 12)
        _, back = server.recvfrom(100)
        for _ in range(2):
            server.recvfrom(100)
        server.sendto(b"y" * 50, tied.getsockname())
        tied.recv(100)
        ports = [end[1], tied.getsockname()[1], loose.getsockname()[1]]
        assert back[1] == ports[2]
        for each in (loose, tied, server):
            each.close()
        return ports

    child = alone(act)
    port, tied, loose = child.result
    end = f"127.0.0.1:{port}"
    by_size = {e.num: e for e in child.events("send")}
    assert set(by_size) == {10, 11, 12, 50}
    assert [by_size[n].op for n in (10, 11, 12)] == ["sendto", "sendmsg", "sendto"]
    assert [by_size[n].obj for n in (10, 11, 12)] == [end] * 3
    assert by_size[50].obj == f"127.0.0.1:{tied}"
    assert [by_size[n].ret for n in (10, 11, 12)] == [10, 11, 12]
    assert by_size[12].port == tied and by_size[10].port == loose
    assert by_size[10].flags == flags(V4, DGRAM, UDP)
    flow = watch.expect("flow", proc=child.proc, obj=end)
    assert (flow.num, flow.num2) == (12, 50)
    unconnected = watch.expect("flow", proc=child.proc, num=50, num2=33)
    assert unconnected.obj == ""
    assert watch.expect("flow", proc=child.proc, num=21).num2 == 0


def test_many_datagrams_in_one_call(watch: Watch, alone):
    """sendmmsg(2): each message has its own destination."""

    def act() -> list[int]:
        servers = [socket.socket(V4, DGRAM) for _ in range(12)]
        messages, kept = b"", []
        for i, server in enumerate(servers):
            server.bind(("127.0.0.1", 0))
            port = server.getsockname()[1]
            end = struct.pack("=H", V4) + struct.pack(">H", port) + socket.inet_aton("127.0.0.1")
            room = [ctypes.create_string_buffer(end + b"\0" * 8), ctypes.create_string_buffer(100)]
            vector = (ctypes.c_uint64 * 2)(ctypes.addressof(room[1]), 20 + i)
            kept += [*room, vector]
            messages += struct.pack(
                "=QI4xQQQQi4xI4x",
                ctypes.addressof(room[0]),
                16,
                ctypes.addressof(vector),
                1,
                0,
                0,
                0,
                0,
            )
        client = socket.socket(V4, DGRAM)
        packed = ctypes.create_string_buffer(messages)
        assert call("sendmmsg", client.fileno(), packed, len(servers), 0) == len(servers)
        return [server.getsockname()[1] for server in servers]

    child = alone(act)
    sent = child.events("send")
    assert [e.obj for e in sent] == [f"127.0.0.1:{port}" for port in child.result]
    assert [e.num for e in sent] == [20 + i for i in range(12)]
    assert {e.op for e in sent} == {"sendmmsg"}


def test_connection_opened_by_its_first_send(watch: Watch, alone):
    """TCP Fast Open needs no connect(2)."""

    def act() -> list[int]:
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.socket()
        client.sendto(b"x" * 99, socket.MSG_FASTOPEN, server.getsockname())
        accepted, back = server.accept()
        while len(accepted.recv(1000, socket.MSG_PEEK)) < 99:
            pass
        accepted.recv(1000)
        for each in (client, accepted):
            each.close()
        return [server.getsockname()[1], back[1]]

    child = alone(act)
    port, client_port = child.result
    event = child.event("connect")
    assert (event.obj, event.obj2) == (f"127.0.0.1:{port}", "127.0.0.1")
    assert (event.op, event.ret, event.port) == ("sendto", 0, client_port)
    flow = watch.expect("flow", proc=child.proc, obj=f"127.0.0.1:{port}", num=99)
    assert flow.port == client_port


def name_bytes(name: str) -> bytes:
    return b"".join(bytes([len(p)]) + p.encode() for p in name.split(".")) + b"\0"


def question(name: str, kind: int = 1) -> bytes:
    return (
        struct.pack(">6H", 0x1234, 0x0100, 1, 0, 0, 0)
        + name_bytes(name)
        + struct.pack(">HH", kind, 1)
    )


def answer(query: bytes, addresses: list[str], rcode: int = 0) -> bytes:
    head = struct.pack(">6H", 0x1234, 0x8180 | rcode, 1, len(addresses), 0, 0)
    records = b"".join(
        struct.pack(">HHHIH", 0xC00C, 1, 1, 60, 4) + socket.inet_aton(a) for a in addresses
    )
    return head + query[12:] + records


@pytest.mark.parametrize("tied", [False, True])
def test_dns_question_and_answer(watch: Watch, alone, tied: bool):
    name = f"model-{os.getpid()}-{tied}.example.com".lower()

    def act() -> None:
        server = socket.socket(V4, DGRAM)
        server.bind(("127.0.0.1", 53))
        client = socket.socket(V4, DGRAM)
        if tied:
            client.connect(("127.0.0.1", 53))
            client.send(question(name))
        else:
            client.sendto(question(name), ("127.0.0.1", 53))
        query, back = server.recvfrom(512)
        server.sendto(answer(query, ["203.0.113.7", "203.0.113.8"]), back)
        client.recv(512)
        client.sendto(b"\xff" * 100, ("127.0.0.1", 53)) if not tied else client.send(b"\xff" * 100)

    unreadable = watch.sensor.unreadable_packets
    child = alone(act)
    asked = watch.expect("dns", obj=name, flags=0, proc=child.proc)
    assert (asked.num, asked.obj2) == (1, "")
    told = watch.expect("dns", obj=name, flags=1, proc=child.proc)
    assert told.obj2 == "203.0.113.7 203.0.113.8"
    assert told.num2 == 60
    assert asked.cgroup == child.event("exit").cgroup
    assert watch.sensor.unreadable_packets > unreadable


def test_dns_name_that_does_not_exist(watch: Watch, alone):
    name = f"missing-{os.getpid()}.example.com"

    def act() -> None:
        server = socket.socket(V6, DGRAM)
        server.bind(("::1", 53))
        client = socket.socket(V6, DGRAM)
        client.sendto(question(name, 28), ("::1", 53))
        query, back = server.recvfrom(512)
        server.sendto(answer(query, [], rcode=3), back)
        client.recv(512)

    child = alone(act)
    told = watch.expect("dns", obj=name, flags=1 | 3 << 8, proc=child.proc)
    assert (told.num, told.obj2) == (28, "")


def test_tls_server_name(watch: Watch, alone):
    name = f"api-{os.getpid()}.example.com"

    def act() -> int:
        server = socket.create_server(("127.0.0.1", 0))

        def take() -> None:
            accepted, _ = server.accept()
            accepted.recv(65536)
            accepted.close()

        thread = threading.Thread(target=take)
        thread.start()
        context = ssl._create_unverified_context()
        with contextlib.suppress(OSError):
            context.wrap_socket(
                socket.create_connection(server.getsockname()), server_hostname=name
            )
        thread.join()
        return server.getsockname()[1]

    child = alone(act)
    event = watch.expect("tls", obj=name, proc=child.proc)
    assert event.obj2 == f"127.0.0.1:{child.result}"
    assert event.cgroup == child.event("exit").cgroup


def test_socket_becomes_standard_input_and_output(watch: Watch, alone):
    def act() -> list[int]:
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        saved = [os.dup(n) for n in (0, 1, 2)]
        for number in (0, 1, 2):
            os.dup2(client.fileno(), number)
        os.dup2(saved[2], 2)
        return [server.getsockname()[1], client.fileno(), client.getsockname()[1]]

    child = alone(act)
    port, fd, client_port = child.result
    events = child.events("dup")
    assert [e.ret for e in events] == [0, 1, 2]
    for event in events:
        assert (event.obj, event.num) == (f"127.0.0.1:{port}", fd)
        assert event.port == client_port


def test_raw_and_packet_sockets(watch: Watch, alone):
    def act() -> None:
        socket.socket(V4, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))

    child = alone(act)
    raw = child.event("socket", flags=flags(V4, socket.SOCK_RAW, socket.IPPROTO_ICMP))
    assert raw.ret > 2
    packet = [e for e in child.events("socket") if e.flags >> 16 == socket.AF_PACKET]
    assert len(packet) == 1 and packet[0].num == socket.htons(3)


def test_accepted_then_inherited_socket_stays_its_openers(watch: Watch, alone):
    """A flow is told of whoever opened it, even when it is closed by a child."""

    def act() -> int:
        server = socket.create_server(("127.0.0.1", 0))
        client = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        pid = os.fork()
        if pid == 0:
            client.sendall(b"z" * 4321)
            accepted.recv(10000)
            os._exit(0)
        port = server.getsockname()[1]
        for each in (client, accepted, server):
            each.close()
        os.waitpid(pid, 0)
        return port

    child = alone(act)
    flow = watch.expect("flow", num=4321, obj=f"127.0.0.1:{child.result}")
    assert flow.proc == child.proc
