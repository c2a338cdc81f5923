"""All that a set of policies can say to the kernel: which questions there are, and their answers.

Plan(engine)          what has to be told apart: labels, patterns, networks, ports
plan.who(...)         which workloads are one to these policies
plan.of_paths(...)    the answers about paths, for one of those
plan.of_networks(...) those about networks and names
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations, product
from typing import Any, NamedTuple

from hullwatch.decide.ahead import PATH_ACTIONS, Held, Holds, Needs, Network, holds, needs
from hullwatch.decide.engine import Answer, Engine
from hullwatch.decide.policy import Policy
from hullwatch.decide.question import Entity, Question, Value
from hullwatch.decide.schema import kind_of

__all__ = ["PRIVILEGES", "Cell", "Facts", "NetRow", "Plan", "Row", "Tool", "Who"]

PRIVILEGES = ("ptrace", "mount", "bpf", "module")
MAX_GROUPS = 8
MAX_LABELS = 5  # that policies tell apart: each doubles the answers
DNS = 53
_KINDS = {"exec": "Binary", "privilege": "Binary", "open-read": "Path", "open-write": "Path"}
_OF_WORKLOAD = ("kind", "image", "image_digest", "container", "namespace")
_LIST = Holds.LISTED | Holds.WOULD_LIST
_ORDINARY = ("198.51.100.7", "2001:db8::7")  # RFC 5737, RFC 3849
# To connect to no address at all is to connect to oneself.
LOOPBACK: tuple[Network, ...] = tuple(
    map(ipaddress.ip_network, ("127.0.0.0/8", "0.0.0.0/32", "::1/128", "::/128"))
)
_ALL = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


class Tool(NamedTuple):
    """Whose call it acts for. server: of MCP, '': not known."""

    name: str
    server: str = ""


class Facts(NamedTuple):
    """What is told apart of who acts, and of where a file is."""

    labels: tuple[str, ...] = ()
    upper: bool = False
    tool: Tool | None = None


class Who(NamedTuple):
    """Workloads that are one to the policies. context: of those attributes that they read."""

    principal: str
    context: tuple[tuple[str, Any], ...]


class Row(NamedTuple):
    """Paths that are one to the policies of a group. text: one of them."""

    group: int
    text: str


class NetRow(NamedTuple):
    """Addresses that are one to the policies. resolver: one that may be asked for names."""

    network: Network
    address: str
    resolver: bool

    @property
    def loopback(self) -> bool:
        return any(self.network.version == one.version and self.network.subnet_of(one)  # type: ignore[arg-type]
                   for one in LOOPBACK)  # fmt: skip


class Cell(NamedTuple):
    """One answer. row: number of a Row or of a NetRow's place; port: named port, or place in
    PRIVILEGES from 1 on, 0 none; names: of the host."""

    action: str
    facts: Facts
    row: int
    port: int
    held: Held


class Plan:
    """Of one set; raises nothing: what cannot be asked in the kernel is in `unheld`, with why.

    groups: patterns of policies that have to be looked at together.
    """

    def __init__(self, engine: Engine, resolvers: Iterable[str] = ()) -> None:
        wanted = needs(engine)
        self.version = engine.version
        self.unheld: dict[str, str] = {key: one.unheld for key, one in wanted.items() if one.unheld}
        labels = sorted({label for one in wanted.values() for label in one.labels})
        for key, one in wanted.items():
            if over := one.labels - set(labels[:MAX_LABELS]):
                self.unheld[key] = f"there are too many labels: {', '.join(sorted(over))}"
        self.needs: dict[str, Needs] = {k: v for k, v in wanted.items() if k not in self.unheld}
        self.policies = {k: engine.policies[k] for k in self.needs}
        self.labels = labels[:MAX_LABELS]
        words = {word for one in self.policies.values() for word in _words(one)}
        self.tools = not words.isdisjoint(("tool_call", "server"))
        self.timed = not words.isdisjoint(("hour", "weekday"))
        self._read = tuple(name for name in _OF_WORKLOAD if name in words)
        self._principal = any(one.principal for one in self.needs.values())
        self.upper = any(one.upper for one in self.needs.values())
        self.groups = _groups(self.needs)
        self.ports = sorted({DNS, *(port for one in self.needs.values() for port in one.ports)})
        self.networks = _net_rows(
            {network for one in self.needs.values() for network in one.networks},
            {ipaddress.ip_network(one) for one in resolvers},
        )
        self._engines: dict[tuple[str, ...], Engine] = {}

    def halve(self, group: int, why: str) -> None:
        """There is no room for so many patterns in one automaton; a policy that has none to itself
        is not held."""
        idents = self.groups[group]
        if len(idents) == 1 or len(self.groups) >= MAX_GROUPS:
            half = len(idents) // 2
            for ident in idents[half:]:
                self.unheld[ident] = why
                del self.policies[ident], self.needs[ident]
            parts: tuple[tuple[str, ...], ...] = (idents[:half],)
        else:
            parts = idents[: len(idents) // 2], idents[len(idents) // 2 :]
        self.groups[group : group + 1] = [part for part in parts if part]

    def row_of(self, address: str) -> int | None:
        """The place in `networks` of the narrowest that an address is in."""
        found = ipaddress.ip_address(address)
        mapped = getattr(found, "ipv4_mapped", None) or found
        fits = [at for at, one in enumerate(self.networks) if mapped in one.network]
        return max(fits, key=lambda at: self.networks[at].network.prefixlen, default=None)

    def patterns(self, group: int) -> list[str]:
        return sorted({text for ident in self.groups[group] for text in self.needs[ident].paths})

    # -- who ------------------------------------------------------------------------------------

    def who(self, principal: str, context: Mapping[str, Any]) -> Who:
        known = {name: context[name] for name in self._read if context.get(name) not in (None, "")}
        image = str(context.get("image") or "")
        if "kind" in self._read and "kind" not in known and (kind := kind_of(image)):
            known["kind"] = kind
        return Who(principal if self._principal else "", tuple(sorted(known.items())))

    def facts(self, files: bool, tools: Iterable[Tool | None] = (None,)) -> list[Facts]:
        """All that there can be. tools: None is no call, or one that is not known."""
        sets = [
            some
            for count in range(len(self.labels) + 1)
            for some in combinations(self.labels, count)
        ]
        uppers = (False, True) if files and self.upper else (False,)
        return [Facts(*of) for of in product(sets, uppers, tools)]

    # -- answers ----------------------------------------------------------------------------------

    def of_paths(
        self,
        who: Who,
        rows: Sequence[Row],
        any_row: int,
        unknown: int,
        first_row: int,
        tools: Sequence[Tool | None] = (None,),
    ) -> Iterator[Cell]:
        """rows: numbered from first_row on. any_row: what holds whatever the path; unknown: where
        it cannot be told."""
        principal = Entity("Workload", who.principal)
        for action in PATH_ACTIONS:
            about = self._about(action)
            if not about:
                continue
            free = [one for one in about if not self.needs[one.id].paths]
            bound = [one for one in about if self.needs[one.id].paths]
            ports = range(1, len(PRIVILEGES) + 1) if action == "privilege" else (0,)
            for facts in self.facts(True, tools):
                for port in ports:
                    ask = self._ask(action, who, facts, port)
                    answer = ask(free, "/") if free else Answer((), frozenset(), frozenset())
                    yield Cell(action, facts, any_row, port, holds(about, answer, principal))
                    maybe: set[str] = set()
                    for number, row in enumerate(rows):
                        group = [one for one in bound if one.id in self.groups[row.group]]
                        held = Held(Holds(0), Holds(0))
                        if group:
                            answer = ask(group, row.text)
                            maybe |= answer.matched | answer.failed
                            held = _bare(holds(group, answer, principal))
                        yield Cell(action, facts, first_row + number, port, held)
                    lost = Answer((), frozenset(), frozenset(maybe))
                    yield Cell(action, facts, unknown, port, _bare(holds(bound, lost, principal)))

    def of_networks(
        self,
        who: Who,
        unknown: int,
        first_row: int,
        tools: Sequence[Tool | None] = (None,),
    ) -> Iterator[Cell]:
        """What holds where no name is known; rows of `networks` are numbered from first_row on."""
        principal = Entity("Workload", who.principal)
        for action in ("connect", "listen"):
            about = self._about(action)
            if not about:
                continue
            for facts in self.facts(False, tools):
                maybe: set[str] = set()
                for number, row in enumerate(self.networks):
                    for port in (0, *self.ports):
                        answer = self._net(who, facts, row, port, (), action)
                        if not row.loopback:
                            maybe |= answer.matched | answer.failed
                        held = self._held(answer, row, port, action, principal)
                        yield Cell(action, facts, first_row + number, port, held)
                lost = Answer((), frozenset(), frozenset(maybe))
                yield Cell(action, facts, unknown, 0, holds(about, lost, principal))

    def net(self, who: Who, facts: Facts, number: int, port: int, names: Iterable[str]) -> Held:
        """For a connection to an address of a row that has these names."""
        row = self.networks[number]
        answer = self._net(who, facts, row, port, names, "connect")
        return self._held(answer, row, port, "connect", Entity("Workload", who.principal))

    def _held(self, answer: Answer, row: NetRow, port: int, action: str, principal: Entity) -> Held:
        """A list of permits says nothing of loopback, nor of who is asked for names."""
        held = holds(answer.asked, answer, principal)
        free = action == "connect" and (row.loopback or (row.resolver and port == DNS))
        return _bare(held) if free else held

    def _net(
        self, who: Who, facts: Facts, row: NetRow, port: int, names: Iterable[str], action: str
    ) -> Answer:
        about = self._about(action)
        told = port or _OTHER
        ask = self._ask(action, who, facts, 0)
        answers = [ask(about, _end(row.address, told), "Address")]
        if action == "connect" and not (row.resolver and port == DNS):
            hosts = tuple(names) or (("localhost",) if row.loopback else (row.address,))
            answers += [ask(about, _end(host, told), "Host") for host in hosts]
        return Answer(
            tuple(about),
            frozenset().union(*(one.matched for one in answers)),
            frozenset().union(*(one.failed for one in answers)),
        )

    def _about(self, action: str) -> list[Policy]:
        return [one for one in self.policies.values() if action in one.actions]

    def _ask(self, action: str, who: Who, facts: Facts, port: int) -> Callable[..., Answer]:
        context: dict[str, Any] = {**dict(who.context), "labels": facts.labels}
        if facts.tool is not None:
            context["tool_call"] = facts.tool.name
            if facts.tool.server:
                context["server"] = facts.tool.server
        if action == "privilege":
            context["privilege"] = PRIVILEGES[port - 1]

        def ask(policies: Sequence[Policy], ident: str, kind: str = "") -> Answer:
            upper: dict[str, Value] = {}
            if action in _KINDS and self.upper:
                upper["upper"] = facts.upper
            resource = Entity(kind or _KINDS[action], ident, upper)
            question = Question(
                principal=Entity("Workload", who.principal),
                action=action,
                resource=resource,
                context=context,
            )
            return self._engine(policies).answer(question)

        return ask

    def _engine(self, policies: Sequence[Policy]) -> Engine:
        key = tuple(one.id for one in policies)
        if key not in self._engines:
            self._engines[key] = Engine(policies)
        return self._engines[key]


_OTHER = 49_151  # a port that no policy names, nor anybody uses


def _bare(held: Held) -> Held:
    """Without the list that permits make, which is told once."""
    return Held(held.now & ~_LIST, held.orphaned & ~_LIST)


def _end(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _words(policy: Policy) -> frozenset[str]:
    if policy.reads is None:
        return frozenset((*_OF_WORKLOAD, "hour", "weekday", "tool_call", "server"))
    return policy.reads


def _groups(wanted: Mapping[str, Needs]) -> list[tuple[str, ...]]:
    """Policies that know their paths by the end alone, which is cheap, and all the others."""
    ends: list[str] = []
    others: list[str] = []
    for ident, one in wanted.items():
        if one.paths:
            (others if any(text.endswith("**") for text in one.paths) else ends).append(ident)
    return [tuple(group) for group in (ends, others) if group]


def _net_rows(networks: set[Network], resolvers: set[Network]) -> list[NetRow]:
    """Each network with an address of it that is in none that is within; the whole of it may be."""
    every = {*networks, *resolvers, *LOOPBACK, *_ALL}
    rows = []
    for network in sorted(every, key=lambda one: (one.version, one)):
        inner = [
            one
            for one in every
            if one != network and one.version == network.version and one.subnet_of(network)  # type: ignore[arg-type]
        ]
        address = _outside(network, inner)
        if address is not None:
            rows.append(NetRow(network, str(address), network in resolvers))
    return rows


def _outside(network: Network, inner: Sequence[Network]) -> Any:
    for text in _ORDINARY:
        found = ipaddress.ip_address(text)
        if found in network and not any(found in one for one in inner):
            return found
    at = int(network.network_address)
    last = int(network.broadcast_address)
    for one in sorted(inner, key=lambda one: int(one.network_address)):
        if int(one.network_address) > at:
            break
        at = max(at, int(one.broadcast_address) + 1)
    return network.network_address + (at - int(network.network_address)) if at <= last else None
