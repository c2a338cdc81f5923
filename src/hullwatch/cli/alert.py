"""A finding as it happens: a few lines that say what, in which container, by which processes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from hullwatch.cli.show import console, safe, short_time

if TYPE_CHECKING:
    from hullwatch.detect.finding import Finding

__all__ = ["Alerts", "chain_of", "colour_of", "show_finding", "step_text"]

_SEEN = 10_000
_COLOURS = {6: "bold red", 5: "bold red", 4: "red", 3: "yellow", 2: "cyan"}
_OBJECTS = {
    "open": "file",
    "exec": "program",
    "exec_failed": "program asked for",
    "connect": "connection",
    "dns": "name asked for",
}
_RUNTIMES = ("runc", "crun", "youki", "containerd-shim", "conmon")


class Alerts:
    """Shows findings once, and again at every tenfold repeat. Bounded: the oldest is forgotten."""

    def __init__(self) -> None:
        self._shown: OrderedDict[str, int] = OrderedDict()

    def known(self, counts: Mapping[str, int]) -> None:
        """Findings, by id, that an earlier run has shown: what comes of them is a repeat."""
        self._shown.update(counts)

    def show(self, finding: Finding | dict[str, Any]) -> None:
        """A finding as detect makes it, or as plain values."""
        plain = msgspec.to_builtins(finding)
        ident, count = plain["id"], plain.get("count") or 1
        before = self._shown.get(ident)
        if before is not None and count < 10 * before:
            return
        # A first finding may have a count already: then the next mark is ten times that.
        self._shown[ident] = count
        self._shown.move_to_end(ident)
        while len(self._shown) > _SEEN:
            self._shown.popitem(last=False)
        _print(plain, "" if before is None else f" again: {count} times by now")


def show_finding(finding: Finding | dict[str, Any]) -> None:
    """One finding, whether it was shown before or not."""
    _print(msgspec.to_builtins(finding), "")


def colour_of(finding: dict[str, Any]) -> str:
    """The style of a finding's priority."""
    return _COLOURS.get(finding.get("severity") or 0, "white")


def chain_of(finding: dict[str, Any]) -> list[dict[str, Any]]:
    """The processes from the outermost to the one that acted; in a container, those within.

    The first container runtime from the top, and what lies above it, is the host's: nothing in a
    container can be above it. `hullwatch findings show` has the whole chain.
    """
    chain = list(reversed(finding.get("processes") or []))
    if finding.get("state") == "host":
        return chain
    runtime = [str(one.get("name") or "").startswith(_RUNTIMES) for one in chain]
    if True not in runtime:
        return chain
    at = runtime.index(True)
    while at < len(chain) - 1 and runtime[at]:
        at += 1
    return chain[at:]


def _print(finding: Any, again: str) -> None:
    from rich.text import Text

    out = console()
    priority = safe(finding.get("priority") or "?").lower()
    head = Text(f"{short_time(finding.get('time'))[11:]}  ")
    head.append(f"{priority:<9}", colour_of(finding))
    head.append(f" {safe(finding.get('rule') or '')}{again}", "bold")
    out.print(head)
    if again:
        return
    for name, value in _facts(finding):
        line = Text(f"{'':14}{name:<15}", "dim")
        line.append(value, "default not dim")
        out.print(line)


def _facts(finding: dict[str, Any]) -> list[tuple[str, str]]:
    facts = []
    if finding.get("state") == "host":
        facts.append(("on the host", ""))
    else:
        name = safe(finding.get("container_name") or "")
        ident = safe(finding.get("container_id") or "")
        if ident in ("", "<NA>"):
            ident = f"not known, cgroup {safe(finding.get('cgroup') or '?')}"
        image = f", image {safe(finding['image'])}" if finding.get("image") else ""
        facts.append(("container", f"{name} {ident}{image}".lstrip()))
    if finding.get("pod"):
        facts.append(("pod", f"{safe(finding.get('namespace') or '?')}/{safe(finding['pod'])}"))
    if finding.get("call"):
        facts.append(("tool call", safe(finding["call"], 200)))
    chain = chain_of(finding)
    if chain:
        facts.append(("processes", " > ".join(_process(one) for one in chain[-6:])))
        command = safe(chain[-1].get("cmdline") or "", 200)
        if command and command != safe(chain[-1].get("name") or ""):
            facts.append(("command", command))
    for step in (finding.get("steps") or [])[:-1]:
        facts.append(("before", step_text(step)))
    event, object_ = finding.get("event") or "", finding.get("object")
    if object_:
        facts.append((_OBJECTS.get(event, event), safe(object_, 200)))
    return facts


def step_text(step: dict[str, Any]) -> str:
    """A step of a sequence: when, what, by whom."""
    who = safe(step.get("process") or "?", 120)
    what = f"{step.get('event') or ''} {safe(step.get('object') or '', 200)}".strip()
    return f"{short_time(step.get('time'))[11:]} {what} by {who} [{step.get('pid')}]"


def _process(one: dict[str, Any]) -> str:
    return f"{safe(one.get('name') or '?')}[{one.get('pid')}]"
