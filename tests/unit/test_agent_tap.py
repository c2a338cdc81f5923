"""Calls out of pieces, and whose TLS cannot be read: what is made of what the kernel sends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hullwatch.agent.tap import MAX_STREAMS, SELF_HOSTED, Listener
from hullwatch.agent.tls import TlsCoverage
from hullwatch.context.call import Call, Signal
from hullwatch.sensor.batch import Batch
from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.tap import Piece, token_hash
from hullwatch.sensor.uprobes import Answer, Reading
from hullwatch.sensor.wire import EVENT, PROC, Class, TapKind, TapWhat
from support.canaries import CANARIES, ONE, VALUE

SECOND = 10**9
LOCAL, PRIVATE, PUBLIC = b"\x7f\x00\x00\x01", b"\x0a\x00\x00\x05", b"\x08\x08\x08\x08"


class Asked:
    """What is asked of the kernel, written down."""

    def __init__(self, begins: bool = True) -> None:
        self.said: list[tuple[Any, ...]] = []
        self.begins = begins

    def want(self, stream: int, tgid: int, wanted: bool) -> None:
        self.said.append(("want", stream, wanted))

    def forget(self, stream: int, tgid: int) -> None:
        self.said.append(("forget", stream))

    def begin(self, tgid: int, call: int) -> bool:
        self.said.append(("begin", call))
        return self.begins

    def end(self, tgid: int, call: int) -> None:
        self.said.append(("end", call))


class Heard:
    def __init__(self, begins: bool = True) -> None:
        self.kernel = Asked(begins)
        self.told: list[Call] = []
        self.signals: list[tuple[Signal, int, int]] = []
        self.listener = Listener(
            self.kernel,
            self.told.append,
            lambda text: "#",
            canaries=CANARIES,
            signal=self._signal,
        )

    def _signal(self, signal: Signal, pid: int, cgroup: int) -> None:
        self.signals.append((signal, pid, cgroup))

    def take(self, *pieces: Piece) -> None:
        self.listener.take(pieces, 0)

    def notice(self, *pieces: Piece) -> list[tuple[int, str]]:
        """The call and the place of each canary that these tell of."""
        self.take(*pieces)
        taken, self.signals = self.signals, []
        assert all((one.detail[:8], *who) == (ONE.id, 7, 9) for one, *who in taken)
        return [(one.call, one.subject) for one, *_ in taken]


def piece(data: bytes = b"", received: bool = True, **more: Any) -> Piece:
    made = {
        "ts": SECOND,
        "stream": 5,
        "tgid": 7,
        "tid": 7,
        "cgroup": 9,
        "call": 0,
        "ident": 0,
        "total": len(data),
        "what": TapWhat.DATA,
        "kind": TapKind.PIPE,
        "received": received,
        "port": 0,
        "local_port": 0,
        "address": b"",
        "data": data,
    }
    return Piece(**(made | more))


def began(call: int, ident: Any = 1, **more: Any) -> Piece:
    return piece(what=TapWhat.BEGAN, call=call, ident=token_hash(ident), **more)


def request(ident: Any = 1, tool: str = "look") -> bytes:
    said = {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": {"name": tool}}
    return json.dumps(said).encode() + b"\n"


def reply(ident: Any = 1) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": ident, "result": {}}).encode() + b"\n"


def post(body: bytes, path: str = "/mcp", host: str = "h") -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def answer(body: bytes) -> bytes:
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def test_a_call_has_the_id_that_the_kernel_gave_it():
    heard = Heard()
    heard.take(began(77), piece(request()), piece(reply(), received=False, stream=6))
    first, last = heard.told
    assert (first.id, first.name, first.pid, first.cgroup, first.end) == (77, "look", 7, 9, 0)
    assert (last.id, last.status) == (77, "ok") and last.end
    assert ("begin", 77) not in heard.kernel.said and ("end", 77) in heard.kernel.said
    # Both pipes are wanted from now on.
    assert {("want", 5, True), ("want", 6, True)} <= set(heard.kernel.said)


@pytest.mark.parametrize("ident", ["a", 1, "1", 10**17])
def test_calls_are_told_apart_by_their_ids(ident):
    heard = Heard()
    heard.take(began(10, 0), began(11, ident), piece(request(ident) + request(0)))
    assert [call.id for call in heard.told] == [11, 10]


def test_an_id_that_may_be_written_in_many_ways_goes_by_its_place():
    heard = Heard()
    heard.take(began(10, "1e18"), began(11, 2), piece(request(10**18) + request(2)))
    assert [call.id for call in heard.told] == [10, 11]


def test_an_id_that_the_kernel_did_not_see_is_the_first_that_has_none():
    heard = Heard()
    heard.take(began(10, None), piece(request("x")))
    assert [call.id for call in heard.told] == [10]


def test_what_the_kernel_missed_begins_late():
    heard = Heard()
    heard.take(piece(request()))
    (call,) = heard.told
    assert ("begin", call.id) in heard.kernel.said and heard.listener.heard["late"] == 1


def test_what_somebody_else_tells_of_is_not_told_again():
    heard = Heard(begins=False)
    heard.take(piece(request()), piece(reply(), received=False))
    assert heard.told == []


def test_what_only_the_kernel_took_for_a_call_is_ended():
    heard = Heard()
    heard.take(began(77), piece(b'{"jsonrpc":"2.0","id":2,"method":"ping"}\n'))
    assert ("end", 77) not in heard.kernel.said
    heard.take(piece(b'{"jsonrpc":"2.0","id":3,"method":"ping"}\n', ts=4 * SECOND))
    assert ("end", 77) in heard.kernel.said and heard.listener.mistaken == 1
    assert heard.told == []


def test_the_end_of_a_pipe_does_not_end_its_calls_but_that_of_its_process_does():
    heard = Heard()
    heard.take(began(77), piece(request()), piece(what=TapWhat.ENDED))
    assert len(heard.told) == 1
    heard.listener.ended([7], 5 * SECOND)
    assert [call.status for call in heard.told] == ["", "lost"]
    assert ("forget", 5) in heard.kernel.said and heard.listener.stats()["streams"] == 0


def test_a_clients_side_is_told_where_the_server_is_elsewhere():
    for address, count in ((PUBLIC, 2), (LOCAL, 0)):
        heard = Heard()
        where = {"kind": TapKind.SOCKET, "address": address, "port": 443}
        heard.take(piece(post(request()), received=False, **where), piece(answer(reply()), **where))
        assert len(heard.told) == count
        assert not [said for said in heard.kernel.said if said[0] == "begin"]


@pytest.mark.parametrize(
    ("host", "address", "provider"),
    [
        ("api.openai.com", PUBLIC, "openai"),
        ("vllm", PRIVATE, SELF_HOSTED),
        ("vllm", LOCAL, SELF_HOSTED),
        ("proxy.example", PUBLIC, "openai_compatible"),
    ],
)
def test_a_call_of_a_model_says_where_its_bytes_went(host, address, provider):
    heard = Heard()
    where = {"kind": TapKind.SOCKET, "address": address, "port": 8000, "call": 42}
    body = b'{"model":"m","messages":[{"role":"user","content":"planted"}]}'
    asked = post(body, "/v1/chat/completions", host)
    got = answer(b'{"id":"r","model":"m-1","choices":[],"usage":{"prompt_tokens":1}}')
    heard.take(piece(asked, received=False, **where), piece(got, **where))
    (call,) = heard.told
    assert (call.server, call.name, call.parent, call.status) == (provider, "m", 42, "ok")
    assert call.attributes["network.peer.port"] == 8000
    assert str(call.attributes["network.peer.address"]) == ".".join(map(str, address))
    assert "planted" not in repr(heard.told)


def test_what_a_server_of_models_is_asked_is_its_clients_to_tell():
    heard = Heard()
    where = {"kind": TapKind.SOCKET, "address": PRIVATE}
    asked = post(b'{"model":"m","messages":[]}', "/v1/chat/completions")
    heard.take(piece(asked, **where), piece(answer(b"{}"), received=False, **where))
    assert heard.told == []


def test_a_connection_without_calls_is_let_be():
    heard = Heard()
    where = {"kind": TapKind.SOCKET, "address": PUBLIC}
    for _ in range(9):
        heard.take(piece(post(b"{}", "/upload"), received=False, **where))
        heard.take(piece(answer(b"{}"), **where))
    assert heard.kernel.said == [("want", 5, False)]


def test_another_connection_at_the_address_of_one_before():
    heard = Heard()
    where = {"kind": TapKind.TLS, "stream": 99}
    heard.take(piece(post(request(1)), **where), piece(what=TapWhat.ENDED, **where))
    heard.take(piece(post(request(1)), **where))
    assert [call.status for call in heard.told] == ["", "lost", ""]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, 2, 3]), st.binary(max_size=60), st.booleans(), st.integers(0, 99)
        ),
        max_size=30,
    )
)
def test_whatever_comes_is_taken(pieces):
    heard = Heard()
    for kind, data, received, missing in pieces:
        heard.take(piece(data, received, kind=kind, total=len(data) + missing))
    heard.listener.ended([7], 1)
    assert heard.listener.stats()["streams"] == 0


def asks(value: str, ident: int = 1) -> bytes:
    return request(ident).replace(b'"look"', b'"look", "x": "%s"' % value.encode())


def test_an_argument_belongs_to_the_call_it_is_of():
    heard = Heard()
    assert heard.notice(began(77), piece(asks(VALUE))) == [(77, "in a request received")]
    told = reply().replace(b"{}", json.dumps({"x": VALUE}).encode())
    assert heard.notice(piece(told, received=False, stream=6)) == [(77, "in an answer sent")]
    assert heard.notice(began(78, 2), piece(asks("nothing", 2))) == []


def test_of_several_calls_none_is_picked():
    heard = Heard()
    both = asks(VALUE, 1) + asks("x", 2)
    assert heard.notice(began(77, 1), began(78, 2), piece(both)) == [(0, "in a request received")]


def test_a_request_names_where_it_goes_and_the_call_it_is_made_in():
    heard = Heard()
    one = piece(
        post(json.dumps({"x": VALUE}).encode(), "/upload", "evil.test"),
        received=False, stream=9, kind=3, port=443, address=PUBLIC, call=55,
    )  # fmt: skip
    assert heard.notice(one) == [(55, "in a request sent to 8.8.8.8:443 (evil.test)")]
    assert heard.notice(one) == []  # the same connection, canary and call
    assert heard.notice(one._replace(call=56)) != []


def test_streams_are_bounded():
    heard = Heard()
    for number in range(MAX_STREAMS + 10):
        heard.take(piece(b"GET / HTTP/1.1\r\n\r\n", kind=TapKind.SOCKET, stream=number))
    assert heard.listener.stats()["streams"] == MAX_STREAMS


# --- whose TLS ------------------------------------------------------------------------------


class Played:
    """A prober whose answers are given."""

    alive, refused = True, 0

    def __init__(self) -> None:
        self.looked: list[int] = []
        self.answers: list[Answer] = []
        self.counts: dict[str, int] = {}
        self.failures: dict[str, int] = {}

    def look(self, pid: int) -> None:
        self.looked.append(pid)

    def ended(self, pid: int) -> None:
        self.looked.append(-pid)

    def take(self) -> Iterator[Answer]:
        given, self.answers = self.answers, []
        yield from given

    def close(self) -> None:
        pass


class Nobody:
    @staticmethod
    def living() -> list[Any]:
        return []


@pytest.fixture
def played():
    return Played()


@pytest.fixture
def coverage(played):
    return TlsCoverage(played, Nobody(), Dictionary())


def batch(*rows: dict[str, int], procs: tuple[dict[str, int], ...] = ()) -> Batch:
    events, images = np.zeros(len(rows), EVENT), np.zeros(len(procs), PROC)
    for array, given_rows in ((events, rows), (images, procs)):
        for made, row in zip(array, given_rows, strict=True):
            for name, value in row.items():
                made[name] = value
    return Batch(events, images, (), (), 1, 0, 0, "tracepoint")


HELLO = {"cls": int(Class.TLS), "proc": 1 << 22 | 7, "cgroup": 9}


def test_a_program_is_looked_at_once_and_all_that_ran_before(coverage, played):
    ran = {"cls": int(Class.EXEC), "exe_dev": 1, "exe_ino": 2}
    was = {"cls": int(Class.TASK), "exe_dev": 1, "exe_ino": 2}
    list(coverage.follow(batch(procs=(was | {"pid": 1}, was | {"pid": 2}))))
    list(coverage.follow(batch(procs=(ran | {"pid": 3}, ran | {"pid": 4, "exe_ino": 3}))))
    list(coverage.follow(batch(procs=(ran | {"pid": 5}, ran | {"pid": 6, "exe_ino": 3}))))
    assert played.looked == [1, 2, 3, 4]


def test_who_says_hello_and_cannot_be_read_is_named_once(coverage, played):
    assert list(coverage.follow(batch(HELLO))) == []
    assert played.looked == [7]
    played.answers = [Answer(7, Reading("opaque", (), ("rustls: no names",)))]
    ((signal, pid, cgroup),) = coverage.follow(batch())
    assert (signal.kind, signal.detail, pid, cgroup) == ("tls_opaque", "rustls: no names", 7, 9)
    assert list(coverage.follow(batch(HELLO))) == []
    assert [one["why"] for one in coverage.stats()["opaque"]] == ["rustls: no names"]


def test_who_speaks_tls_without_a_library_is_named_too(coverage, played):
    list(coverage.follow(batch(HELLO)))
    played.answers = [Answer(7, Reading())]
    ((signal, _, _),) = coverage.follow(batch())
    assert "no TLS library" in signal.detail


def test_who_is_read_is_not_named(coverage, played):
    list(coverage.follow(batch(HELLO)))
    played.answers = [Answer(7, Reading("tapped", ("OpenSSL",)))]
    assert list(coverage.follow(batch(HELLO))) == []
    assert coverage.stats()["read"] == 1
    list(coverage.follow(batch(HELLO | {"cls": int(Class.EXIT)})))
    assert played.looked[-1] == -7 and coverage.stats()["read"] == 0
