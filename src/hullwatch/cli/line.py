"""One event as one line: what happened, to what, with which result."""

from __future__ import annotations

import errno
from collections.abc import Callable, Mapping
from typing import Any

from hullwatch.cli.show import safe, short_time, size

__all__ = ["address", "event_line", "what"]

Row = Mapping[str, Any]


def address(row: Row) -> str:
    """`name (address)` where the container asked for a name, else the address."""
    object_, name = row.get("object") or "?", row.get("dest_name")
    return f"{safe(name)} ({safe(object_)})" if name else safe(object_)


def _one(row: Row) -> str:
    return safe(row["object"]) if row.get("object") else ""


def _two(row: Row) -> str:
    return f"{_one(row)} -> {safe(row.get('object2') or '?')}"


def _open(row: Row) -> str:
    flags = int(row.get("flags") or 0)
    mode = ("read", "write", "read+write", "path")[flags & 3]
    return f"{_one(row)} ({mode}{', create' if flags & 0o100 else ''})"


def _exit(row: Row) -> str:
    status = int(row.get("flags") or 0)
    if status & 127:
        return f"killed by signal {status & 127}"
    return f"exit {status >> 8 & 255}"


def _policy(row: Row) -> str:
    from hullwatch.sensor.events import POLICY_ACTIONS, POLICY_DONE

    flags = int(row.get("flags") or 0)
    action, done = POLICY_ACTIONS.get(flags & 0xFFFF, "?"), POLICY_DONE.get(flags >> 16, "?")
    return f"{action} {address(row)}: {done}"


def _flow(row: Row) -> str:
    out, into = int(row.get("num") or 0), int(row.get("num2") or 0)
    return f"{address(row)} {size(out)} out, {size(into)} in"


_WHAT: dict[str, Callable[[Row], str]] = {
    "exec": lambda row: safe(row.get("cmdline") or row.get("object2") or row.get("object") or ""),
    "task": lambda row: safe(row.get("cmdline") or row.get("object") or ""),
    "fork": lambda row: f"child {int(row.get('num') or 0) & 0x3FFFFF}",
    "exit": _exit,
    "open": _open,
    "rename": _two,
    "link": _two,
    "symlink": lambda row: f"{safe(row.get('object2') or '?')} -> {_one(row)}",
    "connect": address,
    "accept": address,
    "bind": address,
    "listen": address,
    "send": address,
    "dup": address,
    "flow": _flow,
    "dns": _two,
    "tls": lambda row: f"{_one(row)} at {safe(row.get('object2') or '?')}",
    "policy": _policy,
    "mount": lambda row: f"{safe(row.get('object2') or '?')} on {_one(row)}",
}


def what(row: Row) -> str:
    """The event's own part of its line, escaped."""
    text = _WHAT.get(row["class"], _one)(row)
    ret = row.get("ret") or 0
    return f"{text} = {errno.errorcode.get(-ret, ret)}" if ret < 0 else text


def event_line(row: Row) -> str:
    """time, container, process, class, what, labels of the process if any. Escaped."""
    container = row.get("container") or (row.get("container_id") or "")[:12]
    if not container:
        container = "host" if row.get("container_id") == "" else "pending"
    process = f"{safe(row.get('name') or '?', 24)}[{row['pid']}]"
    labels = ", ".join(row.get("label_names") or ())
    return (
        f"{short_time(row['time'])}  {safe(container, 24):<16} {process:<22}"
        f" {row['class']:<10} {what(row)}{f'  [{labels}]' if labels else ''}"
    )
