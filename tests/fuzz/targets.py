"""What is fuzzed: parsers of bytes that a workload, a network peer or a rule's author chooses.

Each target takes any bytes, must not raise, and holds what it returns to a bound.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from itertools import pairwise

from hullwatch.agent.connection import Connection, Direction
from hullwatch.agent.mcp import injection
from hullwatch.agent.mcp.headers import may_ask, mismatch
from hullwatch.agent.mcp.lines import Lines
from hullwatch.agent.mcp.message import peek, read
from hullwatch.agent.mcp.sse import Blocks, Events
from hullwatch.agent.models.call import ModelCall
from hullwatch.agent.otlp import jsonform, wire
from hullwatch.agent.otlp.encode import spans_of
from hullwatch.agent.otlp.grpc import Grpc
from hullwatch.agent.otlp.http1 import Http1
from hullwatch.agent.otlp.intake import Answer
from hullwatch.agent.otlp.mapping import received
from hullwatch.agent.otlp.names import RESOURCE, WANTED
from hullwatch.agent.otlp.span import MAX_TEXT, Limits, Unreadable
from hullwatch.agent.secrets import KINDS, Key, Stream, classify_path, detect, redact
from hullwatch.agent.wire.body import MAX_OUT, PIECE, Decoder
from hullwatch.agent.wire.eventstream import Frames
from hullwatch.agent.wire.exchange import MAX_OPEN, Exchanges1
from hullwatch.agent.wire.http2 import PREFACE, Exchanges2
from hullwatch.agent.wire.jsonrpc import MAX_BATCH
from hullwatch.agent.wire.jsonrpc import Lines as RpcLines
from hullwatch.agent.wire.jsonscan import MAX_TEXT as MAX_PICKED
from hullwatch.agent.wire.jsonscan import Paths, Picked, Scanner, pick
from hullwatch.agent.wire.said import Room, Said
from hullwatch.agent.wire.sse import ServerEvents
from hullwatch.context.call import MAX_ATTRIBUTES
from hullwatch.decide.ahead import ACTIONS
from hullwatch.decide.cases import cases_of
from hullwatch.decide.engine import Engine as Decider
from hullwatch.decide.plan import Plan
from hullwatch.decide.policy import PolicyError
from hullwatch.decide.source import read_policies
from hullwatch.detect.engine import Engine
from hullwatch.detect.errors import RuleError
from hullwatch.detect.language.grammar import parse
from hullwatch.detect.output import MAX_OUTPUT
from hullwatch.detect.ruleset import load_texts
from hullwatch.detect.scene import Scene
from hullwatch.detect.sigma.convert import convert
from hullwatch.detect.sigma.messages import SigmaText
from hullwatch.sensor import dns, tls
from hullwatch.sensor.batch import String
from hullwatch.sensor.dictionary import Dictionary
from hullwatch.sensor.elf import ElfError
from hullwatch.sensor.labels import bits_of
from hullwatch.sensor.patterns import Pattern, TooManyPatterns, told_apart
from hullwatch.sensor.tlsfiles import examine
from hullwatch.sensor.wire import Class
from support.elf_files import code_ranges, opened, whole

__all__ = ["TARGETS"]


def dns_message(data: bytes) -> None:
    got = dns.parse(data)
    if got is not None:
        assert got.name.isascii() and got.name.isprintable()
        assert len(got.name) <= 128 * 4 * 64 and len(got.answers) <= 64


def tls_hello(data: bytes) -> None:
    name = tls.server_name(data)
    assert name is None or (name.isascii() and len(name) <= 4 * len(data))


def dictionary_record(data: bytes) -> None:
    """The first byte is the kind of the string."""
    strings = Dictionary()
    strings.add((String(2, data[0] if data else 0, 0, len(data), data[1:]),))
    strings.text(2).encode()
    str(strings.address(2)).encode()


def sigma_file(data: bytes) -> None:
    """Every refusal has a place, and what is converted reads back as our language."""
    text = _SIGMA_HEAD * (data[:1] < b"\x80") + data[1:].decode("utf-8", "replace")
    reply = convert([SigmaText("fuzz.yml", text)])
    assert all(problem.place.path == "fuzz.yml" for problem in reply.problems)
    for item in reply.items:
        for part in (item.body, *item.body.get("steps", ())):
            if "condition" in part:
                parse(part["condition"])


# So that most inputs get as far as the detection.
_SIGMA_HEAD = """title: t
logsource: {product: linux, category: process_creation}
detection:
  condition: s
  s:
    """
# What conditions, outputs and exceptions are made of: a byte is a word.
_WORDS = (
    *("proc.name", "fd.name", "proc.aname", "[2]", "[", "]", "evt.arg.flags", "container.label[a]"),
    *(
        "and",
        "or",
        "not",
        "(",
        ")",
        ",",
        "in",
        "=",
        "!=",
        "<",
        "contains",
        "glob",
        "regex",
        "pmatch",
    ),
    *("exists", "startswith anyof", "allof", "tolower(", "val(", "concat(", "join(", "len("),
    *(
        "x",
        "7",
        "0x1",
        "*?[",
        "'",
        '"',
        "\\",
        "\\n",
        "%",
        "%%",
        "%12",
        "%proc.name",
        "%fd.name[",
        "*",
    ),
    *(
        "lst",
        "mac",
        "evt.type=openat",
        "evt.type in (execve)",
        "%toupper(",
        "\n",
        "\x1b[31m",
        "\u202e",
    ),
)
_COMPS = ("=", "in", "startswith", "contains anyof", "pmatch", "intersects", "exists", "is")
_HOW = ("append", "replace", "drop")
_CHANGED = ("condition", "output", "exceptions", "tags", "priority", "enabled")


def _phrase(data: bytes) -> str:
    return " ".join(_WORDS[byte % len(_WORDS)] for byte in data)


def rule_file(data: bytes) -> None:
    """The bytes as a file, and as words of a rule, its exceptions and what overrides them."""
    raw = load_texts([(data.decode("utf-8", "replace"), "raw.yaml")])
    condition, output, more, values, *_ = parts = [_phrase(data[at::5]) for at in range(5)]
    pick = list(data[:8]) + [0] * 8
    exception = {
        "name": "e",
        "fields": ["proc.name", "fd.name"] if pick[0] & 1 else "proc.name",
        "comps": [_COMPS[pick[1] % 8], _COMPS[pick[2] % 8]] if pick[0] & 2 else _COMPS[pick[1] % 8],
        "values": [[values, more.split()], [values, "x"]] if pick[0] & 4 else values.split(),
    }
    change: dict[str, object] = {"rule": "r", "exceptions": [exception]}
    change |= {"condition": parts[4], "output": more, "tags": more.split(), "enabled": "false"}
    change |= {"priority": "alert"}
    change["override"] = {
        key: _HOW[(number >> 1) % 3]
        for key, number in zip(_CHANGED, pick[2:], strict=False)
        if number & 1
    }
    whole = {"desc": "d", "priority": "info", "condition": "evt.type=openat", "output": "o"}
    items = [
        {"list": "lst", "items": values.split()[:20]},
        {"macro": "mac", "condition": more},
        {"rule": "r", "desc": "d", "priority": "info", "condition": condition, "output": output},
        # Each of the others by itself, so that one mistake does not hide the rest.
        whole | {"rule": "s", "output": output},
        whole | {"rule": "t", "exceptions": [exception]},
        whole | {"rule": "u", "condition": f"evt.type=openat and ({condition})"},
        {
            "sequence": "q",
            "desc": "d",
            "priority": "info",
            "output": f"%s.fd.name {output}",
            "by": ["container", values] if pick[0] & 16 else [values],
            "within": more[:4] if pick[0] & 32 else "5m",
            "steps": [
                {"id": "s", "condition": condition if pick[0] & 64 else "evt.type=openat"},
                {"rule": "s", "count": str(pick[3]), "distinct": values},
            ],
        },
        change if pick[0] & 8 else {"rule": "r", "append": "true", "condition": parts[4]},
    ]
    made = load_texts([(json.dumps(items), "made.yaml")])
    assert all(isinstance(error, RuleError) and str(error) for error in raw.errors + made.errors)
    scene = Scene()
    process = scene.process("x", parent=scene.process("sh"))
    scene.event(Class.OPEN, process, call="openat", obj=scene.string("/x"), ret=3)
    for finding in Engine(made).process(scene.enriched()):
        assert len(finding.output) <= MAX_OUTPUT
        assert not {"\n", "\x1b", "\u202e"} & set(finding.output)


def secrets(data: bytes) -> None:
    """The first bytes choose beginnings of secrets, which the others go on with."""
    starts = b" ".join(KINDS[byte % len(KINDS)].example[:24].encode() for byte in data[:4])
    data = starts + data[4:]
    found = detect(data)
    assert all(a.end <= b.start for a, b in pairwise(found))
    stream = Stream()
    middle = len(data) // 2
    chunks = (stream.feed(data[:middle]), stream.feed(data[middle:]), stream.finish())
    assert sum(chunks, ()) == found
    text = data.decode("utf-8", "replace")
    once = redact(text, _KEY)
    assert redact(once, _KEY) == once
    classify_path(text)


_KEY = Key(bytes(32))


def json_rpc(data: bytes) -> None:
    """A message, its headers, and both ends of it as if it were too large."""
    reading = read(data)
    assert bool(reading.problem) <= (not reading.messages)
    for message in reading.messages:
        assert message.kind != "request" or message.key is not None
    assert read(data, sender="server").messages[:1] in ((), reading.messages[:1])
    peek(data[:64], data[-64:])
    headers = [
        (b"mcp-method", data[:16]),
        (b"mcp-name", data[16:32]),
        (b"host", data[:20]),
        (b"origin", data),
    ]
    assert isinstance(mismatch(headers, reading), str)
    assert may_ask(headers, frozenset()) in ("", "Host", "Origin")


def lines_and_events(data: bytes) -> None:
    """The first byte is a limit, the second the size of the pieces in which it comes."""
    limit, step = (data[0], data[1] % 16 + 1) if len(data) > 1 else (1, 1)
    lines, events, blocks = Lines(limit), Events(limit), Blocks()
    out, cut, told = [], [], []
    for at in range(2, len(data), step):
        part = data[at : at + step]
        out += [piece.data for piece in lines.feed(part)]
        for event in events.feed(part):
            assert len(event.data) <= limit and len(event.head) + len(event.tail) <= 8192
            told.append(event.size)
        cut += blocks.feed(part)
    assert [event.size for block in cut for event in block.events] == told
    assert all(len(block.events) <= 1 for block in cut)
    assert b"".join(block.raw for block in (*cut, *blocks.close())) == data[2:]
    out += [piece.data for piece in lines.close()]
    assert b"".join(out) == data[2:]


def injected_text(data: bytes) -> None:
    text = injection.plain(data)
    for hit in (*injection.look(text, "result"), *injection.look(text, "definition")):
        assert hit.offset >= 0


def otlp_export(data: bytes) -> None:
    """Protobuf and JSON: read or refused, and what is kept is bounded."""
    for form in (wire.read, jsonform.read):
        try:
            export = form(data, WANTED, RESOURCE)
        except Unreadable:
            continue
        for one in received(export.spans):
            kept = one.call.attributes
            assert len(kept) <= MAX_ATTRIBUTES and len(one.call.name) <= MAX_TEXT
            assert all(len(str(value)) <= MAX_TEXT for value in kept.values())
            assert 0 < one.call.id < 1 << 63 and 0 < one.call.begin <= one.call.end
        spans_of(one.call for one in received(export.spans))


def otlp_http(data: bytes) -> None:
    """In pieces, and answered. The first byte says how much of a head stands before the rest."""
    machine = Http1(Limits(message=512))
    head = _HEADS[data[0] % len(_HEADS)] if data else b""
    for part in (head + data[1:20], data[20:]):
        for request in machine.receive(part):
            machine.answer(request, Answer(request.fault, message=request.message))
            assert len(request.body) <= 512
    assert machine.held < 20_000


def otlp_grpc(data: bytes) -> None:
    machine = Grpc(Limits(message=512))
    for request in machine.receive(_PREFACE + data):
        machine.answer(request, Answer(request.fault, message=request.message))
        assert len(request.body) <= 512
    machine.take()


_POST = b"POST /v1/traces HTTP/1.1\r\nContent-Type: application/json\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n"
_HEADS = (b"", _POST, _POST + b"Content-Length: ", _POST + _CHUNKED, _POST + _CHUNKED + b"3\r\n{ }")
# HTTP/2's preface and empty settings.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


def _pieces(data: bytes) -> Iterator[tuple[bytes, int]]:
    """(piece, bytes that are missing after it); the first byte says how long pieces are."""
    step = 1 + (data[0] & 0x3F if data else 0)
    for at in range(1, len(data), step):
        missing = data[at] if data[0] & 0x40 and at % 5 == 1 else 0
        yield data[at : at + step], missing


def json_fields(data: bytes) -> None:
    """However it is cut, the same is picked, and taken; no text is longer than its bound; what was
    held is given back."""
    fields = {"a": "a", "b.*.c": "c", "*.a": "d", "e": "?e"}
    paths = Paths(fields, ends={"": "end", "*": "end"}, taken={"a": "A", "b": "B", "*.a": "D"})
    room = Room()
    size = room.left

    def read(pieces: Iterable[bytes], taking: Room | None) -> list[object]:
        scanner = Scanner(paths, taking)
        found = [each for piece in pieces for each in scanner.feed(piece)]
        found += [*scanner.gap(), *scanner.finish()]
        return [
            (each.field, bytes(each.value.data)) if isinstance(each.value, Said) else each
            for each in found
        ]

    whole = read([data[1:]], room)
    assert read((piece for piece, _ in _pieces(data)), room) == whole
    assert read([data[1:]], None) == [each for each in whole if isinstance(each, Picked)]
    assert all(isinstance(each, Picked) or each[1] in data for each in whole)  # type: ignore[index]
    assert room.left == size
    for _, value in pick(data[1:], paths):
        assert not isinstance(value, str) or len(value) <= MAX_PICKED


def jsonrpc_lines(data: bytes) -> None:
    """Without holes, what is passed on is what came."""
    lines = RpcLines(keep=len(data))
    got = []
    for piece, missing in _pieces(data):
        got += lines.feed(piece)
        got += lines.gap(missing) if missing else []
    got += lines.close()
    assert all(len(each.messages) <= MAX_BATCH for each in got)
    if not data[:1] or not data[0] & 0x40:
        assert b"".join(each.raw or b"" for each in got) == data[1:]


def server_events(data: bytes) -> None:
    events = ServerEvents()
    for piece, missing in _pieces(data):
        assert all(len(each.data) <= len(data) for each in events.feed(piece))
        if missing:
            events.gap()
    events.rest()


def event_frames(data: bytes) -> None:
    frames = Frames()
    for piece, missing in _pieces(data):
        assert all(len(each.payload) <= len(data) for each in frames.feed(piece))
        if missing:
            frames.gap()


def content_coding(data: bytes) -> None:
    for coding in ("gzip", "deflate", "br", "zstd"):
        decoder = Decoder(coding)
        out = [each for piece, _ in _pieces(data) for each in decoder.feed(piece)]
        out += decoder.end()
        assert max(map(len, out), default=0) <= PIECE and sum(map(len, out)) <= MAX_OUT


def http1(data: bytes) -> None:
    exchanges, open_ = Exchanges1(), set()
    for turn, (piece, missing) in enumerate(_pieces(data)):
        for asked in (True, False) if turn & 1 else (False,):
            parts = exchanges.feed(asked, piece)
            parts += exchanges.gap(asked, missing) if missing else []
            open_ |= {part.number for part in parts if part.asked and part.number}
    assert len(open_) <= max(len(data), MAX_OPEN)
    exchanges.close()


def http2(data: bytes) -> None:
    exchanges = Exchanges2()
    exchanges.feed(True, PREFACE)
    for turn, (piece, missing) in enumerate(_pieces(data)):
        exchanges.feed(bool(turn & 1), piece)
        if missing:
            exchanges.gap(bool(turn & 1), missing)
    exchanges.close()


_BEGUN = (
    b"",
    b"POST /v1/messages HTTP/1.1\r\nHost: x\r\n",
    b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 90\r\n\r\n",
    b'{"jsonrpc":"2.0","id":1,"method":"',
    PREFACE,
)


def elf(data: bytes) -> None:
    """A good file, changed: each five bytes say where and what. Only its own code is hooked."""
    changed = bytearray(_ELF)
    for at in range(0, len(data) - 4, 5):
        place = int.from_bytes(data[at : at + 2], "little") % len(changed)
        # Most of the first page is nothing.
        place = place % 128 if place < 4096 else place
        changed[place : place + 3] = data[at + 2 : at + 5]
    with opened(bytes(changed)) as fd:
        try:
            found = examine(fd)
        except ElfError:
            return
    ranges = code_ranges(bytes(changed)) if found.hooks else []
    assert all(any(hook.offset in one for one in ranges) for hook in found.hooks)


_ELF = whole()


def connection(data: bytes) -> None:
    """A good exchange's head, then the bytes; what comes out has names of a bounded length."""
    tap = Connection(lambda text: "h", room=Room() if len(data) & 1 else None)
    events = tap.feed("sent", _BEGUN[len(data) % len(_BEGUN)], 1)
    for turn, (piece, missing) in enumerate(_pieces(data)):
        direction: Direction = "sent" if turn % 3 else "received"
        events += tap.feed(direction, piece, turn, missing)
    for each in [*events, *tap.close(1 << 20)]:
        if isinstance(each, ModelCall):
            texts = (each.asked, each.answered, each.response_id, *each.offered, *each.chosen)
            assert all(len(text) <= MAX_PICKED for text in texts)
            each.to_call(1)


