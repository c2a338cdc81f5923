"""What the kernel asks, answered beforehand.

The kernel knows of an object only what a table tells it: which patterns a path fits, which network
an address is in, which port is one of those that policies name. Here the policies are read for what
they tell apart, so that one question stands for all objects that no policy can tell from each
other. Cedar answers each; what its answers come to is weighed in the kernel, as `weigh` does.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from enum import IntFlag
from typing import Any, NamedTuple

import cedarpy
import msgspec

from hullwatch.agent.secrets.labels import RANKS
from hullwatch.decide.engine import Answer, Engine
from hullwatch.decide.policy import Policy
from hullwatch.decide.question import Effect, Entity, Fail, Mode
from hullwatch.decide.schema import CONTEXT
from hullwatch.sensor.labels import LABELS

__all__ = ["ACTIONS", "PATH_ACTIONS", "Held", "Holds", "Needs", "holds", "needs"]

PATH_ACTIONS = ("exec", "open-read", "open-write", "privilege")
ACTIONS = (*PATH_ACTIONS, "use-secret", "connect", "listen")
"""That the kernel asks about."""

MAX_LABEL = 31  # its bit says of a file that it came after the image
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Holds(IntFlag):
    """Which policies hold: enum hw_holds of kernel/wire.h, which a test holds this to."""

    BLOCK = 1
    PERMIT = 2
    LISTED = 4
    WOULD_BLOCK = 8
    WOULD_PERMIT = 16
    WOULD_LIST = 32
    ASKED = 64


class Held(NamedTuple):
    """now, and once the agent is gone: only policies that fail closed stop anything then."""

    now: Holds
    orphaned: Holds


class Needs(NamedTuple):
    """What a policy tells apart. paths: patterns of sensor/patterns.py. names: of hosts, such as it
    compares with; hosts: as patterns, each after a slash. kinds: of secrets. principal: by who it
    is. apart: of its actions, those that the kernel cannot ask it about; unheld: why it cannot; ''
    if it can."""

    paths: frozenset[str] = frozenset()
    networks: frozenset[Network] = frozenset()
    ports: frozenset[int] = frozenset()
    labels: frozenset[str] = frozenset()
    upper: bool = False
    names: frozenset[str] = frozenset()
    hosts: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    principal: bool = False
    apart: frozenset[str] = frozenset()
    unheld: str = ""


def holds(
    policies: Iterable[Policy],
    answer: Answer,
    principal: Entity,
    socket: bool = False,
    asked: Collection[str] = (),
) -> Held:
    """What these policies of an answer are to the kernel: `weigh`, taken apart (engine.py).

    socket: it is about a Unix socket. asked: challenges that somebody else may hold as long as the
    agent is there. Elsewhere nobody can be asked, so one that is enforced fails: closed, it blocks.
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
            if one.lists(principal, socket):
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
            if one.id in asked and enforced:
                bits = Holds.ASKED if one.fail is Fail.CLOSED else Holds(0)
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


def _needs(policy: Policy) -> Needs:
    reader = _Reader(policy.actions)
    try:
        parsed = msgspec.json.decode(cedarpy.policies_to_json_str(policy.matcher))
        (said,) = parsed["staticPolicies"].values()
        resource = said["resource"]
        if entity := resource.get("entity") or resource.get("in", {}).get("entity"):
            reader.entity(entity)
        for condition in said["conditions"]:
            reader.read(condition["body"])
        if reader.unix and not (reader.paths or reader.networks or reader.ports or reader.names):
            raise _Unheld("the kernel is not asked who listens on a Unix socket")
    except _Unheld as error:
        unheld = str(error)
    except RecursionError:
        unheld = "it has too many conditions: divide it"
    except (LookupError, TypeError, ValueError, AttributeError):
        unheld = _UNKNOWN_FORM
    else:
        unheld = ""
    return Needs(
        frozenset(reader.paths),
        frozenset(reader.networks),
        frozenset(reader.ports),
        frozenset(reader.labels),
        reader.upper,
        frozenset(reader.names),
        frozenset(reader.hosts),
        frozenset(reader.kinds),
        reader.principal or policy.principal.id is not None,
        frozenset() if unheld else reader.apart,
        unheld or reader.why_apart,
    )


