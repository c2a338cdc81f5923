"""The MCP servers: how each is started, what it is asked, and what it must then have done.

`WORKERS` are ours, on the official SDKs; `FOREIGN` are from PyPI and npm. An act is one tool: from
a `Place` it makes an `Ask`.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from support.peers.environments import HOME, NODE, NODE_MODULES, PROGRAMS, node_env, python
from support.peers.truth import Destination, File, Process

__all__ = ["ALL", "FOREIGN", "WORKERS", "Ask", "Place", "Server", "Transport", "server"]

Transport = Literal["stdio", "http", "http-json"]
HOST = "127.0.0.1"


class Place(NamedTuple):
    """Where one call happens. port: makes a listening port."""

    token: str
    folder: Path
    port: Callable[[], int]


class Ask(NamedTuple):
    """A call, and what it must do. ok: False where the tool has to say that it failed."""

    arguments: dict[str, Any]
    processes: tuple[Process, ...] = ()
    files: tuple[File, ...] = ()
    destinations: tuple[Destination, ...] = ()
    ok: bool = True


Act = Callable[[Place], Ask]


class Server(NamedTuple):
    """command: with (transport, folder), without a shell. environment: on top of the client's.
    new: it speaks 2026-07-28 too. asked_port: it is told its HTTP port in $PORT, and does not say
    which it took."""

    name: str
    command: Callable[[Transport, Path], list[str]]
    acts: Mapping[str, Act]
    environment: Callable[[Path], dict[str, str]] = lambda _: {}
    transports: tuple[Transport, ...] = ("stdio",)
    new: bool = False
    asked_port: bool = False


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def _run(at: Place) -> Ask:
    return Ask({"token": at.token}, processes=(Process("sh"),))


def _read(at: Place) -> Ask:
    path = str(_write(at.folder / f"{at.token}.in", at.token))
    return Ask({"token": at.token, "path": path}, files=(File(path, "read"),))


def _write_file(at: Place) -> Ask:
    path = str(at.folder / f"{at.token}.out")
    return Ask({"token": at.token, "path": path}, files=(File(path, "write"),))


def _fetch(at: Place) -> Ask:
    to = Destination(HOST, at.port())
    return Ask({"token": at.token, "host": to.host, "port": to.port}, destinations=(to,))


def _chain(at: Place) -> Ask:
    to = Destination(HOST, at.port())
    return Ask(
        {"token": at.token, "host": to.host, "port": to.port},
        processes=(Process("sh"), Process("bash")),
        destinations=(to,),
    )


def _linger(at: Place) -> Ask:
    to = Destination(HOST, at.port())
    return Ask(
        {"token": at.token, "host": to.host, "port": to.port, "ms": 500},
        processes=(Process("bash"),),
        destinations=(to,),
    )


def _threads(at: Place) -> Ask:
    files = tuple(File(f"{at.folder}/{at.token}.{number}", "write") for number in range(3))
    return Ask({"token": at.token, "folder": str(at.folder)}, files=files)


def _sleep(at: Place) -> Ask:
    return Ask({"token": at.token, "ms": 20})


def _fail(at: Place) -> Ask:
    return Ask({"token": at.token}, ok=False)


WORKER_ACTS: dict[str, Act] = {
    "run": _run,
    "read": _read,
    "write": _write_file,
    "fetch": _fetch,
    "chain": _chain,
    "linger": _linger,
    "threads": _threads,
    "sleep": _sleep,
    "fail": _fail,
}


def _python_worker(sdk: Literal[1, 2], style: str) -> Server:
    program = [str(python(f"python{sdk}")), str(PROGRAMS / f"worker_py{sdk}.py"), style]
    return Server(
        f"worker-py{sdk}-{style}",
        lambda transport, _: [*program, transport],
        WORKER_ACTS,
        transports=("stdio", "http", "http-json"),
        new=sdk == 2,
    )


def _node_worker(sdk: Literal[1, 2]) -> Server:
    program = [str(NODE), str(PROGRAMS / f"worker_ts{sdk}.cjs")]
    return Server(
        f"worker-ts{sdk}",
        lambda transport, _: [*program, transport],
        WORKER_ACTS,
        environment=lambda _: node_env(),
        transports=("stdio", "http", "http-json"),
        new=sdk == 2,
    )


# What servers from elsewhere are asked.


def _fs_read(at: Place) -> Ask:
    path = str(_write(at.folder / f"{at.token}.txt", at.token))
    return Ask({"path": path}, files=(File(path, "read"),))


def _fs_write(at: Place) -> Ask:
    path = str(at.folder / f"{at.token}.new")
    return Ask({"path": path, "content": at.token}, files=(File(path, "write"),))


def _repository(at: Place) -> Path:
    """A repository of the call's own: git locks one against itself."""
    home = at.folder / at.token
    subprocess.run(["git", "init", "-q", str(home)], check=True)
    _write(home / f"{at.token}.txt", at.token)
    return home


