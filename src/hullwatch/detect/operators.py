"""Comparisons: which operators a type has, and the test that one of them is.

After libsinsp/filter_compare.cpp. A test is asked about present values only: a missing value
(Falco's NULL) fails every comparison, `!=` too.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from hullwatch.detect.errors import RuleError
from hullwatch.detect.fields.field import Type
from hullwatch.detect.glob import PatternError, glob_literals, glob_pattern, matcher
from hullwatch.detect.language.ast import Literal

__all__ = ["OPERATORS", "Test", "compare", "parse_value", "test_of"]

_EQUAL = frozenset(("=", "!=", "in", "intersects", "exists"))
_ORDER = frozenset(("<", "<=", ">", ">="))
_TEXT = frozenset(
    ("contains", "icontains", "startswith", "endswith", "glob", "iglob", "regex", "pmatch")
)
OPERATORS: dict[Type, frozenset[str]] = {
    Type.STRING: _EQUAL | _ORDER | _TEXT,
    Type.INT: _EQUAL | _ORDER,
    Type.BOOL: _EQUAL,
    Type.IP: _EQUAL,
    Type.NET: _EQUAL,
}
_BYTES = ("bcontains", "bstartswith")


class Test(NamedTuple):
    """run decides; the rest lets a column ask many tests at once.

    equal: the values that pass. unequal: the value that does not. prefixes, suffixes, parts: a text
    that passes starts with, ends with or holds one of these; exact: and any such text passes.
    """

    run: Callable[[Any], bool]
    equal: frozenset[Any] | None = None
    unequal: Any = None
    prefixes: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    exact: bool = False


class Network(NamedTuple):
    """Of one IP version, as integers."""

    version: int
    address: int
    mask: int

    def holds(self, ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return ip.version == self.version and int(ip) & self.mask == self.address


def parse_value(literal: Literal, kind: Type) -> Any:
    """A literal as a value of a type; raises RuleError."""
    text = literal.text
    try:
        if kind is Type.INT:
            return int(text, 0) if not text.lstrip("+-").isdigit() else int(text)
        if kind is Type.BOOL:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind is Type.IP:
            return ipaddress.ip_address(text)
        if kind is Type.NET:
            net = ipaddress.ip_network(text, strict=False)
            return Network(net.version, int(net.network_address), int(net.netmask))
    except (ValueError, KeyError):
        raise RuleError(f"'{text[:80]}' is not a {kind.value}", literal.place) from None
    return text


def compare(op: str) -> Callable[[Any, Any], bool]:
    """The comparison of two present values, for field to field and for list modifiers."""
    return _COMPARE[op]


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "in": lambda a, b: a == b,
    "intersects": lambda a, b: a == b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "contains": lambda a, b: b in a,
    "icontains": lambda a, b: b.lower() in a.lower(),
    "startswith": lambda a, b: a.startswith(b),
    "endswith": lambda a, b: a.endswith(b),
}


def check_operator(op: str, kind: Type, label: str) -> None:
    """Raises RuleError (without a place) if the type has no such operator."""
    if op in _BYTES:
        raise RuleError(f"operator '{op}' needs a field of bytes, and there is none")
    if op not in OPERATORS[kind]:
        raise RuleError(
            f"operator '{op}' does not fit {label}, a {kind.value}",
            mend=f"one of {', '.join(sorted(OPERATORS[kind]))}",
        )


def test_of(op: str, kind: Type, literals: Sequence[Literal], modifier: str = "") -> Test:
    """The test `VALUE op literals`; raises RuleError for values that do not fit."""
    if op == "exists":
        return Test(lambda value: True)
    if modifier:
        return _with_modifier(op, kind, literals, modifier)
    values = [_operand(op, kind, literal) for literal in literals]
    if kind is Type.NET:
        nets = tuple(values)
        if op == "!=":
            return Test(lambda ip: not nets[0].holds(ip))
        return Test(lambda ip: any(net.holds(ip) for net in nets))
    if op in ("=", "in", "intersects"):
        equal = frozenset(values)
        return Test(equal.__contains__, equal)
    if op == "!=":
        return Test(values[0].__ne__, unequal=values[0])
    if op == "pmatch":
        paths = [str(value) for value in values]
        plain = () if any(char in path for path in paths for char in "*?[") else paths
        return Test(_path_match(paths), prefixes=tuple(path.rstrip("/") or "/" for path in plain))
    text = literals[0].text
    if op == "startswith" and text:
        return Test(_single(op, values[0]), prefixes=(text,), exact=True)
    if op == "endswith" and text:
        return Test(_single(op, values[0]), suffixes=(text,), exact=True)
    if op == "contains" and text:
        return Test(_single(op, values[0]), parts=(text,), exact=True)
    if op == "glob":
        prefix, runs = glob_literals(text)
        part = max(runs, key=len, default="")
        return Test(values[0], prefixes=_given(prefix), parts=() if prefix else _given(part))
    return Test(_single(op, values[0]))


def _operand(op: str, kind: Type, literal: Literal) -> Any:
    value = parse_value(literal, kind)
    if op in ("glob", "iglob", "regex", "pmatch"):
        try:
            if op == "pmatch":
                if any(char in value for char in "*?["):
                    matcher(glob_pattern(value, within=True))
                return value
            pattern = value if op == "regex" else glob_pattern(value)
            return matcher(pattern, ignore_case=op == "iglob")
        except PatternError as problem:
            raise RuleError(f"'{value[:80]}': {problem}", literal.place) from None
    return value


def _given(text: str) -> tuple[str, ...]:
    return (text,) if text else ()


def _single(op: str, value: Any) -> Callable[[Any], bool]:
    if op in ("glob", "iglob", "regex"):
        run: Callable[[Any], bool] = value
        return run
    if op == "contains":
        return lambda text: value in text
    if op == "icontains":
        lowered = value.lower()
        return lambda text: lowered in text.lower()
    if op == "startswith":
        return lambda text: text.startswith(value)
    if op == "endswith":
        return lambda text: text.endswith(value)
    order = _COMPARE[op]
    return lambda given: order(given, value)


def _with_modifier(op: str, kind: Type, literals: Sequence[Literal], modifier: str) -> Test:
    """OP oneof|anyof|allof (...): exactly one, any, all of the single comparisons hold."""
    if op in ("in", "intersects", "pmatch"):
        raise RuleError(f"operator '{op}' takes no '{modifier}'")
    runs = [test_of(op, kind, [literal]).run for literal in literals]
    if modifier == "anyof":
        if op == "=":
            return test_of("in", kind, literals)
        texts = tuple(literal.text for literal in literals)
        if all(texts):
            if op == "startswith":
                return Test(lambda text: text.startswith(texts), prefixes=texts, exact=True)
            if op == "endswith":
                return Test(lambda text: text.endswith(texts), suffixes=texts, exact=True)
            if op == "contains":
                return Test(lambda text: any(one in text for one in texts), parts=texts, exact=True)
        return Test(lambda value: any(run(value) for run in runs))
    if modifier == "allof":
        return Test(lambda value: all(run(value) for run in runs))
    return Test(lambda value: sum(1 for run in runs if run(value)) == 1)


def _path_match(prefixes: list[str]) -> Callable[[str], bool]:
    """True if the path is one of the prefixes or lies below one; whole components only."""
    plain = frozenset(p.rstrip("/") or "/" for p in prefixes if not any(c in p for c in "*?["))
    globs = [
        matcher(glob_pattern(p.rstrip("/"), within=True) + "(?:/.*)?")
        for p in prefixes
        if any(c in p for c in "*?[")
    ]

    def run(path: str) -> bool:
        at = path.rstrip("/") or "/"
        while True:
            if at in plain:
                return True
            head, slash, _ = at.rpartition("/")
            if not slash or at == "/":
                break
            at = head or "/"
        return any(match(path) for match in globs)

    return run