_UNKNOWN_FORM = "a form of condition that is not known here"
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


class _Reader:
    """Collects what a condition compares its resource and its labels with."""

    def __init__(self, actions: Iterable[str]) -> None:
        self._files = not set(actions).isdisjoint(PATH_ACTIONS)
        self._hosts = "connect" in actions
        self._listens = "listen" in actions and not self._hosts
        self._secrets = "use-secret" in actions
        self._unsaid = frozenset(actions) - {"connect", *_NO_BASELINE}
        self.paths: set[str] = set()
        self.networks: set[Network] = set()
        self.ports: set[int] = set()
        self.labels: set[str] = set()
        self.names: set[str] = set()
        self.hosts: set[str] = set()
        self.kinds: set[str] = set()
        self.apart: frozenset[str] = frozenset()
        self.principal = self.upper = self.unix = False

    def entity(self, entity: Mapping[str, str]) -> None:
        """`resource == Binary::"/bin/sh"`."""
        kind, ident = entity["type"], entity["id"]
        if kind not in ("Binary", "Path"):
            raise _Unheld(f"it names one {kind} by its id: compare its attributes instead")
        self._add_text(_literal(ident, "path"), "path")

    def read(self, node: Any) -> None:
        if not isinstance(node, dict) or len(node) != 1:
            raise _Unheld(_UNKNOWN_FORM)
        ((op, inner),) = node.items()
        if op in _PARTS:
            for part in _PARTS[op]:
                self.read(inner[part])
        elif op in ("Set", "ip", "decimal"):
            for one in inner:
                self.read(one)
        elif op == "Var":
            self._whole(inner)
        elif op == "has":
            self._has(inner["left"], inner["attr"])
        elif op == ".":
            self._bare(_attribute(node), inner["left"])
        elif op == "is" and "in" not in inner:
            if "Var" not in inner["left"]:
                self.read(inner["left"])
        elif op in ("==", "!="):
            self._equals(inner["left"], inner["right"])
        elif op == "like":
            self._like(inner["left"], inner["pattern"])
        elif op in ("contains", "containsAny", "containsAll"):
            self._contains(inner["left"], inner["right"])
        elif op in ("isInRange", *_RANGES):
            self._ranged(op, inner)
        elif op in ("<", "<=", ">", ">="):
            self._ordered(inner["left"], inner["right"])
        elif op != "Value":
            raise _Unheld(f"it uses `{op}`")

    def _whole(self, name: str) -> None:
        if name in ("resource", "context"):
            raise _Unheld(f"it compares the {name} as a whole: compare its attributes instead")
        self.principal = self.principal or name == "principal"

    @property
    def why_apart(self) -> str:
        if not self.apart:
            return ""
        return f"the kernel does not know context.first_seen of {', '.join(sorted(self.apart))}"

    def _has(self, of: Any, name: str) -> None:
        owner = of.get("Var")
        if owner is None:
            self.read(of)
        elif owner == "context":
            self._known(name)
        elif owner == "resource":
            self.upper = self.upper or name == "upper"
            self.unix = self.unix or (name == "path" and self._listens)

    def _known(self, name: str) -> None:
        if name in _NOT_KNOWN:
            raise _Unheld(f"the kernel does not know context.{name}")
        if name == "first_seen":
            self.apart = self._unsaid

    def _bare(self, at: tuple[str, str] | None, of: Any) -> None:
        """An attribute by itself."""
        owner, name = at or ("", "")
        if at == ("resource", "upper"):
            self.upper = True
        elif at == ("context", "labels"):
            self.labels.update(LABELS)  # no other is given
        elif owner == "context":
            self._known(name)
        elif owner == "principal":
            self.principal = True
        elif owner == "resource":
            raise _Unheld(f"it compares resource.{name} with what is not constant")
        elif at is None:
            self.read(of)

    def _equals(self, left: Any, right: Any) -> None:
        for one, other in ((left, right), (right, left)):
            if name := _of_resource(one):
                self._compared(name, other)
                return
            if one == _RESOURCE and (entity := _entity(other)):
                self.entity(entity)
                return
        self.read(left)
        self.read(right)

    def _compared(self, name: str, node: Any) -> None:
        """An attribute of the resource is, or is not, this."""
        if name == "upper":
            self.upper = True
            self.read(node)
            return
        constant = _constant(node)
        if constant is None:
            raise _Unheld(f"it compares resource.{name} with what is not constant")
        if name == "port":
            self._add_port(constant)
        elif name == "ip":
            self._add_network(constant)
        elif name == "kind":
            self.kinds.add(constant)
        elif name in ("path", "name"):
            self._add_name(name, _literal(constant, name), constant)
        else:
            raise _Unheld(f"the kernel does not know resource.{name}")

    def _like(self, left: Any, pattern: Sequence[Any]) -> None:
        name = _of_resource(left)
        if not name:
            self.read(left)
        elif name == "kind":
            self.kinds.update(RANKS.values())
        elif name not in ("path", "name"):
            raise _Unheld(f"the kernel does not know resource.{name}")
        else:
            self._add_name(name, _like(pattern, name), pattern)

    def _add_name(self, name: str, text: str | None, said: Any) -> None:
        if self._secrets and name == "name":
            raise _Unheld("it compares a secret's name: forbid to open the path instead")
        sockets = self._hosts and name == "path"
        if self._files or sockets:
            self._add_text(text, name)
        if sockets and text is not None and text.startswith("/run/"):
            self.paths.add(f"/var{text}")  # where that is no link
        self._add_end(name, said)

    def _add_text(self, text: str | None, name: str) -> None:
        if text is None:
            raise _Unheld(f"it compares resource.{name} with characters that are special here")
        self.paths.add(text)

    def _add_port(self, port: int) -> None:
        if port == 0:
            raise _Unheld("it names port 0, which stands for all that no policy names")
        if 0 < port < 65_536:
            self.ports.add(port)

    def _add_network(self, text: Any) -> None:
        network = _network(text)
        # IPv4 that came mapped is asked about as IPv4.
        if not (isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED)):
            self.networks.add(network)

    def _add_end(self, name: str, said: Any) -> None:
        """Of an Address, a Unix socket's path; of a Host, its name: where an address has none, it
        is its own, and a name that is one is a network."""
        if name == "path":
            self.unix = self.unix or self._listens
        if name != "name" or not self._hosts:
            return
        # What no pattern can say is no name that TLS could ask for, either.
        parts = [said] if isinstance(said, str) else [_text(one) for one in said]
        if all(one == "**" or _plain(one) is not None for one in parts):
            self.hosts.add(_narrow("/" + "".join(parts)))
        if not isinstance(said, str):
            literals = [one["Literal"] for one in said if one != "Wildcard"]
            text = "".join(literals)
            if len(literals) == len(said):
                said = text
            elif text and _within_address(said, text):
                raise _Unheld(f"it compares a host's name with part of an address ({text})")
            else:
                some = ("x" if one == "Wildcard" else one["Literal"] for one in said)
                self.names.add("".join(some))
        if isinstance(said, str):
            self.names.add(said)
            with contextlib.suppress(ValueError):
                self._add_network(ipaddress.ip_address(said))

    def _contains(self, left: Any, right: Any) -> None:
        if _attribute(left) == ("context", "labels"):
            self.labels.update(_labels(right))
            return
        values, name = left.get("Set"), _of_resource(right)
        if name and values is None:
            raise _Unheld(f"it looks for resource.{name} in what is not constant")
        if name:
            for value in values:
                self._compared(name, value)
        elif values is not None and right == _RESOURCE and all(map(_entity, values)):
            for value in values:
                self.entity(_entity(value))
        else:
            self.read(left)
            self.read(right)

    def _ranged(self, op: str, inner: Any) -> None:
        arguments = inner if isinstance(inner, list) else [inner.get("left"), inner.get("right")]
        if not _of_resource(arguments[0]):
            for one in arguments:
                self.read(one)
        elif op == "isInRange":
            network = _constant(arguments[1])
            if network is None:
                raise _Unheld("it compares resource.ip with what is not constant")
            self._add_network(network)
        else:
            for text in _RANGES[op]:
                self._add_network(text)

    def _ordered(self, *sides: Any) -> None:
        for side in sides:
            if name := _of_resource(side):
                raise _Unheld(f"it puts resource.{name} in order: name the values instead")
            self.read(side)


