"""Events for Sigma rules, made from the rules' own values: meeting ones, and near misses.

An event is a dict of Sigma's field names; `add` puts the same event into a scene, as the sensor
would tell it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

from sigma.conditions import (
    ConditionAND,
    ConditionFieldEqualsValueExpression,
    ConditionNOT,
    ConditionOR,
)
from sigma.types import SigmaNumber, SigmaRegularExpression, SigmaString, SpecialChars

from hullwatch.detect.accounts import HostAccounts, User
from hullwatch.detect.scene import Scene
from hullwatch.sensor.wire import Class
from support.sigma_plain import Event, Plain, matches

__all__ = [
    "ACCOUNTS",
    "BASE",
    "add",
    "choices",
    "event_of",
    "literals",
    "meeting",
    "near_miss",
    "spoilt",
]

ACCOUNTS = HostAccounts(
    {0: User("root", "/root", "/bin/sh"), 1000: User("app", "/home/app", "/bin/sh")},
    {0: "root", 1000: "app"},
)
_PROCESS: Event = {
    "Image": "/opt/none",
    "CommandLine": "none",
    "ParentImage": "/opt/parent",
    "ParentCommandLine": "parent",
    "CurrentDirectory": "/srv",
    "LogonId": 1000,
    "User": "app",
}
_ENDS: Event = {
    "DestinationIp": "203.0.113.5",
    "DestinationPort": 80,
    "SourceIp": "10.0.0.9",
    "SourcePort": 40000,
}
# An event of each log source that no rule is about.
BASE: dict[str, Event] = {
    "process_creation": _PROCESS,
    "file_event": {**_PROCESS, "TargetFilename": "/srv/none"},
    "network_connection": {**_PROCESS, **_ENDS, "Initiated": "true", "Protocol": "tcp"},
}
_MAX_CHOICES = 4000


def add(scene: Scene, category: str, event: Event, how: int = 0) -> None:
    """how: which of the ways in which such an event comes about (open, rename ...)."""
    uid = int(event["LogonId"])
    ids = {"uid": uid, "euid": uid}
    parent = scene.process(
        "parent",
        exepath=event["ParentImage"],
        argv=tuple(event["ParentCommandLine"].split(" ")),
    )
    image = scene.process(
        "child",
        parent=parent,
        exepath=event["Image"],
        argv=tuple(event["CommandLine"].split(" ")),
        cwd=event["CurrentDirectory"],
        **ids,
    )
    if category == "process_creation":
        scene.event(Class.EXEC, image, call=("execve", "execveat")[how % 2])
    elif category == "file_event":
        path = scene.string(event["TargetFilename"])
        if how % 3 == 0:
            scene.event(Class.OPEN, image, call="openat", obj=path, obj2=path, ret=3, flags=0o1101)
        elif how % 3 == 1:
            scene.event(Class.OPEN, image, call="open", obj=path, obj2=path, ret=3, flags=0o2001)
        else:
            scene.event(Class.RENAME, image, call="rename", obj=scene.string("/srv/x"), obj2=path)
    else:
        server = event["DestinationIp"]
        server = f"[{server}]" if ":" in server else server
        udp = event["Protocol"] == "udp"
        family = 10 if ":" in server else 2
        out = event["Initiated"] == "true"
        scene.event(
            (Class.SEND if udp else Class.CONNECT) if out else Class.ACCEPT,
            image,
            call=("sendto" if udp else "connect") if out else "accept4",
            obj=scene.address(f"{server}:{event['DestinationPort']}"),
            obj2=scene.address(event["SourceIp"]),
            port=int(event["SourcePort"]),
            flags=family << 16 | (2 << 8 | 17 if udp else 1 << 8 | 6),
            name=event.get("DestinationHostname") or "",
        )


# Values that meet a leaf


def leaves(tree: Any) -> Iterator[ConditionFieldEqualsValueExpression]:
    if isinstance(tree, ConditionFieldEqualsValueExpression):
        yield tree
    else:
        for one in tree.args:
            yield from leaves(one)


def literals(rules: list[Plain]) -> dict[str, list[str]]:
    """By field: every text of the rules' values, and an example for every pattern."""
    found: dict[str, dict[str, None]] = {}
    for rule in rules:
        for leaf in leaves(rule.tree):
            found.setdefault(leaf.field, {}).update(dict.fromkeys(_texts(leaf.value)))
    return {field: list(texts) for field, texts in found.items()}


def _texts(value: Any) -> list[str]:
    match value:
        case SigmaRegularExpression():
            return [example(value.regexp.to_plain(regex=True))]
        case SigmaString():
            return [part for part in value.s if isinstance(part, str)]
        case SigmaNumber():
            return [str(value.number)]
    network = getattr(value, "network", None)
    return [str(network[1])] if network is not None and network.num_addresses > 1 else []


def example(pattern: str) -> str:
    """The shortest text that a regular expression matches."""
    parser: Any = re._parser  # type: ignore[attr-defined]
    return "".join(_example(parser.parse(pattern)))


