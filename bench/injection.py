"""False positives of the injection signs on the tool definitions of real MCP servers.

    python bench/injection.py SERVERS.toml [--json] [--save DEFINITIONS.json]
    python bench/injection.py DEFINITIONS.json

SERVERS.toml has a table per server: `command = ["npx", "-y", "..."]`, and `env` where one does not
start without a token (any text does: only `tools/list` is asked). Definitions that were saved can
be looked at again. What is told is printed with its signs, to be judged by a person.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

from hullwatch.agent.mcp.injection import look, plain, told

DEADLINE = 40.0  # s for one server
HELLO: dict[str, Any] = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "bench", "version": "1"},
}


def tools_of(command: list[str], env: dict[str, str]) -> list[dict[str, Any]]:
    """What a server lists over stdio; empty where it does not start."""
    with tempfile.TemporaryDirectory() as home:
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PATH": os.environ["PATH"], "HOME": home, **env},
            cwd=home,
            bufsize=0,
        )
        try:
            return _ask(child, time.monotonic() + DEADLINE)
        except OSError:
            return []
        finally:
            child.kill()
            child.wait()


def _ask(child: subprocess.Popen[bytes], until: float) -> list[dict[str, Any]]:
    assert child.stdin and child.stdout
    selector = selectors.DefaultSelector()
    selector.register(child.stdout, selectors.EVENT_READ)
    buffer = b""

    def send(message: dict[str, Any]) -> None:
        assert child.stdin
        child.stdin.write(json.dumps({"jsonrpc": "2.0", **message}).encode() + b"\n")

    def answer(ident: int) -> dict[str, Any]:
        nonlocal buffer
        while time.monotonic() < until:
            line, newline, rest = buffer.partition(b"\n")
            if newline:
                buffer = rest
                try:
                    message = json.loads(line)
                except ValueError:
                    continue
                if isinstance(message, dict) and message.get("id") == ident:
                    return dict(message.get("result") or {})
                continue
            if selector.select(1.0):
                assert child.stdout
                data = os.read(child.stdout.fileno(), 1 << 16)
                if not data:
                    break
                buffer += data
        return {}

    send({"id": 1, "method": "initialize", "params": HELLO})
    if not answer(1):
        return []
    send({"method": "notifications/initialized"})
    found: list[dict[str, Any]] = []
    params: dict[str, Any] = {}
    while True:
        send({"id": 2, "method": "tools/list", "params": params})
        page = answer(2)
        found += page.get("tools", [])
        if not page.get("nextCursor"):
            return found
        params = {"cursor": page["nextCursor"]}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", type=Path)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    if options.what.suffix == ".json":
        listed: dict[str, list[dict[str, Any]]] = json.loads(options.what.read_text())
    else:
        listed = {}
        for name, server in tomllib.loads(options.what.read_text()).items():
            listed[name] = tools_of(server["command"], server.get("env", {}))
            print(f"{name}: {len(listed[name])} tools", file=sys.stderr, flush=True)
    if options.save:
        options.save.write_text(json.dumps(listed, indent=1))
    rows: list[dict[str, Any]] = []
    light: Counter[str] = Counter()
    for name, tools in listed.items():
        for tool in tools:
            hits = look(plain(json.dumps(tool).encode()), "definition")
            signs = [hit.sign.ident for hit in hits]
            if told(hits):
                rows.append({"server": name, "tool": tool.get("name"), "signs": signs})
            else:
                light.update(signs)
    total = sum(map(len, listed.values()))
    answer = {
        "servers": sum(bool(tools) for tools in listed.values()),
        "silent": [name for name, tools in listed.items() if not tools],
        "definitions": total,
        "told": len(rows),
        "light_signs": dict(light),
    }
    if options.json:
        print(json.dumps(answer | {"rows": rows}))
        return
    for key, value in answer.items():
        print(f"{key:<12} {value}")
    for row in rows:
        print(f"  {row['server']}  {row['tool']}  {' '.join(row['signs'])}")


if __name__ == "__main__":
    main()
