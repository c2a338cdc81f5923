"""All that a set of policies can say to the kernel: which questions there are, and their answers.

Plan(engine)          what has to be told apart: labels, patterns, networks, ports
plan.who(...)         which workloads are one to these policies
plan.of_paths(...)    the answers about paths, for one of those
plan.of_secrets(...)  about what lies at a path, by the kind of its place
plan.of_networks(...) those about networks and names
plan.of_hosts(...)    and about server names that TLS clients ask for
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, islice, product, takewhile
from types import MappingProxyType
from typing import Any, NamedTuple

from hullwatch.agent.secrets.labels import RANKS
from hullwatch.decide.ahead import ACTIONS, PATH_ACTIONS, Held, Holds, Needs, Network, holds, needs
from hullwatch.decide.engine import Answer, Engine
from hullwatch.decide.policy import Policy
from hullwatch.decide.question import Effect, Entity, Mode, Question, Value
from hullwatch.decide.schema import clean, kind_of, socket_path

__all__ = [
    "PRIVILEGES", "SOCKET", "Cell", "Facts", "HostRow", "NetRow", "Plan", "Row", "Tool", "Who",
]  # fmt: skip

PRIVILEGES = {
    1: "ptrace",
    2: "mount",
    3: "bpf",
    4: "module",
    6: "setuid",
    7: "capability",
}
"""By their numbers in the kernel: enum hw_privilege."""
SOCKET = "socket"
"""To connect to a Unix socket: of the action `connect`, and asked about as paths are."""
MAX_GROUPS = 8
MAX_LABELS = 5  # that policies tell apart: each doubles the answers
DNS = 53
_KINDS = {"exec": "Binary", "privilege": "Binary", "open-read": "Path", "open-write": "Path"}
_KINDS |= {SOCKET: "Address"}
_OF_CALLS = ("tool_call", "server")
_OF_WORKLOAD = ("kind", "image", "image_digest", "container", "namespace", "baseline")
_LIST = Holds.LISTED | Holds.WOULD_LIST
_ORDINARY = ("198.51.100.7", "2001:db8::7")  # RFC 5737, RFC 3849
# To connect to no address at all is to connect to oneself.
LOOPBACK: tuple[Network, ...] = tuple(
    map(ipaddress.ip_network, ("127.0.0.0/8", "0.0.0.0/32", "::1/128", "::/128"))
)
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")  # is asked about as IPv4
_ALL = (ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))


class Tool(NamedTuple):
    """Whose call it acts for. server: of MCP, '': not known."""

    name: str
    server: str = ""


class Facts(NamedTuple):
    """What is told apart of who acts, and of where a file is. new: an end that the baseline of the
    image does not have."""

    labels: tuple[str, ...] = ()
    upper: bool = False
    tool: Tool | None = None
    new: bool = False


class Who(NamedTuple):
    """Workloads that are one to the policies. context: of those attributes that they read. image:
    whose baseline says what is new; '': none does."""

    principal: str
    context: tuple[tuple[str, Any], ...]
    image: str = ""


class Row(NamedTuple):
    """Paths that are one to the policies of a group. text: one of them. patterns: that hold."""

    group: int
    text: str
    patterns: frozenset[str]


class NetRow(NamedTuple):
    """Addresses that are one to the policies. resolver: one that may be asked for names."""

    network: Network
    address: str
    resolver: bool

    @property
    def loopback(self) -> bool:
        return any(_is_in(self.network, one) for one in LOOPBACK)


class HostRow(NamedTuple):
    """Names of hosts that are one to the policies. name: one of them. patterns: that hold."""

    name: str
    patterns: frozenset[str]


class Cell(NamedTuple):
    """One answer. action: SOCKET, too. row: number of a Row, of a NetRow's place or of one of
    secrets; port: named port, or number of a privilege, 0 none; name: number of the host's names,
    0 none."""

    action: str
    facts: Facts
    row: int
    port: int
    held: Held
    name: int = 0


class Plan:
    """Of one set; raises nothing: what cannot be asked in the kernel is in `unheld`, with why, and
    where that is only about some of a policy's actions these are in `apart`.

    asked: by the ids of challenges, actions that somebody is asked about elsewhere. groups:
    patterns of policies that have to be looked at together. tools: answers differ by whose call it
    is; calls: that is to be known, if only for policies that are not held in the kernel. new: they
    differ by whether a baseline has an end; normal: baselines are asked.
    """

    def __init__(
        self,
        engine: Engine,
        resolvers: Iterable[str] = (),
        asked: Mapping[str, Collection[str]] = MappingProxyType({}),
    ) -> None:
        wanted = needs(engine)
        self.version = engine.version
        self.unheld: dict[str, str] = {key: one.unheld for key, one in wanted.items() if one.unheld}
        self.apart = {key: one.apart for key, one in wanted.items() if one.apart}
        labels = sorted({label for one in wanted.values() for label in one.labels})
        for key, one in wanted.items():
            if over := one.labels - set(labels[:MAX_LABELS]):
                self.unheld[key] = f"there are too many labels: {', '.join(sorted(over))}"
                self.apart.pop(key, None)
        parts = engine.narrowed(
            {
                key: {*engine.policies[key].actions} - self.apart.get(key, set())
                for key in wanted
                if key in self.apart or key not in self.unheld
            }
        )
        self.policies = {key: one for key, one in parts.policies.items() if one.actions}
        self.needs: dict[str, Needs] = {key: wanted[key] for key in self.policies}
        self.apart = {key: of for key, of in self.apart.items() if key in self.policies}
        self.labels = labels[:MAX_LABELS]
        words = {word for one in self.policies.values() for word in _words(one)}
        self.tools = not words.isdisjoint(_OF_CALLS)
        self.calls = self.tools or any(
            not _words(one).isdisjoint(_OF_CALLS)
            for one in engine.policies.values()
            if not {*ACTIONS, "load-plugin"}.isdisjoint(one.actions)
        )
        self.new = "first_seen" in words
        self.normal = self.new or "baseline" in words
        self.timed = not words.isdisjoint(("hour", "weekday"))
        self._read = tuple(name for name in _OF_WORKLOAD if name in words)
        self._principal = any(one.principal for one in wanted.values())
        self.upper = any(one.upper for one in self.needs.values())
        self.groups = _groups(self.needs)
        self.hosts = sorted({text for one in self.needs.values() for text in one.hosts})
        self.ports = sorted({DNS, *(port for one in self.needs.values() for port in one.ports)})
        self.secrets = any("use-secret" in one.actions for one in self.policies.values())
        self.networks = _net_rows(
            {network for one in self.needs.values() for network in one.networks},
            {ipaddress.ip_network(one) for one in resolvers},
        )
        self._other = next(port for port in range(_OTHER, 0, -1) if port not in self.ports)
        self._asked_elsewhere = asked
        self._within = _supernets(one.network for one in self.networks)
        self._engines: dict[_Ids, Engine] = {}
        self._words: dict[_Ids, _Words] = {}
        self._known: dict[_Key, Answer] = {}
        self._without: dict[tuple[str, str], Holds] = {}
        left = engine.narrowed(
            {key: self.apart.get(key, engine.policies[key].actions) for key in self.unheld}
        )
        self._loose = [one for one in left.policies.values() if _permits(one)]

    def halve(self, group: int, why: str) -> None:
        """There is no room for so many patterns in one automaton; a policy that has none to itself
        is not held."""
        idents = self.groups[group]
        if len(idents) == 1 or len(self.groups) >= MAX_GROUPS:
            half = len(idents) // 2
            for ident in idents[half:]:
                self.unheld[ident] = why
                self.apart.pop(ident, None)
                self._loose += [self.policies[ident]] * _permits(self.policies[ident])
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

    def who(self, principal: str, context: Mapping[str, Any], whose: str = "") -> Who:
        """whose: key of the image whose baseline counts; '': there is none."""
        known = {name: context[name] for name in self._read if context.get(name) not in (None, "")}
        image = str(context.get("image") or "")
        if "kind" in self._read and "kind" not in known and (kind := kind_of(image)):
            known["kind"] = kind
        name = principal if self._principal else ""
        return Who(name, tuple(sorted(known.items())), whose if self.new else "")

    def facts(
        self, files: bool, tools: Iterable[Tool | None] = (None,), whose: str = ""
    ) -> list[Facts]:
        """All that there can be. tools: None is no call, or one that is not known. whose: image
        whose baseline is asked about ends."""
        sets = [
            some
            for count in range(len(self.labels) + 1)
            for some in combinations(self.labels, count)
        ]
        uppers = (False, True) if files and self.upper else (False,)
        news = (False, True) if whose else (False,)
        return [Facts(*of) for of in product(sets, uppers, tools, news)]

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
        for action in (*PATH_ACTIONS, SOCKET):
            about = self._about(action)
            if not about:
                continue
            free = tuple(one for one in about if not self.needs[one.id].paths)
            bound = tuple(one for one in about if self.needs[one.id].paths)
            groups = [self._asked(rows, at, bound, action) for at in range(len(self.groups))]
            ports = tuple(PRIVILEGES) if action == "privilege" else (0,)
            for facts in self.facts(action != SOCKET, tools):
                for port in ports:
                    how = _How(action, who, facts, port)
                    answer = self._answer(free, how, ((_KINDS[action], "/"),))
                    held = self._holds(about, answer, how)
                    if action == SOCKET and not bound and held == (0, 0):
                        continue  # no policy speaks of it
                    yield Cell(action, facts, any_row, port, held)
                    maybe: set[str] = set()
                    for group in groups:
                        for number, held in self._each(group, how, maybe):
                            yield Cell(action, facts, first_row + number, port, _bare(held))
                    lost = Answer((), frozenset(), frozenset(maybe))
                    held = _bare(self._holds(bound, lost, how))
                    yield Cell(action, facts, unknown, port, held)

    def of_secrets(
        self,
        who: Who,
        any_row: int,
        unknown: int,
        first_row: int,
        tools: Sequence[Tool | None] = (None,),
    ) -> Iterator[Cell]:
        """RANKS are rows, numbered above first_row. In any_row there is nothing, but that policies
        speak of secrets: what is none is not asked about."""
        action, nothing = "use-secret", Held(Holds(0), Holds(0))
        about = self._about(action)
        if not about:
            return
        by_kind: dict[str, list[Policy]] = {}
        for one in about:
            for kind in self.needs[one.id].kinds:
                by_kind.setdefault(kind, []).append(one)
        kinds = [
            _Object(rank, _touched(by_kind, (kind,)), about, (("Secret", kind),))
            for rank, kind in RANKS.items()
            if kind
        ]
        for facts in self.facts(False, tools):
            how = _How(action, who, facts, 0)
            yield Cell(action, facts, any_row, 0, nothing)
            maybe: set[str] = set()
            lists = self._lists(about, how)
            told = dict(self._each(kinds, how, maybe))
            for rank in RANKS:
                held = _or(told[rank], lists) if rank in told else nothing
                yield Cell(action, facts, first_row + rank, 0, held)
            lost = Answer((), frozenset(), frozenset(maybe))
            yield Cell(action, facts, unknown, 0, self._holds(about, lost, how))

    def of_networks(
        self,
        who: Who,
        unknown: int,
        first_row: int,
        tools: Sequence[Tool | None] = (None,),
    ) -> Iterator[Cell]:
        """What holds where no name is known; rows of `networks` are numbered from first_row on."""
        for action in ("connect", "listen"):
            about = self._about(action)
            if not about:
                continue
            for facts in self.facts(False, tools, who.image if action == "connect" else ""):
                maybe: set[str] = set()
                for port in (0, *self.ports):
                    how = _How(action, who, facts, port)
                    lists = self._lists(about, how)
                    for free, own, rows in self._ends(about, action, port):
                        # What cannot be told is not what goes to oneself.
                        for number, held in self._each(rows, how, set() if own else maybe):
                            held = held if free else _or(held, lists)
                            yield Cell(action, facts, first_row + number, port, held)
                    if action == "connect":
                        maybe |= self._by_name(about, how)
                how = _How(action, who, facts, 0)
                lost = Answer((), frozenset(), frozenset(maybe))
                yield Cell(action, facts, unknown, 0, self._holds(about, lost, how))

    def of_hosts(
        self,
        who: Who,
        rows: Sequence[HostRow],
        said: int,
        alone: int,
        first_row: int,
        tools: Sequence[Tool | None] = (None,),
    ) -> Iterator[Cell]:
        """What holds for a connection whose TLS client asks for such a name, beside what holds for
        its address: in row `said` the names' own, numbered from 1 on (0: it cannot be read), and in
        the rows of `networks`, as of name `alone`, what is permitted there whatever the name. Cells
        that say nothing are left out."""
        about = self._about("connect")
        permits = tuple(one for one in about if _permits(one))
        by_pattern: dict[str, list[Policy]] = {}
        for one in about:
            for text in self.needs[one.id].hosts:
                by_pattern.setdefault(text, []).append(one)
        touched = [_touched(by_pattern, row.patterns) for row in rows]
        for facts, port in product(self.facts(False, tools, who.image), (0, *self.ports)):
            how = _How("connect", who, facts, port)
            lists = self._lists(permits, how)
            networks = self._ends(permits, "connect", port, named=False) if permits else ()
            for free, _, ends in networks:
                for number, held in self._each(ends, how, set()):
                    held = held if free else _or(held, lists)
                    yield Cell("connect", facts, first_row + number, port, held, alone)
            maybe: set[str] = set()
            told = port or self._other
            names = [
                _Object(number, touched[number - 1], about, (("Host", _end(row.name, told)),))
                for number, row in enumerate(rows, 1)
            ]
            for number, held in self._each(names, how, maybe):
                yield Cell("connect", facts, said, port, held, number)
            lost = Answer((), frozenset(), frozenset(maybe))
            yield Cell("connect", facts, said, port, _bare(self._holds(about, lost, how)), 0)

    def net(self, who: Who, facts: Facts, number: int, port: int, names: Iterable[str]) -> Held:
        """For a connection to an address of a row that has these names."""
        row = self.networks[number]
        about = self._about("connect")
        how = _How("connect", who, facts, port)
        answer = self._answer(about, how, self._things(row, "connect", port, names))
        held = self._holds(about, answer, how)
        return _bare(held) if _is_free(row, "connect", port) else held

    def _asked(
        self, rows: Sequence[Row], group: int, bound: Sequence[Policy], action: str
    ) -> list[_Object]:
        """The rows of a group, each with the policies that it means something to."""
        by_pattern: dict[str, list[Policy]] = {}
        own = set(self.groups[group])
        some = tuple(one for one in bound if one.id in own)
        kind = _KINDS[action]
        for one in some:
            for text in self.needs[one.id].paths:
                by_pattern.setdefault(text, []).append(one)
        return [
            _Object(number, _touched(by_pattern, row.patterns), some, ((kind, row.text),))
            for number, row in enumerate(rows)
            if row.group == group
        ]

    def _ends(
        self, about: tuple[Policy, ...], action: str, port: int, named: bool = True
    ) -> Iterator[tuple[bool, bool, list[_Object]]]:
        """The rows of networks, those apart that differ by more than what policies name: (whether
        no list counts, whether it is loopback, rows). named: as hosts, too."""
        by_network: dict[Network, list[Policy]] = {}
        for one in about:
            for network in self.needs[one.id].networks:
                by_network.setdefault(network, []).append(one)
        alike: dict[tuple[bool, bool, int, int], list[_Object]] = {}
        for number, row in enumerate(self.networks):
            touched = _touched(by_network, self._within[row.network])
            things = self._things(row, action, port)
            things = things if named else things[:1]
            key = _is_free(row, action, port), row.loopback, row.network.version, len(things)
            alike.setdefault(key, []).append(_Object(number, touched, about, things))
        for (free, own, _, _), objects in alike.items():
            yield free, own, objects

    def _each(
        self, objects: Sequence[_Object], how: _How, maybe: set[str]
    ) -> Iterator[tuple[int, Held]]:
        """What the policies of these objects are to each of them, by its number, without lists.

        Those that tell an object from none of the others are asked once for all. maybe: gets the
        policies that hold, or fail, for any.
        """
        common: dict[Held, set[str]] = {}
        left = {one.id: one for one in objects[0].about} if objects else {}
        for one in sorted(objects, key=lambda one: len(one.touched)):
            some = tuple(policy for ident, policy in left.items() if ident not in one.touched)
            if not some:
                continue
            answer = self._answer(some, how, one.things)
            maybe |= answer.matched | answer.failed
            for policy in some:
                if policy.id in answer.matched or policy.id in answer.failed:
                    held = _bare(self._holds((policy,), answer, how))
                    common.setdefault(held, set()).add(policy.id)
                del left[policy.id]
            if not left:
                break
        for one in objects:
            held = Held(Holds(0), Holds(0))
            if one.touched:
                some = tuple(one.touched.values())
                answer = self._answer(some, how, one.things)
                maybe |= answer.matched | answer.failed
                held = _bare(self._holds(some, answer, how))
            for said, idents in common.items():
                if not idents <= one.touched.keys():
                    held = _or(held, said)
            yield one.number, held

    def _holds(self, policies: Iterable[Policy], answer: Answer, how: _How) -> Held:
        principal = Entity("Workload", clean(how.who.principal))
        asked = {ident for ident, of in self._asked_elsewhere.items() if how.action in of}
        held = holds(policies, answer, principal, how.action == SOCKET, asked)
        without = self._unlisted(how.action, principal)
        return Held(held.now & ~without, held.orphaned & ~without)

    def _unlisted(self, action: str, principal: Entity) -> Holds:
        """A list that has a permit which is not known here would stop what that permits."""
        key = action, principal.id
        if key not in self._without:
            self._without[key] = Holds(0)
            for one in self._loose:
                named = _of_policies(action) in one.actions
                if named and one.lists(principal, action == SOCKET):
                    self._without[key] |= _LIST if one.mode is Mode.ENFORCE else Holds.WOULD_LIST
        return self._without[key]

    def _lists(self, about: tuple[Policy, ...], how: _How) -> Held:
        """What permits make a list of, whatever is asked about."""
        nothing = Answer((), frozenset(), frozenset())
        held = self._holds(about, nothing, how)
        return Held(held.now & _LIST, held.orphaned & _LIST)

    def _by_name(self, about: tuple[Policy, ...], how: _How) -> frozenset[str]:
        """Those that hold, or fail, for a host of a name that they know."""
        told = how.port or self._other
        some = tuple(one for one in about if self.needs[one.id].names)
        names = sorted({name for one in some for name in self.needs[one.id].names})
        answer = self._answer(some, how, tuple(("Host", _end(name, told)) for name in names))
        return answer.matched | answer.failed

    def _things(
        self, row: NetRow, action: str, port: int, names: Iterable[str] = ()
    ) -> tuple[tuple[str, str], ...]:
        """An address of the row and what it is called, as resources."""
        told = port or self._other
        things = [("Address", _end(row.address, told))]
        if action == "connect" and not (row.resolver and port == DNS):
            hosts = tuple(names) or (("localhost",) if row.loopback else (row.address,))
            things += [("Host", _end(host, told)) for host in hosts]
        return tuple(things)

    def _about(self, action: str) -> tuple[Policy, ...]:
        named = _of_policies(action)
        return tuple(one for one in self.policies.values() if named in one.actions)

    def _answer(
        self, policies: tuple[Policy, ...], how: _How, things: tuple[tuple[str, str], ...]
    ) -> Answer:
        """What these say to any of the things. Asked once for all that they do not tell apart."""
        if not policies:
            return Answer((), frozenset(), frozenset())
        ids = tuple(one.id for one in policies)
        words = self._words.get(ids)
        if words is None:
            words = self._words[ids] = _Words(
                frozenset().union(*map(_words, policies)),
                frozenset().union(*(self.needs[one].labels for one in ids)),
                any(self.needs[one].upper for one in ids),
                any(self.needs[one].principal for one in ids),
            )
        context: dict[str, Any] = {k: v for k, v in how.who.context if k in words.context}
        context["labels"] = tuple(one for one in how.facts.labels if one in words.labels)
        if (tool := how.facts.tool) is not None:
            told = {"tool_call": tool.name, "server": tool.server}
            context |= {k: v for k, v in told.items() if v and k in words.context}
        if how.who.image and how.action == "connect" and "first_seen" in words.context:
            context["first_seen"] = how.facts.new
        if how.action == "privilege":
            context["privilege"] = PRIVILEGES[how.port]
        more: dict[str, Value] = {}
        if words.upper and how.action in _KINDS and how.action != SOCKET:
            more["upper"] = how.facts.upper
        who = how.who.principal if words.principal else ""
        key = ids, how.action, who, tuple(context.items()), how.facts.upper & words.upper, things
        found = self._known.get(key)
        if found is None:
            engine = self._engines.get(ids)
            if engine is None:
                engine = self._engines[ids] = Engine(policies)
            answers = [
                engine.answer(
                    Question(
                        principal=Entity("Workload", who),
                        action=_of_policies(how.action),
                        resource=_resource(how.action, kind, ident, more),
                        context=context,
                    )
                )
                for kind, ident in things
            ]
            found = self._known[key] = Answer(
                policies,
                frozenset().union(*(one.matched for one in answers)),
                frozenset().union(*(one.failed for one in answers)),
            )
        return found

    def forget(self) -> None:
        """What is only kept to be quick, but for what each name is asked of."""
        if not self._known:
            return
        self._known.clear()
        whole = {tuple(one.id for one in self._about(action)) for action in ACTIONS}
        self._engines = {ids: one for ids, one in self._engines.items() if ids in whole}
        self._words = {ids: one for ids, one in self._words.items() if ids in whole}


_Ids = tuple[str, ...]
_Key = tuple[Any, ...]


class _How(NamedTuple):
    """What is asked, but for about what. port: as Cell's."""

    action: str
    who: Who
    facts: Facts
    port: int