def _example(parsed: Any) -> Iterator[str]:
    for kind, given in parsed:
        match str(kind):
            case "LITERAL":
                yield chr(given)
            case "ANY" | "NOT_LITERAL":
                yield "a"
            case "IN":
                yield _member(given)
            case "MAX_REPEAT" | "MIN_REPEAT":
                yield from list(_example(given[2])) * given[0]
            case "SUBPATTERN":
                yield from _example(given[-1])
            case "BRANCH":
                yield from _example(given[1][0])
            case other:
                raise AssertionError(other)


def _member(given: Any) -> str:
    kind, value = given[0]
    match str(kind):
        case "LITERAL":
            return chr(value)
        case "RANGE":
            return chr(value[0])
        case "CATEGORY":
            return " "
    return "a"  # negated: none of the rules' sets forbids it


# A whole event


def meeting(rule: Plain) -> tuple[Event, list[ConditionFieldEqualsValueExpression]]:
    """An event that the rule matches, and the leaves that it was made to meet."""
    for chosen in itertools.islice(choices(rule.tree), _MAX_CHOICES):
        event = event_of(rule.category, chosen)
        if matches(rule.tree, event):
            return event, chosen
    raise AssertionError(f"{rule.title}: no event meets it")


def choices(tree: Any) -> Iterator[list[ConditionFieldEqualsValueExpression]]:
    """Sets of leaves that meet the tree if all of them hold; what is negated is left to chance."""
    match tree:
        case ConditionFieldEqualsValueExpression():
            yield [tree]
        case ConditionNOT():
            yield []
        case ConditionOR():
            for one in tree.args:
                yield from choices(one)
        case ConditionAND():
            for parts in itertools.product(*(_some(one) for one in tree.args)):
                yield [leaf for part in parts for leaf in part]


def _some(tree: Any) -> list[list[ConditionFieldEqualsValueExpression]]:
    return list(itertools.islice(choices(tree), 40))


def event_of(category: str, chosen: list[ConditionFieldEqualsValueExpression]) -> Event:
    """An event of the log source made to meet all of the leaves, as far as one can."""
    event = dict(BASE[category])
    fields: dict[str, list[Any]] = {}
    for leaf in chosen:
        fields.setdefault(leaf.field, []).append(leaf.value)
    for field, values in fields.items():
        event[field] = _text(values)
    return _consistent(event)


def _text(values: list[Any]) -> str:
    """One text that meets all, if that is not too simple: head, what it has to hold, tail."""
    whole: list[str] = []
    heads: list[str] = []
    inner: list[str] = []
    tails: list[str] = []
    for value in values:
        if not isinstance(value, SigmaString):
            inner += _texts(value)
            continue
        any_ = SpecialChars.WILDCARD_MULTI
        text = "".join(part if isinstance(part, str) else "x" for part in value.s if part != any_)
        before, after = value.s[0] == any_, value.s[-1] == any_
        side = {(False, False): whole, (False, True): heads, (True, False): tails}
        side.get((before, after), inner).append(text)
    if whole:
        return whole[0]
    # One that has the other in it serves both.
    heads = [max(heads, key=len)] if heads else []
    tails = [max(tails, key=len)] if tails else []
    return "".join((*heads, " ".join(inner), *tails))


def _consistent(event: Event) -> Event:
    """One user has one number; numbers are numbers."""
    if event["User"] == "root" or str(event["LogonId"]) == "0":
        event["User"], event["LogonId"] = "root", 0
    else:
        event["User"], event["LogonId"] = "app", 1000
    for port in ("DestinationPort", "SourcePort"):
        if port in event:
            event[port] = int(event[port])
    return event


def near_miss(rule: Plain) -> Event:
    """The meeting event with one thing that the rule asks for spoilt; the rule misses it."""
    event, chosen = meeting(rule)
    for leaf in chosen:
        for missed in spoilt(rule, event, leaf):
            return missed
    raise AssertionError(f"{rule.title}: every change still meets it")


def spoilt(rule: Plain, event: Event, leaf: ConditionFieldEqualsValueExpression) -> Iterator[Event]:
    """The event with one character changed of what the leaf asks for: those that the rule misses,
    from the first character on."""
    given = str(event[leaf.field])
    for text in filter(None, _texts(leaf.value)):
        at = given.lower().find(text.lower())
        for place in range(at, at + len(text)) if at >= 0 else ():
            missed = _consistent({**event, leaf.field: _spoilt(leaf.field, given, place)})
            if missed != event and not matches(rule.tree, missed):
                yield missed


def _spoilt(field: str, given: str, place: int) -> Any:
    if field.endswith("Port"):
        return int(given) + 1
    if field.endswith("Ip"):
        return "127.0.0.1"
    if field.endswith("Hostname"):
        return given[:place] + "q" + given[place + 1 :]
    return given[:place] + "~" + given[place + 1 :]
