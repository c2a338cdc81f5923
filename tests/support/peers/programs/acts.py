"""What the worker's tools do: each a thing that a sensor should see, marked with the call's token.

Runs in the environments of the SDKs; standard library only. Every act returns what it did as JSON:
`pids` are the processes that it started. The shell commands stand in acts.json, for worker.cjs too.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMANDS: dict[str, list[str]] = json.loads(Path(__file__).with_name("acts.json").read_text())


def told(pids: list[int] | None = None) -> str:
    return json.dumps({"pid": os.getpid(), "pids": pids or []})


def command(name: str, *words: str | float) -> list[str]:
    return [*COMMANDS[name], *map(str, words)]


def _started(output: bytes) -> list[int]:
    """The shells print their pids."""
    return [int(word) for word in output.split()]


def _output(words: list[str]) -> list[int]:
    # Not our standard input: it is the protocol's, and a bash on a socket reads ~/.bashrc.
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True)
    return _started(done.stdout)


def run(token: str) -> str:
    """One process, with the token among its arguments."""
    return told(_output(command("run", token)))


def read(token: str, path: str) -> str:
    with open(path, "rb") as file:
        file.read()
    return told()


def write(token: str, path: str) -> str:
    with open(path, "w") as file:
        file.write(token)
    return told()


def fetch(token: str, host: str, port: int) -> str:
    """A connection of this process."""
    with socket.create_connection((host, port)) as peer:
        peer.sendall(f"{token}\n".encode())
        peer.recv(100)
    return told()


def chain(token: str, host: str, port: int) -> str:
    """A process that starts another, which connects."""
    return told(_output(command("chain", token, host, port)))


def linger(token: str, host: str, port: int, ms: int) -> str:
    """A process that connects only when the call has long been answered."""
    child = subprocess.Popen(
        command("linger", token, host, port, ms / 1000),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    threading.Thread(target=child.wait, daemon=True).start()
    return told([child.pid])


def threads(token: str, folder: str) -> str:
    """Three new threads of this process, each of which writes a file."""
    all_of_them = [
        threading.Thread(target=write, args=(token, f"{folder}/{token}.{number}"))
        for number in range(3)
    ]
    for one in all_of_them:
        one.start()
    for one in all_of_them:
        one.join()
    return told()


def sleep(token: str, ms: int) -> str:
    time.sleep(ms / 1000)
    return told()


def fail(token: str) -> str:
    raise ValueError(f"{token} fails, as it was asked to")


async def _output_async(words: list[str]) -> list[int]:
    child = await asyncio.create_subprocess_exec(
        *words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    )
    output, _ = await child.communicate()
    return _started(output)


async def run_async(token: str) -> str:
    return told(await _output_async(command("run", token)))


async def read_async(token: str, path: str) -> str:
    return read(token, path)


async def write_async(token: str, path: str) -> str:
    return write(token, path)


async def fetch_async(token: str, host: str, port: int) -> str:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(f"{token}\n".encode())
    await reader.read(100)
    writer.close()
    return told()


async def chain_async(token: str, host: str, port: int) -> str:
    return told(await _output_async(command("chain", token, host, port)))


async def linger_async(token: str, host: str, port: int, ms: int) -> str:
    return linger(token, host, port, ms)


async def threads_async(token: str, folder: str) -> str:
    return await asyncio.to_thread(threads, token, folder)


async def sleep_async(token: str, ms: int) -> str:
    await asyncio.sleep(ms / 1000)
    return told()


async def fail_async(token: str) -> str:
    return fail(token)


def threaded(act: Callable[..., str]) -> Callable[..., Any]:
    @functools.wraps(act)
    async def called(**arguments: Any) -> str:
        return await asyncio.to_thread(act, **arguments)

    return called


NAMES = ("run", "read", "write", "fetch", "chain", "linger", "threads", "sleep", "fail")


def tools(style: str) -> dict[str, Callable[..., Any]]:
    """sync: plain functions; async: all in the event loop; thread: each call in a worker thread."""
    plain = {name: globals()[name] for name in NAMES}
    if style == "thread":
        return {name: threaded(act) for name, act in plain.items()}
    return plain if style == "sync" else {name: globals()[f"{name}_async"] for name in NAMES}