def policy_file(data: bytes) -> None:
    """The bytes as a file of policies, as one policy's condition, and as a file of cases."""
    text = data.decode("utf-8", "surrogateescape")
    for each in (text, f"forbid (principal, action, resource) when {{ {text} }};"):
        policies, problems = read_policies([(each, "p.cedar")])
        assert all(one.place.line >= 1 and one.message for one in problems)
        _told_apart(Decider(policies))
    with suppress(PolicyError):
        cases_of(text, "p.test.yaml")


_TEXTS = (
    "resource.path",
    "resource.name",
    "principal.name",
    '"/a"',
    '"x"',
    "(if {2} then {0} else {1})",
)
_FILES = (
    *("{0} == {1}", "{0} != {1}", '{0} like "/a*"', '{0} like "*x*"', "[{0}, {1}].contains({1})"),
    *("context.labels.contains({0})", "[{0}].containsAny([{1}])", "context.labels.isEmpty()"),
    *("resource has upper && resource.upper", '["secret"].containsAll(context.labels)'),
    *('resource == Path::"/a"', '[Path::"/a"].contains(resource)', 'principal == Workload::"w"'),
    *("context has program && context.program == {0}", "(if {0} == {1} then 1 else 2) < 2"),
    *("context.hour + 1 > 3", 'resource has digest && resource.digest like "x*"', "true"),
)
_ENDS = (
    *('resource has ip && resource.ip.isInRange(ip("10.0.0.0/8"))', "resource has port", "false"),
    *('resource has ip && ip("::1").isInRange(resource.ip)', 'context.labels.contains("secret")'),
    *("resource has ip && resource.ip.isLoopback()", "resource has port && resource.port > 1"),
    *("resource has port && [0, 53, 70000].contains(resource.port)", 'principal.name like "w*"'),
    *(
        'resource has name && resource.name like "1*"',
        'resource has name && resource.name == "::1"',
    ),
    'resource has path && resource.path like "*.sock"',
)
_JOINS = (
    "!({0})",
    "({0}) && ({1})",
    "({0}) || ({1})",
    "if ({0}) then ({1}) else ({0})",
    "({0}) == ({1})",
)


