"""For authors of frameworks: say which tool call a piece of code serves, from the inside.

    from hullwatch.context.tool_call import tool_call

    with tool_call("search", server="my-agent"):
        ...

Standard library only, and one file: it may be copied. It needs no rights: the agent believes what
a process says of itself, and asks the kernel who speaks. Where no agent runs, nothing happens.

Threads are told apart. Calls that overlap in one thread (coroutines) are all named on what is done
meanwhile, as nobody can tell whose it is.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator

__all__ = ["tool_call"]

_DEFAULT_SOCKET = "/run/hullwatch/calls.sock"
_DEADLINE = 0.2  # s
_RETRY = 5.0  # s between attempts to reach an agent

_lock = threading.Lock()
_link: "_Link | None" = None
_tried = -_RETRY


class _Link:
    def __init__(self, path: str) -> None:
        self.pid = os.getpid()
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_DEADLINE)
        self.sock.connect(path)
        self.answers = self.sock.makefile("rb")

    def ask(self, request: dict[str, object]) -> bool:
        self.sock.sendall(json.dumps(request).encode() + b"\n")
        return b'"ok"' in self.answers.readline(4096)


def _agent() -> "_Link | None":
    """The way to the agent, opened when first needed, and again after a fork. Under the lock."""
    global _link, _tried
    if _link is not None and _link.pid == os.getpid():
        return _link
    _link = None
    if time.monotonic() - _tried >= _RETRY:
        _tried = time.monotonic()
        with contextlib.suppress(OSError):
            _link = _Link(os.environ.get("HULLWATCH_CALLS") or _DEFAULT_SOCKET)
    return _link


def _say(request: dict[str, object]) -> bool:
    global _link
    with _lock:
        agent = _agent()
        if agent is None:
            return False
        try:
            return agent.ask(request)
        except OSError:
            _link = None
            return False


@contextlib.contextmanager
def tool_call(
    name: str, *, server: str = "", parent: int = 0, kind: str = "tool", thread: bool = True
) -> Iterator[int]:
    """What this thread does within, and what it starts, is for this call; gives the call's id,
    0 where no agent knows of it.

    kind: tool, model or task. thread=False: of the whole process, whichever thread works for it.
    """
    ident = secrets.randbits(63) or 1
    call: dict[str, object] = {
        "id": ident,
        "kind": kind,
        "source": "context",
        "name": name,
        "begin": time.time_ns(),
        "server": server,
        "parent": parent,
    }
    scope = (
        {"scope": "thread", "tid": threading.get_native_id()} if thread else {"scope": "process"}
    )
    known = _say({"begin": call, **scope})
    status, error = "ok", ""
    try:
        yield ident if known else 0
    except BaseException as problem:
        status, error = "error", type(problem).__name__
        raise
    finally:
        if known:
            ended = {**call, "end": time.time_ns(), "status": status, "error": error}
            # Waited for: what is done from here on is not the call's any more.
            _say({"end": ended, "answer": True})