_PARTS = {
    "&&": ("left", "right"),
    "||": ("left", "right"),
    "!": ("arg",),
    "isEmpty": ("arg",),
    "if-then-else": ("if", "then", "else"),
}
"""What only joins its parts."""
_RESOURCE = {"Var": "resource"}
_NOT_KNOWN = frozenset(CONTEXT) - frozenset(
    "labels kind image image_digest container namespace hour weekday privilege tool_call"
    " server baseline first_seen".split()
)
"""Of the context, what is told of an event and is not asked about in the kernel."""
_NO_BASELINE = ("privilege", "tool-call", "model-call")
"""Of which no baseline says anything, wherever it is asked."""
_RANGES = {
    "isLoopback": ("127.0.0.0/8", "::1/128"),
    "isMulticast": ("224.0.0.0/4", "ff00::/8"),
    "isIpv4": (),
    "isIpv6": (),
}


def _within_address(pattern: Sequence[Any], text: str) -> bool:
    """Whether it depends on more than its version whether an address fits."""
    if text in (".", ":") and pattern[0] == pattern[-1] == "Wildcard":
        return False
    return set(text) <= set("0123456789.") or set(text) <= set("0123456789abcdef:")


def _of_resource(node: Any) -> str:
    """`resource.path` -> path; '' for anything else."""
    at = _attribute(node)
    return at[1] if at and at[0] == "resource" else ""


