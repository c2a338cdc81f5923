"""Sigma events made to happen: what a container's programs do so that the sensor tells the event.

The program is `actor.c` under the event's name, started by another copy under the parent's. An
event made from a rule's values may be an unlikely one, such as a file named "ebpfbackdoor" that
lies nowhere: `hit` and `near` put such into a folder of the act, as far as the rule allows.
"""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from support.sigma_events import BASE, meeting, spoilt
from support.sigma_excepted import excepted, is_excepted
from support.sigma_plain import Event, Plain, matches

__all__ = ["ACTOR", "NAMED", "Act", "compile_actor", "hit", "near", "prepare"]

ACTOR = "/opt/actor"
SHM = "/dev/shm"
NAMED = "203.0.113.9"
"""The address of every name (driver.py serves them)."""
_SOURCE = Path(__file__).with_name("actor.c")
_PATHS = ("Image", "ParentImage", "TargetFilename", "CurrentDirectory")
_FIRST_PORT = 20000


@dataclass(frozen=True)
class Act:
    """event: of the rule's log source, with the values that it will have. What the kernel chooses
    (the source's address and port) is not in it, and no rule asks for it."""

    category: str
    event: Event

    @property
    def object(self) -> str:
        """What findings name as the object of the event."""
        match self.category:
            case "file_event":
                return str(self.event["TargetFilename"])
            case "network_connection":
                return f"{self.event['DestinationIp']}:{self.event['DestinationPort']}"
        return str(self.event["Image"])

    def events(self) -> Iterator[tuple[str, Event, str]]:
        """All that it consists of, as (log source, event, object)."""
        process = {name: self.event[name] for name in BASE["process_creation"]}
        parent = {
            **process,
            "Image": process["ParentImage"],
            "CommandLine": process["ParentCommandLine"],
            "ParentImage": ACTOR,
            "ParentCommandLine": ACTOR,
        }
        yield "process_creation", parent, parent["Image"]
        yield "process_creation", process, process["Image"]
        if self.category != "process_creation":
            yield self.category, self.event, self.object

    def code(self) -> str:
        """For driver.py."""
        event = self.event
        deeds = [
            ("as", str(event["LogonId"])),
            ("in", event["CurrentDirectory"]),
            ("exec", event["ParentImage"], *event["ParentCommandLine"].split(" ")),
            ("exec", event["Image"], *event["CommandLine"].split(" ")),
        ]
        before = ""
        if self.category == "file_event":
            deeds.append(("open", event["TargetFilename"]))
        elif self.category == "network_connection":
            deeds.append(("connect", event["DestinationIp"], str(event["DestinationPort"])))
            before = f"listen({event['DestinationPort']}); "
            if name := event.get("DestinationHostname"):
                before += f"assert resolve({name!r}) == {event['DestinationIp']!r}; "
        assert not any(set("\t\n\0") & set(word) for deed in deeds for word in deed)
        told = "\n".join("\t".join(deed) for deed in deeds)
        return f"{before}os.environ['ACT'] = {told!r}; assert run({ACTOR!r}) == 0"


def hit(rule: Plain, number: int) -> Act:
    """The rule's meeting event. number: of the act; its paths and ports are its own by it."""
    return Act(rule.category, _meeting(rule, number)[0])


def near(rule: Plain, number: int) -> list[Act]:
    """The same with one thing spoilt, for each thing that the rule asks for and that can be; and
    with what each of its filters excepts."""
    made: list[Event] = []
    event, chosen = meeting(rule)
    _, kept = _meeting(rule, number)
    for leaf in chosen:
        for missed in spoilt(rule, event, leaf):
            lived = _lived(missed, event, number + len(made), kept)
            if _is_likely(missed, event) and not matches(rule.tree, lived):
                made.append(lived)
                break
    for given, met in excepted(rule):
        wanted = partial(is_excepted, rule, chosen=met)
        made.append(_first_lived(given, event, number + len(made), wanted)[0])
    return [Act(rule.category, one) for one in made]


def _is_likely(missed: Event, event: Event) -> bool:
    """Connections are always made by the program itself, and an absolute path stays one."""
    return missed.get("Initiated") == event.get("Initiated") and all(
        missed[field].startswith("/") or not event[field].startswith("/")
        for field in _PATHS
        if field in event
    )


def _meeting(rule: Plain, number: int) -> tuple[Event, frozenset[str]]:
    event = meeting(rule)[0]
    return _first_lived(event, event, number, partial(matches, rule.tree))


def _first_lived(
    event: Event, met: Event, number: int, wanted: Callable[[Event], bool]
) -> tuple[Event, frozenset[str]]:
    """The event as it can happen and is still as wanted; with as few fields as can be kept."""
    fields = (*_PATHS, "CommandLine", "DestinationPort")
    for count in range(len(fields) + 1):
        for kept in map(frozenset, itertools.combinations(fields, count)):
            if wanted(lived := _lived(event, met, number, kept)):
                return lived, kept
    raise AssertionError(f"cannot be acted: {event}")


def _lived(event: Event, met: Event, number: int, kept: frozenset[str]) -> Event:
    """The event as it can happen. met: the meeting one, whose program names itself.

    kept: the fields that stay as they are.
    """
    made = {name: value for name, value in event.items() if not name.startswith("Source")}
    for field in _PATHS:
        if field in event:
            made[field] = _path(event[field], number, field in kept)
    if "CommandLine" not in kept:
        made["CommandLine"] = f"{Path(met['Image']).name or 'none'} {event['CommandLine']}"
    if "DestinationPort" in event and "DestinationPort" not in kept:
        made["DestinationPort"] = _FIRST_PORT + number
    if name := event.get("DestinationHostname"):
        made["DestinationHostname"] = f"a{name}" if name.startswith(".") else name
        made["DestinationIp"] = NAMED
    return made


def _word(number: int) -> str:
    """As letters: findings whose paths differ in numbers only are one."""
    return "".join("ghijklmnop"[int(digit)] for digit in str(number))


def _path(path: str, number: int, kept: bool) -> str:
    path = path.replace("//", "/")
    if kept:
        return f"/{path.removeprefix('/')}" + (_word(number) if path.endswith("/") else "")
    return f"/act/{_word(number)}/{path.lstrip('/')}" + ("x" if path.endswith("/") else "")


def compile_actor(target: Path) -> Path:
    compiler = shutil.which("clang") or shutil.which("cc")
    assert compiler is not None
    command = [compiler, "-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror"]
    subprocess.run([*command, "-o", str(target), str(_SOURCE)], check=True)
    return target


def prepare(root: Path, shm: Path, actor: Path, acts: Iterable[Act]) -> None:
    """Put programs and folders into a container's root folder. shm: what will be its /dev/shm."""

    def place(path: str) -> Path:
        home = shm if path.startswith(f"{SHM}/") else root
        return home / path.removeprefix(f"{SHM}/").lstrip("/")

    original = root / ACTOR.lstrip("/")
    original.parent.mkdir(exist_ok=True)
    shutil.copy(actor, original)
    for act in acts:
        (root / act.event["CurrentDirectory"].lstrip("/")).mkdir(parents=True, exist_ok=True)
        if act.category == "file_event":
            folder = place(act.event["TargetFilename"]).parent
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o1777)  # the program is not root
        for image in (act.event["Image"], act.event["ParentImage"]):
            target = place(image)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            if target.is_relative_to(root):
                os.link(original, target)
            else:
                shutil.copy(actor, target)
