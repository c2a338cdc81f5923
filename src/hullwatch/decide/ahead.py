"""What the kernel asks, answered beforehand.

The kernel knows of an object only what a table tells it: which patterns a path fits, which network
an address is in, which port is one of those that policies name. Here the policies are read for what
they tell apart, so that one question stands for all objects that no policy can tell from each
other. Cedar answers each; what its answers come to is weighed in the kernel, as `weigh` does.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntFlag
from typing import Any, NamedTuple

import cedarpy
import msgspec

from hullwatch.decide.engine import Answer, Engine
from hullwatch.decide.policy import Policy
from hullwatch.decide.question import Effect, Entity, Fail, Mode

__all__ = ["ACTIONS", "PATH_ACTIONS", "Held", "Holds", "Needs", "holds", "needs"]

PATH_ACTIONS = ("exec", "open-read", "open-write", "privilege")
ACTIONS = (*PATH_ACTIONS, "connect", "listen")
"""That the kernel asks about."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Holds(IntFlag):
    """Which policies hold: enum hw_holds of kernel/wire.h, which a test holds this to."""

    BLOCK = 1
    PERMIT = 2
    LISTED = 4
    WOULD_BLOCK = 8
    WOULD_PERMIT = 16
    WOULD_LIST = 32


class Held(NamedTuple):
    """now, and once the agent is gone: only policies that fail closed stop anything then."""

    now: Holds
    orphaned: Holds


class Needs(NamedTuple):
    """What a policy tells apart. paths: patterns of sensor/patterns.py. principal: by who it is.
    unheld: why the kernel cannot ask it; '' if it can."""

    paths: frozenset[str] = frozenset()
    networks: frozenset[Network] = frozenset()
    ports: frozenset[int] = frozenset()
    labels: frozenset[str] = frozenset()
    upper: bool = False
    principal: bool = False
    unheld: str = ""


def holds(policies: Iterable[Policy], answer: Answer, principal: Entity) -> Held:
    """What these policies of an answer are to the kernel: `weigh`, taken apart (engine.py).

    Nobody can be asked there, so a challenge that is enforced fails: closed, it blocks.
    """
    now = orphaned = Holds(0)
    permits_last = True
    for one in policies:
        permit = one.does is Effect.ALLOW
        enforced = one.mode is Mode.ENFORCE
        strict = Fail.OPEN if permit else Fail.CLOSED
        held = one.id in answer.matched or (one.id in answer.failed and one.fail is strict)
        bits = Holds(0)
        if permit:
            if one.principal.fits(principal.kind, principal.id):
                bits |= Holds.WOULD_LIST | (Holds.LISTED if enforced else 0)
                permits_last = permits_last and (one.fail is Fail.CLOSED or not enforced)
            if held:
                bits |= Holds.WOULD_PERMIT | (Holds.PERMIT if enforced else 0)
            orphaned |= bits
        elif held:
            stops = enforced and (one.does is Effect.BLOCK or one.fail is Fail.CLOSED)
            bits = Holds.BLOCK if stops else Holds.WOULD_BLOCK
            if one.fail is Fail.CLOSED:
                orphaned |= bits
        now |= bits
    if not permits_last:  # one that fails open: its list ends with the agent
        orphaned &= ~Holds.LISTED
    return Held(now, orphaned)


def needs(engine: Engine) -> dict[str, Needs]:
    """Of each policy about an action of the kernel, by its id."""
    return {
        one.id: _needs(one)
        for one in engine.policies.values()
        if any(action in ACTIONS for action in one.actions)
    }


class _Unheld(Exception):
    pass


_TOLD = frozenset(
    "labels kind image image_digest container namespace hour weekday privilege".split()
)
"""Of a question's context. Where a policy asks for more, the answer is not known beforehand."""


def _of_context(node: Any) -> set[str]:
    """Attributes of the context that a condition names, `has` too."""
    found: set[str] = set()
    stack = [node]
    while stack:
        one = stack.pop()
        if isinstance(one, list):
            stack.extend(one)
        elif isinstance(one, dict):
            stack.extend(one.values())
            if one.get("left") == {"Var": "context"} and isinstance(one.get("attr"), str):
                found.add(one["attr"])
    return found


