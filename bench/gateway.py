"""What the MCP gateway adds to a call: the same client and server, directly and through it.

    python bench/gateway.py [--calls N] [--rounds N] [--size BYTES] [--json]

Both ways are measured in turns within one run, over stdio and HTTP, with 1, 8 and 32 calls under
way at a time. The server answers at once, so that what is left is the way. Pins, hashes and the
signs of injection are on; no agent is asked. `cpu` is what the gateway's process uses for a call:
on a machine that is not quiet it is the figure that holds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from figures import cut

ROOT = Path(__file__).resolve().parents[1]
CONCURRENT = (1, 8, 32)
LIMIT = 1 << 22
GATEWAY = [sys.executable, "-m", "hullwatch", "mcp", "--name", "bench"]
WARM = 50  # calls that are not counted

STDIO_SERVER = """
import json, sys
for line in sys.stdin.buffer:
    ident = json.loads(line)["id"]
    sys.stdout.buffer.write(
        b'{"jsonrpc":"2.0","id":%d,"result":{"content":[{"type":"text","text":"%s"}]}}\\n'
        % (ident, b"x" * int(sys.argv[1])))
    sys.stdout.buffer.flush()
"""

Call = Callable[..., Awaitable[None]]  # (id, tool="echo")


def body(ident: int, size: int, tool: str) -> bytes:
    arguments = {"text": "x" * size}
    params = {"name": tool, "arguments": arguments}
    message = {"jsonrpc": "2.0", "id": ident, "method": "tools/call", "params": params}
    return json.dumps(message).encode()


@asynccontextmanager
async def stdio(gateway: list[str], size: int, state: str) -> AsyncIterator[tuple[Call, int]]:
    """A server of its own; calls may be under way together. With the pid of what was started."""
    server = [sys.executable, "-c", STDIO_SERVER, str(size)]
    command = [*gateway, "--", *server] if gateway else server
    child = await asyncio.create_subprocess_exec(
        *command, stdin=-1, stdout=-1, stderr=-3, limit=LIMIT, env=_environment(state)
    )
    assert child.stdin and child.stdout
    waiting: dict[int, asyncio.Future[None]] = {}

    async def read() -> None:
        assert child.stdout
        while line := await child.stdout.readline():
            waiting.pop(json.loads(line)["id"]).set_result(None)

    async def call(ident: int, tool: str = "echo") -> None:
        assert child.stdin
        waiting[ident] = asyncio.get_running_loop().create_future()
        done = waiting[ident]
        child.stdin.write(body(ident, size, tool) + b"\n")
        await done

    reading = asyncio.create_task(read())
    try:
        yield call, child.pid
    finally:
        child.stdin.close()
        await child.wait()
        await reading


async def _serve_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            length = int(head.partition(b"content-length:")[2].split()[0])
            message = json.loads(await reader.readexactly(length))
            text = message["params"]["arguments"]["text"]
            content = [{"type": "text", "text": text}]
            result = {"jsonrpc": "2.0", "id": message["id"], "result": {"content": content}}
            data = json.dumps(result).encode()
            writer.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
                % (len(data), data)
            )
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def _http_server() -> None:
    server = await asyncio.start_server(_serve_http, "127.0.0.1", 0, limit=LIMIT)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@asynccontextmanager
async def http(gateway: list[str], size: int, state: str) -> AsyncIterator[tuple[Call, int]]:
    """Connections that are kept, one for each call that is under way."""
    server = await asyncio.create_subprocess_exec(
        sys.executable, __file__, "--serve", stdout=-1, env=_environment(state)
    )
    assert server.stdout
    port = int(await server.stdout.readline())
    started = [server]
    if gateway:
        options = ["--upstream", f"http://127.0.0.1:{port}/mcp", "--listen", "127.0.0.1:0"]
        child = await asyncio.create_subprocess_exec(
            *gateway, *options, stderr=-1, env=_environment(state)
        )
        started.append(child)
        assert child.stderr
        while b"listening on" not in (line := await child.stderr.readline()):
            assert line, "the gateway did not start"
        port = int(line.partition(b"http://127.0.0.1:")[2].partition(b"/")[0])
    free: deque[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = deque()

    async def call(ident: int, tool: str = "echo") -> None:
        link = free.popleft() if free else await asyncio.open_connection("127.0.0.1", port)
        reader, writer = link
        data = body(ident, size, tool)
        writer.write(
            b"POST /mcp HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Accept: application/json, text/event-stream\r\nContent-Length: %d\r\n\r\n%s"
            % (len(data), data)
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        answer = await reader.readexactly(int(head.partition(b"content-length:")[2].split()[0]))
        assert json.loads(answer)["id"] == ident, answer
        free.append(link)

    try:
        yield call, started[-1].pid
    finally:
        for _, writer in free:
            writer.close()
        for child in started:
            child.terminate()
            await child.wait()


def _environment(state: str) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), *sys.path]),
        "HULLWATCH_MCP_STATE": state,
    }


async def measure(call: Call, count: int, concurrent: int, first: int) -> list[float]:
    """Seconds of each call."""
    numbers = iter(range(first, first + count))
    took: list[float] = []

    async def worker() -> None:
        for number in numbers:
            begun = time.perf_counter()
            await call(number)
            took.append(time.perf_counter() - begun)

    await asyncio.gather(*(worker() for _ in range(concurrent)))
    return took


async def run(calls: int, rounds: int, size: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as state:
        for name, way in (("stdio", stdio), ("http", http)):
            async with way([], size, state) as (direct, _), way(GATEWAY, size, state) as gateway:
                through, pid = gateway
                for concurrent in CONCURRENT:
                    took: dict[str, list[float]] = {"direct": [], "gateway": []}
                    cpu = 0.0
                    number = 0
                    for turn in range(rounds + 1):
                        for kind, call in (("direct", direct), ("gateway", through)):
                            count = calls if turn else WARM
                            before = _cpu(pid)
                            found = await measure(call, count, concurrent, number)
                            number += count
                            took[kind] += found if turn else []
                            cpu += _cpu(pid) - before if turn and kind == "gateway" else 0
                    row = {"over": name, "concurrent": concurrent, **_row(took)}
                    rows.append(row | {"cpu_us": cpu / len(took["gateway"]) * 1e6})
    return rows


def _cpu(pid: int) -> float:
    """Seconds that a process and its threads have used, to the ns."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def _row(took: dict[str, list[float]]) -> dict[str, float]:
    row: dict[str, float] = {}
    for kind, times in took.items():
        found = cut(times)
        row |= {f"{kind}_p50_us": found.p50 * 1e6, f"{kind}_p99_us": found.p99 * 1e6}
    row["added_p50_us"] = row["gateway_p50_us"] - row["direct_p50_us"]
    row["added_p99_us"] = row["gateway_p99_us"] - row["direct_p99_us"]
    return row


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=500, help="in a round, one way")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--size", type=int, default=200, help="bytes of text, there and back")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(_http_server())
        return
    rows = asyncio.run(run(options.calls, options.rounds, options.size))
    if options.json:
        print(json.dumps(rows))
        return
    print(f"{'':<6}{'at a':>6}  {'direct':>18}  {'gateway':>18}  {'added':>18}  {'cpu':>6}  µs")
    print(f"{'over':<6}{'time':>6}" + f"  {'p50':>8} {'p99':>9}" * 3)
    for row in rows:
        said = "".join(
            f"  {row[f'{kind}_p50_us']:8.0f} {row[f'{kind}_p99_us']:9.0f}"
            for kind in ("direct", "gateway", "added")
        )
        print(f"{row['over']:<6}{row['concurrent']:>6}{said}  {row['cpu_us']:6.0f}")


if __name__ == "__main__":
    main()