class _Words(NamedTuple):
    """What policies read of who asks."""

    context: frozenset[str]
    labels: frozenset[str]
    upper: bool
    principal: bool


class _Object(NamedTuple):
    """A row. touched: the policies that name something that holds for it; about: all that are
    asked. things: the resources that it is asked as."""

    number: int
    touched: dict[str, Policy]
    about: tuple[Policy, ...]
    things: tuple[tuple[str, str], ...]


def _touched(by: Mapping[Any, list[Policy]], named: Iterable[Any]) -> dict[str, Policy]:
    return {one.id: one for name in named for one in by.get(name, ())}


def _of_policies(action: str) -> str:
    """What policies call it."""
    return "connect" if action == SOCKET else action


def _resource(action: str, kind: str, text: str, more: dict[str, Value]) -> Entity:
    """text: of a Secret, its kind; of a socket a path as the kernel has it, or what stands for a
    row: that may be any text."""
    if kind == "Secret":
        return Entity(kind, f"/{text}", {"kind": text})
    if action != SOCKET:
        return Entity(kind, text, more)
    path = f"@{text[2:]}" if text.startswith("//") else socket_path(text)
    return Entity("Address", f"/{text}", {"path": path})


def _permits(policy: Policy) -> bool:
    return policy.does is Effect.ALLOW