def _needs(policy: Policy) -> Needs:
    parsed = msgspec.json.decode(cedarpy.policies_to_json_str(policy.matcher))
    (said,) = parsed["staticPolicies"].values()
    reader = _Reader(any(action in PATH_ACTIONS for action in policy.actions))
    try:
        resource = said["resource"]
        if entity := resource.get("entity") or resource.get("in", {}).get("entity"):
            reader.entity(entity)
        for condition in said["conditions"]:
            reader.read(condition["body"])
            if strange := sorted(_of_context(condition["body"]) - _TOLD):
                raise _Unheld(f"the kernel does not know context.{strange[0]}")
    except _Unheld as error:
        return Needs(unheld=str(error))
    return Needs(
        frozenset(reader.paths),
        frozenset(reader.networks),
        frozenset(reader.ports),
        frozenset(reader.labels),
        reader.upper,
        reader.principal or policy.principal.id is not None,
    )


class _Reader:
    """Collects what a condition compares its resource and its labels with."""

    def __init__(self, files: bool) -> None:
        self._files = files
        self.paths: set[str] = set()
        self.networks: set[Network] = set()
        self.ports: set[int] = set()
        self.labels: set[str] = set()
        self.principal = self.upper = False

    def entity(self, entity: Mapping[str, str]) -> None:
        """Of a head: `resource == Binary::"/bin/sh"`."""
        kind, ident = entity["type"], entity["id"]
        if kind in ("Binary", "Path"):
            self._add_text(_literal(ident, "path"), "path")
        else:
            raise _Unheld(f"it names one {kind} in its head: compare its attributes instead")

    def read(self, node: Any) -> None:
        if not isinstance(node, dict) or len(node) != 1:
            raise _Unheld("a form of condition that is not known here")
        ((op, inner),) = node.items()
        if op in ("Value", "Var", "has"):
            return
        if op in ("&&", "||"):
            self.read(inner["left"])
            self.read(inner["right"])
        elif op == "!":
            self.read(inner["arg"])
        elif op == "if-then-else":
            for part in ("if", "then", "else"):
                self.read(inner[part])
        elif op == "like":
            self._compared(_attribute(inner["left"]), "like", inner["pattern"])
        elif op in ("==", "!="):
            left, right = inner["left"], inner["right"]
            if (at := _attribute(left)) and at[0] == "resource":
                self._compared(at, "==", _constant(right))
            elif (at := _attribute(right)) and at[0] == "resource":
                self._compared(at, "==", _constant(left))
            else:
                self.read(left)
                self.read(right)
        elif op in ("contains", "containsAny", "containsAll"):
            self._contains(inner["left"], inner["right"])
        elif op in ("isInRange", "isLoopback", "isMulticast", "isIpv4", "isIpv6"):
            self._ranged(op, inner)
        elif op == ".":
            self._bare(_attribute(node))
        elif op == "isEmpty":
            self.read(inner["arg"])
        elif op == "is" and "in" not in inner:
            return
        elif op in ("<", "<=", ">", ">="):
            self._ordered(inner)
        elif op == "Set":
            for one in inner:
                self.read(one)
        elif op in ("ip", "decimal"):
            return
        else:
            raise _Unheld(f"it uses `{op}`")

    def _bare(self, at: tuple[str, str] | None) -> None:
        """An attribute by itself."""
        if at == ("resource", "upper"):
            self.upper = True
        elif at == ("context", "labels"):
            return  # all that may be there counts: see Plan
        elif at is not None and at[0] == "principal":
            self.principal = True
        elif at is not None and at[0] == "resource":
            raise _Unheld(f"it compares resource.{at[1]} with what is not constant")

    def _compared(self, at: tuple[str, str] | None, how: str, with_: Any) -> None:
        if at is None or at[0] != "resource":
            self.principal = self.principal or (at is not None and at[0] == "principal")
            return
        name = at[1]
        if name == "upper":
            self.upper = True
        elif with_ is None:
            raise _Unheld(f"it compares resource.{name} with what is not constant")
        elif name == "port" and isinstance(with_, int):
            self.ports.add(with_)
        elif name == "ip":
            self.networks.add(_network(with_))
        elif name in ("path", "name"):
            if self._files:
                self._add_text(_literal(with_, name) if how == "==" else _like(with_, name), name)
            elif name == "name":
                self._add_host(with_)
        elif name in ("digest", "plugin"):
            raise _Unheld(f"the kernel does not know resource.{name}")

    def _add_text(self, text: str | None, name: str) -> None:
        if text is None:
            raise _Unheld(f"it compares resource.{name} with characters that are special here")
        self.paths.add(text)

    def _add_host(self, said: Any) -> None:
        """Where an address has no name, it is its own: a name that is one is a network."""
        if isinstance(said, str):
            with contextlib.suppress(ValueError):
                self.networks.add(ipaddress.ip_network(said))
            return
        literals = [one["Literal"] for one in said if one != "Wildcard"]
        text = "".join(literals)
        if text not in ("", ".", ":") and set(text) <= set("0123456789abcdef.:"):
            raise _Unheld(f"it compares a host's name with part of an address ({text})")

    def _contains(self, left: Any, right: Any) -> None:
        at = _attribute(left)
        if at == ("context", "labels"):
            self.labels.update(_strings(right))
            return
        inside = _attribute(right)
        if inside and inside[0] == "resource":
            values = [_constant(one) for one in left.get("Set", [])]
            if "Set" not in left or None in values:
                raise _Unheld(f"it looks for resource.{inside[1]} in what is not constant")
            for value in values:
                self._compared(inside, "==", value)
            return
        self.read(left)
        self.read(right)

    def _ranged(self, op: str, inner: Any) -> None:
        arguments = inner if isinstance(inner, list) else [inner.get("left"), inner.get("right")]
        at = _attribute(arguments[0])
        if at is None or at[0] != "resource":
            return
        if op == "isInRange":
            network = _constant(arguments[1])
            if network is None:
                raise _Unheld("it compares resource.ip with what is not constant")
            self.networks.add(_network(network))
        else:
            self.networks.update(map(_network, _RANGES[op]))

    def _ordered(self, inner: Any) -> None:
        for side in ("left", "right"):
            at = _attribute(inner[side])
            if at and at[0] == "resource":
                raise _Unheld(f"it puts resource.{at[1]} in order: name the values instead")


