"""Stored findings as the events they were made of, as far as a finding keeps them.

So a condition that is about to become a suppression can be asked of history with the same
predicates that will be asked of what comes.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from hullwatch.context.enriched import ProcessImage
from hullwatch.context.image import parse_image
from hullwatch.context.workload import Workload
from hullwatch.detect.row import Event, Object, Row
from hullwatch.detect.scene import make_image
from hullwatch.sensor.dictionary import Address
from hullwatch.sensor.events import BY_NAME, CLASSES

__all__ = ["KEPT_FIELDS", "Recalled", "recall"]

_PROCESS = ("name", "exe", "exepath", "cmdline", "args", "exeline", "pid")
# What conditions can ask of a finding; the rest of an event is not in it.
KEPT_FIELDS = frozenset(
    (
        *(f"proc.{name}" for name in _PROCESS),
        *("proc.pname", "proc.pexe", "proc.pexepath", "proc.pcmdline", "proc.pargs", "proc.ppid"),
        *(f"proc.a{name}" for name in _PROCESS),
        *("fd.name", "fd.directory", "fd.filename", "fs.path.name"),
        *("fs.path.source", "fs.path.target", "user.uid"),
        *("fd.sip", "fd.snet", "fd.sport", "fd.rip", "fd.rnet", "fd.rport"),
        *("container.id", "container.full_id", "container.name", "container.image"),
        *("container.image.repository", "container.image.tag", "container.image.digest"),
        *("k8s.ns.name", "k8s.pod.name", "hw.class"),
    )
)


class Recalled(NamedTuple):
    """One event of a finding, and how many it stands for."""

    row: Row
    events: int


def recall(body: Mapping[str, Any]) -> Iterator[Recalled]:
    """The distinct evidence of a finding. Events beyond what it kept are not in here."""
    row = BY_NAME.get(str(body.get("event") or ""))
    if row is None:
        return
    workload = _workload(body)
    chain = [one for one in body.get("processes") or () if isinstance(one, Mapping)]
    evidence = body.get("evidence") or [
        {
            "object": body.get("object") or "",
            "command": chain[0].get("cmdline") if chain else "",
            "count": body.get("count") or 1,
        }
    ]
    for one in evidence:
        image = _image(chain, str(one.get("command") or ""), body.get("uid"))
        obj = _object(row.cls, str(one.get("object") or ""))
        second = str(body.get("object2") or "")
        obj2 = _object(row.cls, second) if second else obj if row.name == "open" else None
        made = Row(Event(row.cls), obj, obj2, image, workload, span=int(body.get("span") or 0))
        yield Recalled(made, int(one.get("count") or 1))


def _object(cls: int, text: str) -> Object | None:
    if not text:
        return None
    # "server end", "local end": see sensor/events.py.
    is_address = CLASSES[cls].obj.endswith(" end")
    return Object(text, _address(text) if is_address else None)


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":") if text.count(":") == 1 or "]:" in text else (text, "", "")
    try:
        ip = ipaddress.ip_address(host.strip("[]"))
        number = int(port or 0)
    except ValueError:
        return Address(int(socket.AF_UNIX), None, 0, text)
    family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
    return Address(int(family), ip, number, "")


def _image(chain: list[Mapping[str, Any]], command: str, uid: Any) -> ProcessImage | None:
    found: ProcessImage | None = None
    for depth, one in reversed(list(enumerate(chain))):
        text = command if depth == 0 and command else str(one.get("cmdline") or "")
        name, exepath = str(one.get("name") or ""), str(one.get("exepath") or "")
        # Arguments were joined by blanks: joined again they are the same text.
        args = text[len(name) + 1 :] if text.startswith(f"{name} ") else ""
        found = make_image(
            parent=found,
            name=name,
            exepath=exepath,
            argv=(exepath, *([args] if args else [])),
            pid=int(one.get("pid") or 0),
            uid=int(uid or 0),
            euid=int(uid or 0),
            known=True,
        )
    return found


def _workload(body: Mapping[str, Any]) -> Workload:
    text = {
        name: str(body[name])
        for name in ("image", "image_digest", "pod", "namespace")
        if body.get(name)
    }
    reference = parse_image(text["image"]) if "image" in text else None
    return Workload(
        cgroup=int(body.get("cgroup") or 0),
        cgroup_path="",
        state=body.get("state") or ("resolved" if body.get("container_full_id") else "host"),
        container_id=str(body.get("container_full_id") or ""),
        name=str(body.get("container_name") or "") or None,
        image_repository=reference.repository if reference else None,
        image_tag=reference.tag if reference else None,
        **text,  # type: ignore[arg-type]
    )
