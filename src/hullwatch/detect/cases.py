"""Test cases beside rules: `NAME.test.yaml` for `NAME.yaml`.

A file is a sequence of

    - rule: Shell spawned by an agent
      cases:
        - name: python starts sh
          expect: match            # or: no match
          container: {image: ghcr.io/acme/agent:1}      # none: the host; or the word `pending`
          process:
            name: sh
            args: [sh, -c, id]
            ancestors: [{name: python3, args: [python3, agent.py]}]   # nearest first
          event: {type: execve}    # or `events:` with several
          baseline: {exec: [/usr/bin/python3], locked: true}    # see baseline/given.py

A rule over time needs more: `processes:`, a mapping of names to processes (each may have
`parent: NAME` and `container: NAME`), `containers:` for more than one, and in each event
`by: NAME` and `after: 90s` (since the event before; `times: N` repeats it, so far apart).

An event's keys: type (a system call or event class) and then, as they apply: path, raw, to, from,
flags, access (read|write), mode, result (a number or ENOENT), old, new, target, link, source,
domain, socket (tcp|udp|unix|packet|raw), request, command, uid, old_fd, dns, names, marks,
labels (of the process; or new, of a label event), way (took|gave),
action and done (of a policy event: open-read, connect ...; observed|denied|killed|dropped),
server, subject, signal (`kind: detail`), in_call (a mapping: name, server, kind, source, status).
Cases are run by the real engine over a batch of the real dtypes.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hullwatch.detect import names
from hullwatch.detect.accounts import HostAccounts, User
from hullwatch.detect.baseline.baselines import image_key
from hullwatch.detect.baseline.given import fill
from hullwatch.detect.engine import Engine
from hullwatch.detect.errors import Place, RuleError, did_you_mean
from hullwatch.detect.fields.event import types_of
from hullwatch.detect.fields.field import ALL
from hullwatch.detect.language.document import MAX_FILE
from hullwatch.detect.language.sequences import duration
from hullwatch.detect.ruleset import RuleSet
from hullwatch.detect.scene import START, WALL, Scene
from hullwatch.sensor.events import BY_NAME, POLICY_ACTIONS, POLICY_DONE
from hullwatch.sensor.labels import bits_of
from hullwatch.sensor.syscalls import OPS
from hullwatch.sensor.wire import Class, LabelWay, Mark, ProcMark, StrKind

__all__ = ["Case", "Result", "read_cases", "run_cases"]

_SOCKETS = {
    "tcp": (2, 1, 6),
    "tcp6": (10, 1, 6),
    "udp": (2, 2, 17),
    "udp6": (10, 2, 17),
    "unix": (1, 1, 0),
    "packet": (17, 3, 0),
    "raw": (2, 3, 1),
}
_ACCOUNTS = HostAccounts(
    {0: User("root", "/root", "/bin/sh"), 1000: User("app", "/home/app", "/bin/sh")},
    {0: "root", 1000: "app"},
)
_MARKS = {"memfd": ProcMark.MEMFD, "upper": ProcMark.UPPER, "writable": ProcMark.WRITABLE}


@dataclass(frozen=True, slots=True)
class Case:
    rule: str
    name: str
    expect: bool
    place: Place
    given: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """ok: the engine did as the case expects. also: other rules that matched."""

    case: Case
    ok: bool
    matched: bool
    also: tuple[str, ...] = ()
    error: str = ""


def read_cases(path: str | Path) -> list[Case]:
    """The cases of one file; raises RuleError."""
    place = Place(str(path))
    try:
        with Path(path).open("rb") as file:
            text = file.read(MAX_FILE).decode()
        found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as problem:
        raise RuleError(f"cannot be read: {str(problem).splitlines()[0]}", place) from None
    if not isinstance(found, list):
        raise RuleError("a file of cases must be a sequence", place)
    cases: list[Case] = []
    for group in found:
        if not isinstance(group, dict) or "rule" not in group or not group.get("cases"):
            raise RuleError("each item needs 'rule' and 'cases'", place)
        if not isinstance(group["cases"], list):
            raise RuleError(f"rule '{group['rule']}': 'cases' must be a sequence", place)
        for one in group["cases"]:
            if not isinstance(one, dict):
                raise RuleError(
                    f"rule '{group['rule']}': each case must be a mapping such as '- name: ...'",
                    place,
                )
            name = str(one.get("name", "?"))
            if one.get("expect") not in ("match", "no match"):
                raise RuleError(f"case '{name}': expect must be 'match' or 'no match'", place)
            cases.append(Case(str(group["rule"]), name, one["expect"] == "match", place, one))
    return cases


def run_cases(rules: RuleSet, files: Iterable[str | Path]) -> Iterator[Result]:
    """Run each case of the files against the set; a file that is broken raises RuleError."""
    for file in files:
        for case in read_cases(file):
            yield run_case(rules, case)


def run_case(rules: RuleSet, case: Case) -> Result:
    known = [rule.name for rule in rules.rules]
    if case.rule not in known:
        hint = did_you_mean(case.rule, known)
        return Result(case, False, False, error=f"there is no rule '{case.rule}'. {hint}".strip())
    try:
        scene = build(case)
        engine = Engine(rules, _ACCOUNTS)
        if "baseline" in case.given:
            image = image_key(scene.workload(len(scene.workloads) - 1))
            fill(engine.baselines, image, case.given["baseline"], WALL)
    except RuleError as problem:
        return Result(case, False, False, error=problem.message)
    found = {match.rule.name for match in engine.judge(scene.enriched())}
    matched = case.rule in found
    return Result(case, matched == case.expect, matched, tuple(sorted(found - {case.rule})))


def build(case: Case) -> Scene:
    """The scene of a case; raises RuleError for what it does not know."""
    scene = Scene()
    given = case.given
    _only(given, _CASE_KEYS, "case")
    workload = _container(scene, given.get("container"))
    images = _processes(scene, given, workload)
    events = given.get("events") or [given.get("event")]
    for event in events:
        if not isinstance(event, dict) or "type" not in event:
            raise RuleError("an event needs a 'type'", case.place)
        image = images.get(str(event.get("by", "")))
        if image is None:
            raise RuleError(
                f"there is no process '{event['by']}'. {did_you_mean(str(event['by']), images)}"
            )
        apart = duration(str(event["after"]), case.place) if "after" in event else None
        for _ in range(int(event.get("times", 1))):
            if apart is not None:
                scene.wait(apart)
            _event(scene, image, event)
    return scene


_CASE_KEYS = {
    *("name", "expect", "container", "process", "event", "events", "containers", "processes"),
    "baseline",
}


def _container(scene: Scene, given: Any) -> int:
    if given == "pending":
        return scene.container(state="pending")
    return scene.container(**given) if given else 0


def _processes(scene: Scene, given: dict[str, Any], workload: int) -> dict[str, int]:
    """Slots by name; '' is the one that `process` describes."""
    containers = {
        name: _container(scene, one) for name, one in (given.get("containers") or {}).items()
    }
    images: dict[str, int] = {}
    for name, one in (given.get("processes") or {}).items():
        fields = dict(one)
        of = fields.pop("container", None)
        if of is not None and of not in containers:
            raise RuleError(f"there is no container '{of}'. {did_you_mean(str(of), containers)}")
        above = fields.get("parent")
        if above is not None:
            if above not in images:
                raise RuleError(f"process '{name}': its parent '{above}' must stand before it")
            fields["parent"] = images[above]
        images[str(name)] = _process(scene, fields, containers[of] if of else workload)
    images[""] = _process(scene, given.get("process") or {"name": "test"}, workload)
    return images


def _only(given: dict[str, Any], known: set[str], what: str) -> None:
    for key in given:
        if key not in known:
            raise RuleError(f"unknown key '{key}' of a {what}. {did_you_mean(key, known)}".strip())


def _process(scene: Scene, given: dict[str, Any], workload: int) -> int:
    _only(
        given,
        {
            *("name", "exepath", "args", "cwd", "env", "uid", "tty", "caps", "marks", "script"),
            *("vpid", "age", "ancestors", "loginuid", "parent"),
        },
        "process",
    )
    parent = None
    for above in reversed(given.get("ancestors") or []):
        one = dict(above)
        if parent is not None:
            one["parent"] = parent
        parent = _one_process(scene, one, workload)
    one = {key: value for key, value in given.items() if key != "ancestors"}
    if "parent" in given and parent is not None:
        raise RuleError("a process has either a parent or ancestors")
    if parent is not None:
        one["parent"] = parent
    return _one_process(scene, one, workload)


def _one_process(scene: Scene, given: dict[str, Any], workload: int) -> int:
    name = str(given.get("name", "test"))
    fields: dict[str, Any] = {
        "workload": workload,
        "argv": tuple(map(str, given.get("args", [name]))),
    }
    if "parent" in given:
        fields["parent"] = given["parent"]
    for key in ("exepath", "cwd", "script", "tty", "vpid", "loginuid"):
        if key in given:
            fields[key] = given[key]
    if "env" in given:
        fields["env_names"] = tuple(given["env"])
    if "uid" in given:
        fields["uid"] = fields["euid"] = fields["gid"] = fields["egid"] = given["uid"]
    if "caps" in given:
        bits = (1 << 41) - 1 if given["caps"] == "all" else names.capability_bits(given["caps"])
        fields["cap_effective"] = fields["cap_permitted"] = bits
    if "marks" in given:
        fields["marks"] = sum(int(_MARKS[mark]) for mark in given["marks"])
    if "age" in given:
        fields["started"] = fields["exec_ts"] = START - int(float(given["age"]) * 1e9)
    return scene.process(name, **fields)


def _event(scene: Scene, image: int, given: dict[str, Any]) -> None:
    kind = str(given["type"])
    classes = [cls for cls in sorted(ALL) if kind in types_of(cls)]
    if kind in BY_NAME:
        classes = [BY_NAME[kind].cls]
    if not classes:
        raise RuleError(f"'{kind}' is no event. {did_you_mean(kind, BY_NAME)}".strip())
    cls = int(classes[0])
    made: dict[str, Any] = {"call": kind if kind in OPS else ""}
    for key, value in given.items():
        if key in ("type", "by", "after", "times"):
            continue
        setter = _SETTERS.get(key)
        if setter is None:
            raise RuleError(
                f"unknown key '{key}' of an event. {did_you_mean(key, _SETTERS)}".strip()
            )
        setter(scene, cls, made, value)
    if cls == Class.EXEC and made.get("ret", 0) < 0:
        cls = int(Class.EXEC_FAILED)
    if cls == Class.OPEN and "ret" not in made:
        made["ret"] = 3
    if cls in (
        Class.CONNECT,
        Class.ACCEPT,
        Class.SEND,
        Class.BIND,
        Class.LISTEN,
        Class.DUP,
        Class.FLOW,
    ):
        made.setdefault("flags", _socket_of(given))
    if cls == Class.LABEL and "to" in given:
        made["flags"] = made.get("flags", 0) | _socket_of(given) & ~0xFFFF
    scene.event(cls, image, **made)


def _socket_of(given: dict[str, Any]) -> int:
    end = str(given.get("to") or given.get("server") or "")
    default = "unix" if end[:1] in ("/", "@") else "tcp6" if end.startswith("[") else "tcp"
    family, kind, protocol = _SOCKETS[str(given.get("socket", default))]
    return family << 16 | kind << 8 | protocol


def _path(column: str) -> Any:
    def put(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
        made[column] = scene.string(str(value))

    return put


def _number(column: str) -> Any:
    def put(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
        made[column] = int(value)

    return put


def _to(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
    made["obj"] = scene.address(str(value))


def _from(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
    host, _, port = str(value).rpartition(":")
    made["obj2"] = scene.address(host)
    made["port"] = int(port)


def _flags(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
    table = {
        Class.OPEN: names.OPEN_FLAGS,
        Class.UNSHARE: names.CLONE_FLAGS,
        Class.SETNS: names.NAMESPACES,
        Class.MOUNT: names.MOUNT_FLAGS,
        Class.MMAP: names.MMAP_PROT,
        Class.MPROTECT: names.MMAP_PROT,
    }.get(cls, ())
    access = ("O_RDONLY", "O_WRONLY", "O_RDWR")
    words = [word for word in value if word not in access]
    bits = sum(access.index(word) for word in value if word in access)
    try:
        made["flags"] = made.get("flags", 0) | bits | names.bits(words, table)
    except KeyError as problem:
        raise RuleError(f"unknown flag {problem}") from None


def _access(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
    made["flags"] = made.get("flags", 0) | {"read": 0, "write": 1, "both": 2}[value]


def _mode(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
    made["flags"] = names.bits(value, names.MODE_BITS) if isinstance(value, list) else int(value)


def _result(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
    made["ret"] = -getattr(errno, value) if isinstance(value, str) else int(value)


def _socket(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
    family, kind, protocol = _SOCKETS[str(value)]
    made["flags"] = family << 16 | kind << 8 | protocol


def _request(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
    made["num"] = {name: number for number, name in names.PTRACE.items()}[str(value)]


def _command(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
    made["num"] = {name: number for number, name in names.BPF_COMMANDS.items()}[str(value)]


def _text(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
    made["obj"] = scene.string(str(value), int(StrKind.DNS))


def _domain(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
    made["name"] = str(value)


def _said(column: str) -> Any:
    def put(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
        made[column] = scene.string(str(value), int(StrKind.TEXT))

    return put


def _in_call(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
    _only(value, {"name", "server", "kind", "source", "status"}, "call")
    made["span"] = scene.call(**value)


def _labels(column: str) -> Any:
    def put(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
        try:
            made[column] = bits_of(value)
        except ValueError as problem:
            raise RuleError(str(problem)) from None

    return put


def _new(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
    (_labels("num") if cls == Class.LABEL else _path("obj2"))(scene, cls, made, value)


def _way(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
    made["flags"] = made.get("flags", 0) | int(LabelWay[str(value).upper()])


def _numbered(names: dict[int, str], shift: int) -> Any:
    numbers = {name: number << shift for number, name in names.items()}

    def put(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
        if value not in numbers:
            raise RuleError(f"'{value}' is none of {', '.join(numbers)}")
        made["flags"] = made.get("flags", 0) | numbers[value]

    return put


def _marks(scene: Scene, cls: int, made: dict[str, Any], value: Any) -> None:
    made["marks"] = sum(int(Mark[str(word).upper()]) for word in value)


_SETTERS: dict[str, Any] = {
    "path": _path("obj"),
    "raw": _path("obj2"),
    "old": _path("obj"),
    "new": _new,
    "target": _path("obj"),
    "link": _path("obj2"),
    "source": _path("obj2"),
    "to": _to,
    "server": _to,
    "from": _from,
    "flags": _flags,
    "access": _access,
    "mode": _mode,
    "result": _result,
    "socket": _socket,
    "request": _request,
    "command": _command,
    "uid": _number("num"),
    "old_fd": _number("num"),
    "dns": _text,
    "domain": _domain,
    "marks": _marks,
    "labels": _labels("labels"),
    "way": _way,
    "action": _numbered(POLICY_ACTIONS, 0),
    "done": _numbered(POLICY_DONE, 16),
    "subject": _said("obj"),
    "signal": _said("obj2"),
    "in_call": _in_call,
}