def kernel_policies(data: bytes) -> None:
    """Conditions that the bytes put together, as policies that the kernel is to be told."""
    files = not data or data[0] % 2 == 0
    atoms, made = _FILES if files else _ENDS, ["true"]
    for first, second in pairwise(data[1:40]):
        last = made[-1]
        if first < 100:
            made.append(_JOINS[first % len(_JOINS)].format(last, made[second % len(made)]))
        else:
            texts = (
                _TEXTS[number % len(_TEXTS)].format('"x"', '"/a"', last)
                for number in (first, second)
            )
            made.append(atoms[(first + second) % len(atoms)].format(*texts))
        made[-1] = made[-1] if len(made[-1]) < 500 else "true"
    head = 'action == Action::"open-read", resource is Path' if files else "action, resource"
    texts = (f"forbid (principal, {head}) when {{ {each} }};" for each in made[-8:])
    policies, _ = read_policies([("\n".join(texts), "p.cedar")])
    _told_apart(Decider(policies))


def _told_apart(engine: Decider) -> None:
    plan = Plan(engine)
    about = {one.id for one in engine.policies.values() if not set(ACTIONS).isdisjoint(one.actions)}
    assert plan.needs.keys() | plan.unheld.keys() == about
    assert all(plan.unheld.values()) and all(0 < port < 1 << 16 for port in plan.ports)
    bits_of(plan.labels)
    with suppress(TooManyPatterns):
        groups = [
            [Pattern(text, 1 << bit) for bit, text in enumerate(plan.patterns(group))]
            for group in range(len(plan.groups))
        ]
        told_apart(groups, 1, lambda group, held, text: 2)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "kernel_policies": kernel_policies,
    "json": json_fields,
    "jsonrpc": jsonrpc_lines,
    "sse": server_events,
    "eventstream": event_frames,
    "coding": content_coding,
    "http1": http1,
    "http2": http2,
    "connection": connection,
    "elf": elf,
    "dns": dns_message,
    "tls": tls_hello,
    "dictionary": dictionary_record,
    "sigma": sigma_file,
    "rules": rule_file,
    "policies": policy_file,
    "secrets": secrets,
    "mcp": json_rpc,
    "lines": lines_and_events,
    "injection": injected_text,
    "otlp": otlp_export,
    "otlp-http": otlp_http,
    "otlp-grpc": otlp_grpc,
}
