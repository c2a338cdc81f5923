"""An exception for what is loud: the narrowest condition that covers most of it, tested on history.

Counts only, no guess: what is the same in at least COVER of the findings becomes part of the
condition, in the order of FACETS.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from hullwatch.detect.accounts import HostAccounts
from hullwatch.detect.finding import SEVERITY
from hullwatch.detect.recall import KEPT_FIELDS, recall
from hullwatch.detect.row import Env, Row
from hullwatch.detect.ruleset import RuleSet
from hullwatch.detect.shape import as_glob, shape
from hullwatch.detect.suppress import Suppression, Suppressions
from hullwatch.sensor.events import CLASSES

__all__ = ["Proposal", "Tried", "propose", "try_on"]

COVER = 0.8  # of those that the condition held for so far
LEAST = 0.5  # of all of them, in the end
_PATHS = {
    **dict.fromkeys(("open", "mmap", "mprotect"), "fd.name"),
    **dict.fromkeys(
        ("unlink", "mkdir", "rmdir", "chmod", "chown", "mount", "umount"), "fs.path.name"
    ),
    **dict.fromkeys(("rename", "link", "symlink"), "fs.path.source"),
}
_Body = Mapping[str, Any]
_Check = tuple[str, str, str]  # field, operator, value
_Facet = Callable[[Row], _Check | None]
_Rows = list[tuple[_Body, list[Row]]]


class Tried(NamedTuple):
    """A condition asked of stored findings. Events beyond a finding's kept evidence: `untold`.

    untested: fields that findings do not keep; then the other numbers are 0. others: in what the
    silenced ones differ from each other, in words.
    """

    findings: int
    events: int
    partly: int
    left_findings: int
    left_events: int
    untold: int
    untested: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


class Proposal(NamedTuple):
    """condition '' where nothing is the same in most of it. warnings: read before you apply it."""

    rule: str
    condition: str
    tried: Tried
    warnings: tuple[str, ...]


def _most(facet: _Facet, found: _Rows) -> tuple[_Check | None, _Rows]:
    """The commonest answer, and the findings of which every event gives it: a part of one would
    go on being told."""
    answers = [({facet(row) for row in rows}, (body, rows)) for body, rows in found]
    counts = Counter(
        check
        for seen, _ in answers
        if len(seen) == 1
        for check in seen
        if check is not None and _sayable(check)
    )
    if not counts:
        return None, []
    check = counts.most_common(1)[0][0]
    return check, [one for seen, one in answers if seen == {check}]


def propose(
    rule: str, noise: Sequence[_Body], history: Sequence[_Body], rules: RuleSet
) -> Proposal:
    """From findings of a rule that are loud; tested on all of the rule's."""
    checks: list[_Check] = []
    left = [(body, [one.row for one in recall(body)]) for body in noise]
    left = [(body, rows) for body, rows in left if rows]
    whole = len(left)
    for facets in FACETS:
        for facet in facets:
            check, same = _most(facet, left)
            if check and len(same) >= COVER * len(left) and len(same) >= LEAST * whole:
                left = same
                checks.append(check)
                break
    condition = " and ".join(f"{field} {op} {_quoted(value)}" for field, op, value in checks)
    # A program or an object alone is no exception: it would hold in every container.
    about_what = any(not field.startswith("container.") for field, _, _ in checks)
    about_where = any(field.startswith("container.") for field, _, _ in checks)
    if not (about_what and about_where):
        condition = ""
    tried = try_on(rule, condition, history, rules) if condition else _nothing(history)
    return Proposal(rule, condition, tried, _warnings(noise, tried, condition))


def try_on(rule: str, condition: str, history: Iterable[_Body], rules: RuleSet) -> Tried:
    """What a suppression would have kept quiet; RuleError if the condition cannot be used."""
    env = Env(HostAccounts())
    asked = Suppressions(
        rules,
        [
            Suppression(
                id="x", rule=rule, condition=condition, owner="", reason="", created=0, expires=1
            )
        ],
        env,
    )
    for _, problem in asked.errors:
        raise problem
    untested = tuple(name for name in asked.fields() if name not in KEPT_FIELDS)
    if untested:
        return Tried(0, 0, 0, 0, 0, 0, untested)
    silenced: list[_Body] = []
    partly = findings = events = all_events = untold = total = 0
    for body in history:
        total += 1
        count = int(body.get("count") or 1)
        all_events += count
        kept = list(recall(body))
        quiet = sum(one.events for one in kept if asked.holds("x", one.row))
        events += quiet
        if quiet and quiet == sum(one.events for one in kept):
            findings += 1
            silenced.append(body)
        elif quiet:
            partly += 1
        if quiet:
            untold += max(count - sum(one.events for one in kept), 0)
    others = tuple(_differences(silenced))
    return Tried(
        findings, events, partly, total - findings, all_events - events, untold, (), others
    )