def _entity(node: Any) -> dict[str, str]:
    """`Path::"/x"` -> its type and id; nothing for anything else."""
    value = node.get("Value") if isinstance(node, dict) else None
    found: dict[str, str] = value.get("__entity", {}) if isinstance(value, dict) else {}
    return found


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


def _labels(node: Any) -> Iterator[str]:
    """Those that something may carry: of others no policy is ever told."""
    values = node["Set"] if isinstance(node, dict) and "Set" in node else [node]
    for value in values:
        constant = _constant(value)
        if not isinstance(constant, str):
            raise _Unheld("it compares context.labels with what is not constant")
        number = constant.removeprefix("label-")
        if constant == f"label-{MAX_LABEL}":
            raise _Unheld(f"there is no room for {constant} in the kernel's question")
        if constant in LABELS or (
            number.isdecimal()
            and constant == f"label-{int(number)}"
            and len(LABELS) <= int(number) < MAX_LABEL
        ):
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
        text = _abstract(text)
        return text if text.startswith("/") else None
    return None if "/" in text else text


def _text(part: Any) -> str:
    """Of Cedar's pattern."""
    return "**" if part == "Wildcard" else part["Literal"]


def _narrow(text: str) -> str:
    while "***" in text:
        text = text.replace("***", "**")
    return text


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
    text = _narrow("".join(parts))
    if name == "name":
        return None if "/" in text else text.replace("**", "*")
    text = _abstract(text)
    return text if text.startswith(("/", "**")) else None


def _abstract(text: str) -> str:
    """A Unix socket's name that is no path, as the kernel asks about it: `//NAME`."""
    return f"//{text[1:]}" if text.startswith("@") else text
