"""MB/s of what reads connections, on one core, beside what the bytes cost to be looked at at all.

    python bench/wire.py [--megabytes N] [--piece BYTES] [--json]

Each stream is fed in pieces as a tap would give them. `copy` is a loop that copies each piece into
a buffer and drops it; h11 (if it is installed) reads the same HTTP/1.1 responses as their client.
CPU time of this process; the ratio is to `copy` of the same stream, in the same run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

from hullwatch.agent.connection import Connection
from hullwatch.agent.wire.http1 import Reader
from hullwatch.agent.wire.jsonrpc import Lines
from hullwatch.agent.wire.sse import ServerEvents

Feed = Callable[[bytes], object]
TEXT = 'It was the best of times, it was the "worst" of times,\n' * 4


def _delta(text: str) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    chunk = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return b"data: " + json.dumps({**chunk, "choices": [choice]}).encode() + b"\n\n"


def _chunked(bodies: list[bytes], kind: str) -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    return head + b"".join(b"%x\r\n%s\r\n" % (len(body), body) for body in bodies) + b"0\r\n\r\n"


def _post(body: bytes) -> bytes:
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: api.openai.com\r\nContent-Length: "
    return head + b"%d\r\n\r\n" % len(body) + body


def _message(size: int) -> bytes:
    call = {"name": "read", "arguments": {"text": (TEXT * (size // len(TEXT) + 1))[:size]}}
    message = {"method": "tools/call", "params": call, "jsonrpc": "2.0", "id": 1}
    return json.dumps(message).encode() + b"\n"


def _many(unit: bytes, total: int) -> bytes:
    return unit * max(total // len(unit), 1)


ASK = _post(json.dumps({"model": "m", "messages": [{"role": "user", "content": TEXT}]}).encode())
PROMPT = _post(json.dumps({"messages": [{"content": TEXT * 5000}], "model": "m"}).encode())
TOKENS = [_delta(" word")] * 500
BODY = _chunked([TEXT.encode() * 20] * 100, "application/json")


def _connection(sent: bool, pipe: bool = False) -> Feed:
    connection = Connection(lambda text: "h", pipe=pipe)
    connection.feed("sent", b"" if sent or pipe else ASK, 1)
    direction: Any = "sent" if sent else "received"
    return lambda data: connection.feed(direction, data, 1)


def _h11() -> Feed | None:
    try:
        h11 = importlib.import_module("h11")
    except ImportError:
        return None
    state: dict[str, Any] = {}

    def start() -> None:
        state["link"] = h11.Connection(our_role=h11.CLIENT)
        state["link"].send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
        state["link"].send(h11.EndOfMessage())

    def feed(data: bytes) -> None:
        state["link"].receive_data(data)
        while (event := state["link"].next_event()) is not h11.NEED_DATA:
            if event is h11.PAUSED or isinstance(event, h11.EndOfMessage):
                rest = state["link"].trailing_data[0]
                start()
                if not rest:
                    return
                state["link"].receive_data(rest)

    start()
    return feed


def _copy() -> Feed:
    buffer = bytearray()

    def feed(data: bytes) -> None:
        buffer.extend(data)
        del buffer[:]

    return feed


# Stream, how some bytes of it are made, and who reads it.
STREAMS: tuple[tuple[str, Callable[[int], bytes], dict[str, Callable[[], Feed | None]]], ...] = (
    (
        "chunked HTTP/1.1",
        lambda total: _many(BODY, total),
        {"http1": lambda: Reader(requests=False).feed, "h11": _h11},
    ),
    (
        "tokens as events",
        lambda total: _many(b"".join(TOKENS), total),
        {"sse": lambda: ServerEvents().feed},
    ),
    (
        "a model's streamed reply",
        lambda total: _chunked(TOKENS * (total // sum(map(len, TOKENS))), "text/event-stream"),
        {
            "http1": lambda: Reader(requests=False).feed,
            "h11": _h11,
            "connection": lambda: _connection(sent=False),
        },
    ),
    (
        "long prompts",
        lambda total: _many(PROMPT, total),
        {"connection": lambda: _connection(sent=True)},
    ),
    (
        "JSON-RPC, 300 bytes a line",
        lambda total: _many(_message(200), total),
        {"lines": lambda: Lines().feed},
    ),
    (
        "JSON-RPC, 64 KiB a line",
        lambda total: _many(_message(64 << 10), total),
        {
            "lines": lambda: Lines().feed,
            "lines, kept": lambda: Lines(keep=1 << 20).feed,
            "connection": lambda: _connection(sent=False, pipe=True),
        },
    ),
)


def _pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


def _time(feed: Feed, pieces: list[bytes]) -> float:
    begun = time.process_time()
    for piece in pieces:
        feed(piece)
    return max(time.process_time() - begun, 1e-9)


def measure(total: int, piece: int) -> Iterator[dict[str, Any]]:
    """One row a stream and reader."""
    for stream, make_stream, readers in STREAMS:
        pieces = _pieces(make_stream(total), piece)
        size = sum(map(len, pieces))
        base = _time(_copy(), pieces)
        yield {"stream": stream, "reader": "copy", "MB/s": size / base / 1e6, "ratio": 1.0}
        for name, make in readers.items():
            feed = make()
            if feed is not None:
                took = _time(feed, pieces)
                rate = size / took / 1e6
                yield {"stream": stream, "reader": name, "MB/s": rate, "ratio": took / base}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=20, help="of each stream")
    parser.add_argument("--piece", type=int, default=4096, help="bytes fed at once")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for row in measure(options.megabytes * 1_000_000, options.piece):
        if options.json:
            print(json.dumps(row))
        else:
            rate = f"{row['MB/s']:>9.1f} MB/s{row['ratio']:>9.1f}"
            print(f"{row['stream']:<28}{row['reader']:<14}{rate}")


if __name__ == "__main__":
    main()