def _nothing(history: Sequence[_Body]) -> Tried:
    events = sum(int(body.get("count") or 1) for body in history)
    return Tried(0, 0, 0, len(history), events, 0)


# --- facets: what may be the same in a row; the widest first ------------------------------


def _image(row: Row) -> _Check | None:
    if row.workload.state == "host":
        return "container.id", "=", "host"
    found = row.workload.image_repository
    return ("container.image.repository", "=", found) if found else None


def _name(row: Row) -> _Check | None:
    return ("proc.name", "=", row.image.name) if row.image and row.image.name else None


def _program(row: Row) -> _Check | None:
    return ("proc.exepath", "=", row.image.exepath) if row.image and row.image.exepath else None


def _parent(row: Row) -> _Check | None:
    parent = row.image.parent if row.image else None
    return ("proc.pname", "=", parent.name) if parent and parent.name else None


def _object(row: Row) -> _Check | None:
    obj = row.obj
    if obj is None:
        return None
    if obj.address is not None and obj.address.ip is not None:
        return "fd.sip", "=", str(obj.address.ip)
    if obj.address is not None:
        return "fd.name", "=", obj.address.path
    field = _PATHS.get(CLASSES[row.event.cls].name)
    return (field, "=", obj.text) if field else None


def _port(row: Row) -> _Check | None:
    obj = row.obj
    if obj is None or obj.address is None or obj.address.ip is None:
        return None
    return "fd.sport", "=", str(obj.address.port)


def _shape(row: Row) -> _Check | None:
    found = _object(row)
    if found is None or found[0] == "fd.sip":
        return None
    pattern = as_glob(shape(found[2]))
    return (found[0], "glob", pattern) if "*" in pattern else None


def _directory(row: Row) -> _Check | None:
    found = _object(row)
    if found is None or found[2].count("/") < 3:
        return None
    return found[0], "startswith", found[2].rpartition("/")[0] + "/"


# Of a group, the first that is the same in most.
FACETS: tuple[tuple[_Facet, ...], ...] = (
    (_image,),
    (_name,),
    (_program,),
    (_parent,),
    (_object, _shape, _directory),
    (_port,),
)


def _sayable(check: _Check) -> bool:
    """Whether its value was kept as it was: an escaped one would mean another."""
    value = check[2]
    return bool(value) and value.isprintable() and not set(value) & set("\\\"'")


def _quoted(value: str) -> str:
    plain = all(char.isalnum() or char in "._/-" for char in value)
    return value if plain else f'"{value}"'


# --- what to look at before it is applied -------------------------------------------------


def _differences(silenced: Sequence[_Body]) -> Iterable[str]:
    facts: tuple[tuple[str, Callable[[_Body], str]], ...] = (
        ("containers", lambda b: str(b.get("container_name") or b.get("container_id") or "")),
        ("images", lambda b: str(b.get("image") or "")),
        ("parents", _parents),
        ("users", lambda b: str(b.get("uid"))),
    )
    for what, get in facts:
        seen = Counter(get(body) for body in silenced)
        if len(seen) > 1:
            listed = "; ".join(value or "(none)" for value, _ in seen.most_common(3))
            yield f"{len(seen)} different {what}: {listed}{' ...' if len(seen) > 3 else ''}"


def _parents(body: _Body) -> str:
    chain = [str(one.get("name") or "?") for one in body.get("processes") or ()]
    return " > ".join(reversed(chain[1:4]))


def _warnings(noise: Sequence[_Body], tried: Tried, condition: str) -> tuple[str, ...]:
    if not condition:
        return ()
    found = list(tried.others)
    worst = max((body for body in noise), key=lambda b: int(b.get("severity") or 0), default={})
    if int(worst.get("severity") or 0) >= SEVERITY["CRITICAL"]:
        found.insert(0, f"these are {str(worst.get('priority')).lower()}: look at each first")
    if tried.untold:
        found.append(f"{tried.untold} more events are not in the findings, so nobody looked")
    return tuple(found)
