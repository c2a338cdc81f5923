"""A baseline as policies: permits for what a workload was seen to do, and the cases beside them.

A permit makes a list for its workload, so whatever was not seen is blocked, once the policies are
enforced. Conditions are those that a kernel's table can hold: `==`, `contains` and `like` on paths
and names, `isInRange` on addresses, `==` on ports. Names are data: a workload chooses its own.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Any, NamedTuple

import yaml

from hullwatch.decide.habits import (
    STAR,
    Choice,
    hosts,
    networks,
    paths,
    things,
    too_wide,
    unlisted,
)
from hullwatch.decide.question import Effect
from hullwatch.decide.schema import clean
from hullwatch.detect.baseline.objects import ANY

__all__ = ["KINDS", "Suggestion", "Terms", "suggest"]

_CONTROLS = {
    "exec": "ASI05,T1059",
    "open-write": "ASI04,T1565.001",
    "connect": "ASI02,LLM02,T1071",
    "tool-call": "ASI02,LLM06",
    "model-call": "LLM02",
}
_EXAMPLES = 3  # cases of one policy
Names = Mapping[Any, int]
Block = list[str]
"""Lines of a condition."""


class Terms(NamedTuple):
    """workloads: names that the permits are for. image: only while they have this, '' for any.
    about: what was looked at, in words."""

    workloads: tuple[str, ...]
    owner: str
    review: date
    image: str = ""
    enforce: bool = False
    about: tuple[str, ...] = ()


class Suggestion(NamedTuple):
    """The texts of NAME.cedar and NAME.test.yaml. warnings: what to look at, in words."""

    policies: str
    cases: str
    warnings: tuple[str, ...]


class _Rule(NamedTuple):
    """One permit, whoever it is for. condition: [] for a list of nothing. seen, unseen: resources
    that it holds for and not, as cases have them, or their ids."""

    suffix: str
    action: str
    resource: str
    condition: Block
    seen: Sequence[str | dict[str, Any]]
    unseen: str


def suggest(seen: Mapping[str, Names], terms: Terms) -> Suggestion:
    """seen: names to how often, by kind (KINDS); 0 for what a person accepted."""
    unbounded = tuple(kind for kind in KINDS if ANY in seen.get(kind, ()))
    bounded = [kind for kind in KINDS if kind not in unbounded]
    rules = [rule for kind in bounded for rule in KINDS[kind](seen.get(kind, {}))]
    warnings = (
        *(
            f"{kind}: more was seen than a baseline holds, so there is no list"
            for kind in unbounded
        ),
        *_wide({kind: seen.get(kind, {}) for kind in bounded}),
    )
    texts, cases = [_head(terms, warnings)], []
    for workload, ident in zip(
        terms.workloads, _distinct(map(_slug, terms.workloads)), strict=True
    ):
        for rule, suffix in zip(rules, _distinct(rule.suffix for rule in rules), strict=True):
            texts.append(_policy(f"{ident}-{suffix}", workload, rule, terms))
            cases.append(_cases(f"{ident}-{suffix}", workload, rule, terms))
    dumped = yaml.safe_dump(cases, sort_keys=False, allow_unicode=True, width=100)
    return Suggestion("\n".join(texts), dumped, warnings)


def _wide(seen: Mapping[str, Names]) -> Iterator[str]:
    """What a baseline has made too general to be of use."""
    for kind in ("exec", "write"):
        for name in filter(too_wide, seen.get(kind, ())):
            yield f"{kind} {name}: left out, as a pattern for it would be one for all"
    for name in seen.get("connect", ()):
        if name.startswith(("{ip}:", "{name}:")):
            port = name.rpartition(":")[2]
            yield f"connect {name}: many were seen, so port {port} of anything is permitted"


def _distinct(names: Iterable[str]) -> Iterator[str]:
    used: Counter[str] = Counter()
    for name in names:
        used[name] += 1
        yield f"{name}-{used[name]}" if used[name] > 1 else name


# --- what is permitted, by kind -----------------------------------------------------------


def _programs(names: Names) -> Iterator[_Rule]:
    return _of_paths("exec", "exec", "Binary", paths(names))


def _written(names: Names) -> Iterator[_Rule]:
    return _of_paths("write", "open-write", "Path", paths(names, folders=True))


def _of_paths(suffix: str, action: str, resource: str, choice: Choice) -> Iterator[_Rule]:
    for part in [*choice.parts()] or [choice]:
        condition = _any(_chosen("resource.path", part))
        yield _Rule(suffix, action, resource, condition, part.examples, "/never/seen/before")


def _ends(names: Names) -> Iterator[_Rule]:
    """Hosts by name, addresses, Unix sockets; a list of no hosts where there are none."""
    named: dict[int, dict[str, int]] = {}
    addressed: dict[int, dict[str, int]] = {}
    sockets: dict[str, int] = {}
    for name, count in names.items():
        host, _, port = name.rpartition(":")
        host = host.strip("[]")
        if name.startswith("unix:"):
            sockets[name.removeprefix("unix:")] = count
        elif port.isdecimal() and not unlisted(host, int(port)):
            held = addressed if host == "{ip}" or _is_address(host) else named
            held.setdefault(int(port), {})[host] = count
    yield from _of_hosts(named)
    yield from _of_addresses(addressed)
    if sockets:
        for rule in _of_paths("sockets", "connect", "Address", paths(sockets)):
            yield rule._replace(condition=_both("resource has path", [rule.condition]))


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _of_hosts(by_port: Mapping[int, Names]) -> Iterator[_Rule]:
    made = []
    for port in sorted(by_port):
        for part in hosts(by_port[port]).parts():
            here = _both(f"resource.port == {port}", _chosen("resource.name", part))
            made.append((here, [f"{one}:{port}" for one in part.examples]))
    yield from _at_ports("hosts", "Host", "resource has port", made, "never.seen.example:9")
    if not made:
        yield _Rule("hosts", "connect", "Host", [], [], "never.seen.example:9")


def _of_addresses(by_port: Mapping[int, Names]) -> Iterator[_Rule]:
    made = []
    for port in sorted(by_port):
        held = by_port[port]
        if "{ip}" in held:
            more = f"resource.port == {port} // any address: more than a baseline keeps"
            made.append(([more], [f"192.0.2.77:{port}"]))
            continue
        for part in Choice(networks(held), {}).parts():
            ranges = [
                [f'resource.ip.isInRange(ip("{network}")) // {seen}']
                for network, seen in part.texts.items()
            ]
            seen = [f"[{one}]:{port}" if ":" in one else f"{one}:{port}" for one in part.examples]
            made.append((_both(f"resource.port == {port}", ranges), seen))
    has = "resource has ip && resource has port"
    yield from _at_ports("addresses", "Address", has, made, "192.0.2.1:9")


def _at_ports(
    suffix: str, resource: str, has: str, made: Sequence[tuple[Block, list[str]]], unseen: str
) -> Iterator[_Rule]:
    """As many conditions in one policy as its length allows."""
    held: list[tuple[Block, list[str]]] = []
    for at, one in enumerate(made):
        held.append(one)
        if at + 1 == len(made) or sum(len(block) for block, _ in held) > 100:
            seen = [example for _, examples in held for example in examples]
            condition = _both(has, [block for block, _ in held])
            yield _Rule(suffix, "connect", resource, condition, seen, unseen)
            held = []


def _of_calls(
    suffix: str, action: str, resource: str, above: str
) -> Callable[..., Iterator[_Rule]]:
    """Names are pairs, (server, tool) or (provider, model). No list where none was seen: calls are
    not seen everywhere."""

    def made(names: Names) -> Iterator[_Rule]:
        by_owner: dict[str, dict[str, int]] = {}
        for (owner, name), count in sorted(names.items()):
            by_owner.setdefault(clean(owner), {})[name] = count
        for owner, held in by_owner.items():
            has = f"resource has {above} && resource.{above} == {_quoted(owner)}"
            for part in things(held).parts():
                condition = _both(
                    has if owner else f"!(resource has {above})", _chosen("resource.name", part)
                )
                seen = [_thing(resource, above, owner, one) for one in part.examples]
                yield _Rule(suffix, action, resource, condition, seen, "never-seen/before")

    return made


def _thing(kind: str, above: str, owner: str, name: str) -> dict[str, Any]:
    """A resource of a case: the names are told, as an id with odd ones could be read otherwise."""
    attributes = {"name": name, **({above: owner} if owner else {})}
    return {"kind": kind, "id": f"{owner}/{name}", "attributes": attributes}


KINDS: dict[str, Callable[[Names], Iterator[_Rule]]] = {
    "exec": _programs,
    "write": _written,
    "connect": _ends,
    "tool": _of_calls("tools", "tool-call", "Tool", "server"),
    "model": _of_calls("models", "model-call", "Model", "provider"),
}
"""exec, write and connect as baselines have them."""


# --- as text ------------------------------------------------------------------------------


def _chosen(attribute: str, choice: Choice) -> list[Block]:
    found: list[Block] = []
    if choice.texts:
        rows = [(_quoted(text), seen) for text, seen in choice.texts.items()]
        *most, (last, seen) = rows
        listed = [f"    {text}, // {said}" for text, said in most]
        found.append(["[", *listed, f"    {last} // {seen}", f"].contains({attribute})"])
    for pattern, seen in choice.patterns.items():
        found.append([f'{attribute} like "{_pattern(pattern)}" // {seen}'])
    return found


def _any(blocks: Sequence[Block]) -> Block:
    """One of them holds."""
    lines: Block = []
    for block in blocks:
        lines += [f"|| {block[0]}" if lines else block[0], *block[1:]]
    return lines


def _both(head: str, blocks: Sequence[Block]) -> Block:
    """head and one of them; for none nothing."""
    return [f"{head} && (", *(f"    {line}" for line in _any(blocks)), ")"] if blocks else []


_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _quoted(text: str) -> str:
    """As Cedar writes it."""
    return f'"{"".join(map(_escaped, text))}"'


def _pattern(text: str) -> str:
    """The same, of a pattern."""
    return "*".join(_quoted(part)[1:-1].replace("*", "\\*") for part in text.split(STAR))


def _escaped(char: str) -> str:
    return _ESCAPES.get(char, char if char.isprintable() else f"\\u{{{ord(char):x}}}")


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", name)[:60].strip("_.-") or "workload"


def _plain(text: str) -> str:
    """For comments and annotations, which have no escapes."""
    return re.sub(r'[^ -~]+|[\\"]', " ", text)[:200]


def _head(terms: Terms, warnings: Sequence[str]) -> str:
    lines = [
        "What was seen, as `hullwatch policy suggest` wrote it: read it before it is enforced.",
        *terms.about,
        "Once enforced, whatever these workloads run, write or contact beyond it is blocked, and so"
        " are",
        "tools and models where some were seen. Reading and listening are free. No list is about",
        "the machine's own addresses, nor about resolvers (port 53).",
        *(f"LOOK AT: {one}" for one in warnings),
    ]
    return "".join(f"// {_plain(line)}\n" for line in lines)


def _policy(ident: str, workload: str, rule: _Rule, terms: Terms) -> str:
    notes = {
        "id": ident,
        "mode": "" if terms.enforce else "observe",
        "owner": _plain(terms.owner).strip(),
        "review": terms.review.isoformat(),
        "controls": _CONTROLS[rule.action],
        "reason": f"{_plain(workload)} was seen to do so",
    }
    who = f'principal == Workload::{_quoted(clean(workload))}, action == Action::"{rule.action}"'
    image = f"when {{ context has image && context.image == {_quoted(clean(terms.image))} }}"
    return "\n".join(
        [
            *(f'@{name}("{value}")' for name, value in notes.items() if value),
            f"permit ({who}, resource is {rule.resource})",
            *([image] if terms.image else []),
            "when {",
            *(f"    {line}" for line in rule.condition or ["false // none was seen"]),
            "};\n",
        ]
    )


def _cases(ident: str, workload: str, rule: _Rule, terms: Terms) -> dict[str, Any]:
    rows = [(one, Effect.ALLOW) for one in rule.seen[:_EXAMPLES]]
    return {
        "policy": ident,
        "cases": [
            {
                "name": f"seen, {number}" if effect is Effect.ALLOW else "never seen",
                "expect": effect.value,
                "principal": {"kind": "Workload", "id": clean(workload)},
                "action": rule.action,
                "resource": {"kind": rule.resource, "id": clean(one)}
                if isinstance(one, str)
                else one,
                **({"context": {"image": clean(terms.image)}} if terms.image else {}),
            }
            for number, (one, effect) in enumerate([*rows, (rule.unseen, Effect.BLOCK)], 1)
        ],
    }