def _git_add(at: Place) -> Ask:
    home = _repository(at)
    name = f"{at.token}.txt"
    return Ask(
        {"repo_path": str(home), "files": [name]},
        processes=(Process("git"),),
        files=(File(str(home / name), "read"),),
    )


def _web_fetch(at: Place) -> Ask:
    to = Destination(HOST, at.port())
    return Ask({"url": f"http://{to}/{at.token}", "raw": True}, destinations=(to,))


def _time(at: Place) -> Ask:
    return Ask({"timezone": "Europe/Berlin"})


def _sqlite_write(at: Place) -> Ask:
    return Ask({"query": f"CREATE TABLE [{at.token}] (n INTEGER)"})


def _sqlite_read(at: Place) -> Ask:
    return Ask({"query": f"SELECT '{at.token}'"})


def _echo(at: Place) -> Ask:
    return Ask({"message": at.token})


def _sum(at: Place) -> Ask:
    return Ask({"a": 1, "b": 2})


def _long(at: Place) -> Ask:
    return Ask({"duration": 0.1, "steps": 2})


def _entities(at: Place) -> Ask:
    one = {"name": at.token, "entityType": "call", "observations": ["seen"]}
    return Ask({"entities": [one]})


def _thought(at: Place) -> Ask:
    return Ask(
        {"thought": at.token, "nextThoughtNeeded": False, "thoughtNumber": 1, "totalThoughts": 1}
    )


def _from_pypi(sdk: Literal[1, 2], name: str, acts: dict[str, Act], *words: str) -> Server:
    program = [str(HOME / f"python{sdk}" / "bin" / f"mcp-server-{name}"), *words]
    return Server(f"{name}-py{sdk}", lambda *_: program, acts, new=sdk == 2)


def _from_npm(name: str, acts: dict[str, Act], **more: Any) -> Server:
    package = NODE_MODULES / "@modelcontextprotocol" / f"server-{name}" / "dist" / "index.js"
    words: Callable[[Transport, Path], list[str]] = more.pop("words", lambda *_: [])
    return Server(name, lambda how, at: [str(NODE), str(package), *words(how, at)], acts, **more)


_WEB = ("--allow-private-ips", "--ignore-robots-txt")

WORKERS = (
    *(_python_worker(1, style) for style in ("sync", "async", "thread")),
    *(_python_worker(2, style) for style in ("sync", "async", "thread")),
    _node_worker(1),
    _node_worker(2),
)
FOREIGN = (
    _from_pypi(1, "git", {"git_add": _git_add}),
    _from_pypi(2, "git", {"git_add": _git_add}),
    _from_pypi(1, "fetch", {"fetch": _web_fetch}, *_WEB),
    _from_pypi(2, "fetch", {"fetch": _web_fetch}, *_WEB),
    _from_pypi(1, "time", {"get_current_time": _time}),
    _from_pypi(2, "time", {"get_current_time": _time}),
    Server(
        "sqlite-py1",
        lambda _, folder: [
            str(HOME / "python1" / "bin" / "mcp-server-sqlite"),
            "--db-path",
            str(folder / "peers.sqlite"),
        ],
        {"create_table": _sqlite_write, "read_query": _sqlite_read},
    ),
    _from_npm(
        "filesystem",
        {"read_text_file": _fs_read, "write_file": _fs_write},
        words=lambda _, folder: [str(folder)],
    ),
    _from_npm(
        "everything",
        {"echo": _echo, "get-sum": _sum, "trigger-long-running-operation": _long},
        words=lambda how, _: ["stdio" if how == "stdio" else "streamableHttp"],
        transports=("stdio", "http"),
        asked_port=True,
    ),
    _from_npm(
        "memory",
        {"create_entities": _entities},
        environment=lambda folder: {"MEMORY_FILE_PATH": str(folder / "memory.jsonl")},
    ),
    _from_npm("sequential-thinking", {"sequentialthinking": _thought}),
)
ALL = WORKERS + FOREIGN


def server(name: str) -> Server:
    """By its name; KeyError names those there are."""
    for one in ALL:
        if one.name == name:
            return one
    raise KeyError(f"{name}: no such server; there are {json.dumps([one.name for one in ALL])}")