def _is_free(row: NetRow, action: str, port: int) -> bool:
    """A list of permits says nothing of loopback, nor of who is asked for names."""
    return action == "connect" and (row.loopback or (row.resolver and port == DNS))


def _or(one: Held, other: Held) -> Held:
    return Held(one.now | other.now, one.orphaned | other.orphaned)


_OTHER = 49_151  # a port that no policy names, nor anybody uses


def _bare(held: Held) -> Held:
    """Without the list that permits make, which is told once."""
    return Held(held.now & ~_LIST, held.orphaned & ~_LIST)


def _end(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _words(policy: Policy) -> frozenset[str]:
    if policy.reads is None:
        return frozenset((*_OF_WORKLOAD, *_OF_CALLS, "hour", "weekday", "first_seen"))
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
    every = sorted(
        {*networks, *resolvers, *LOOPBACK, *_ALL},
        key=lambda one: (one.version, int(one.network_address), one.prefixlen),
    )
    rows = []
    for at, network in enumerate(every):  # those within follow at once
        inner = list(takewhile(partial(_is_in, above=network), islice(every, at + 1, None)))
        address = _outside(network, [*inner, _MAPPED] if network.version == 6 else inner)
        if address is not None:
            rows.append(NetRow(network, str(address), network in resolvers))
    return rows


def _supernets(networks: Iterable[Network]) -> dict[Network, tuple[Network, ...]]:
    """Each with all that it is in, itself included. Given in order, as `_net_rows` does."""
    found: dict[Network, tuple[Network, ...]] = {}
    above: list[Network] = []
    for network in networks:
        while above and not _is_in(network, above[-1]):
            above.pop()
        above.append(network)
        found[network] = tuple(above)
    return found


def _is_in(network: Network, above: Network) -> bool:
    return network.version == above.version and network.subnet_of(above)  # type: ignore[arg-type]


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