_RANGES = {
    "isLoopback": ("127.0.0.0/8", "::1/128"),
    "isMulticast": ("224.0.0.0/4", "ff00::/8"),
    "isIpv4": (),
    "isIpv6": (),
}


def _attribute(node: Any) -> tuple[str, str] | None:
    """`resource.path` -> (resource, path)."""
    if isinstance(node, dict) and set(node) == {"."}:
        of = node["."]["left"]
        if isinstance(of, dict) and set(of) == {"Var"}:
            return of["Var"], node["."]["attr"]
    return None


def _constant(node: Any) -> Any:
    """A string, number or address; None for anything else."""
    if isinstance(node, dict) and len(node) == 1:
        ((op, inner),) = node.items()
        if op == "Value" and isinstance(inner, str | int | bool):
            return inner
        if op == "Value" and isinstance(inner, dict):
            said = inner.get("__extn", {})
            return said.get("arg") if said.get("fn") == "ip" else None
        if op == "ip":
            argument = inner[0] if isinstance(inner, list) else inner
            return _constant(argument)
    return None


def _strings(node: Any) -> Iterator[str]:
    values = node["Set"] if isinstance(node, dict) and "Set" in node else [node]
    for value in values:
        constant = _constant(value)
        if not isinstance(constant, str):
            raise _Unheld("it compares context.labels with what is not constant")
        yield constant


def _network(text: Any) -> Network:
    try:
        return ipaddress.ip_network(str(text), strict=False)
    except ValueError:
        raise _Unheld(f"{text!r} is no network") from None


_SPECIAL = frozenset("*?")


def _plain(text: str) -> str | None:
    return text if text.isascii() and text.isprintable() and not _SPECIAL & set(text) else None


def _literal(text: Any, name: str) -> str | None:
    if not isinstance(text, str) or _plain(text) is None:
        return None
    if name == "path":
        return text if text.startswith("/") else None
    return None if "/" in text else text


def _like(pattern: Sequence[Any], name: str) -> str | None:
    """Cedar's pattern, `Wildcard` and literals, as one of paths: a name's ends at its folder."""
    parts: list[str] = []
    for one in pattern:
        if one == "Wildcard":
            parts.append("**" if name == "path" else "*")
        elif (said := _plain(one.get("Literal", "*"))) is not None:
            parts.append(said)
        else:
            return None
    text = "".join(parts)
    while "***" in text:
        text = text.replace("***", "**")
    if name == "name":
        return None if "/" in text else text.replace("**", "*")
    return text if text.startswith(("/", "**")) else None
