"""What policies tell apart, and which of them the kernel cannot ask."""

from __future__ import annotations

import re
from typing import Any

import cedarpy
import msgspec
import pytest

from hullwatch.decide.ahead import Holds, Needs, needs
from hullwatch.decide.engine import Engine
from hullwatch.decide.plan import MAX_LABELS, Plan
from hullwatch.sensor import wire

FILE = 'forbid (principal, action == Action::"open-read", resource is Path) when {{ {} }};'
HOST = 'forbid (principal, action == Action::"connect", resource is Host) when {{ {} }};'
ADDRESS = (
    'forbid (principal, action == Action::"connect", resource is Address)'
    " when {{ resource has ip && resource has port && {} }};"
)
SOCKET = (
    'forbid (principal, action == Action::"connect", resource is Address)'
    " when {{ resource has path && {} }};"
)


def of(policy: str) -> Needs:
    (found,) = needs(Engine.of([(policy, "p.cedar")])).values()
    return found


def test_what_holds_is_said_as_the_kernel_says_it():
    assert {one.name: int(one) for one in Holds} == {one.name: int(one) for one in wire.Holds}


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (FILE.format('resource has digest && resource.digest == "x"'), "not know resource.digest"),
        (FILE.format('resource has plugin && resource.plugin like "p*"'), "resource.plugin"),
        (FILE.format('context has program && context.program == "/x"'), "context.program"),
        (FILE.format("context has uid"), "does not know context.uid"),
        (FILE.format('resource.path == "/\u00e4"'), "characters that are special"),
        (FILE.format('resource.path == "a"'), "characters that are special"),
        (FILE.format("resource.path == resource.name"), "with what is not constant"),
        (FILE.format("[resource.name].containsAny([resource.path])"), "with what is not constant"),
        (FILE.format("context.labels.contains(resource.name)"), "context.labels with what is not"),
        (
            FILE.format("context has signals && context.signals.contains(resource.name)"),
            "does not know context.signals",
        ),
        (FILE.format("resource == (if true then resource else resource)"), "as a whole"),
        (FILE.format('resource in Path::"/x"'), "it uses `in`"),
        (FILE.format("context.hour + 1 > 3"), r"it uses `\+`"),
        (FILE.format('context.labels.contains("label-31")'), "no room for label-31"),
        (FILE.format(" || ".join(["true"] * 1_500)), "too many conditions"),
        (
            'forbid (principal, action == Action::"connect", resource == Host::"h:1");',
            "names one Host by its id",
        ),
        (HOST.format('resource.name like "10.*"'), r"part of an address \(10\.\)"),
        (HOST.format('resource.name like "*:"'), "part of an address"),
        (HOST.format('resource.name like "fe80*"'), "part of an address"),
        (ADDRESS.format("resource.port > 1024"), "puts resource.port in order"),
        (ADDRESS.format("resource.port == 0"), "port 0"),
        (ADDRESS.format("resource.ip.isInRange(resource.ip)"), "with what is not constant"),
        (ADDRESS.format('ip("10.0.0.1").isInRange(resource.ip)'), "with what is not constant"),
        (
            'forbid (principal, action == Action::"listen", resource is Address)'
            ' when { resource has path && resource.path == "/run/docker.sock" };',
            "listens on a Unix socket",
        ),
    ],
)
def test_what_the_kernel_cannot_ask_is_said(policy: str, why: str):
    found = of(policy)
    assert re.search(why, found.unheld), found


def test_a_form_that_is_new_is_not_held(monkeypatch: pytest.MonkeyPatch):
    engine = Engine.of([(FILE.format("true"), "p.cedar")])
    told = msgspec.json.decode(
        cedarpy.policies_to_json_str(next(iter(engine.policies.values())).matcher)
    )
    (said,) = told["staticPolicies"].values()
    odd: list[Any] = [
        {},
        [],
        {"a": 1, "b": 2},
        {"&&": {}},
        {"like": {"left": 3, "pattern": 4}},
        None,
    ]
    for body in odd:
        said["conditions"][0]["body"] = body
        text = msgspec.json.encode(told).decode()
        monkeypatch.setattr(cedarpy, "policies_to_json_str", lambda _, text=text: text)
        (found,) = needs(engine).values()
        assert "not known here" in found.unheld


def test_there_is_room_for_some_labels():
    named = [f"label-{number}" for number in range(3, 4 + MAX_LABELS)]
    texts = [FILE.format(f'context.labels.contains("{name}")') for name in named]
    plan = Plan(Engine.of([("\n".join(texts), "p.cedar")]))
    assert len(plan.labels) == MAX_LABELS
    assert list(plan.unheld.values()) == ["there are too many labels: label-8"]


@pytest.mark.parametrize(
    ("policy", "needed"),
    [
        (FILE.format('resource == Path::"/x"'), Needs(paths=frozenset(["/x"]))),
        (
            FILE.format('[Path::"/x", Path::"/y"].contains(resource)'),
            Needs(frozenset(["/x", "/y"])),
        ),
        (FILE.format('resource.path like "/a*"'), Needs(paths=frozenset(["/a**"]))),
        (FILE.format('resource.name like "a*"'), Needs(paths=frozenset(["a*"]))),
        (FILE.format("resource has upper"), Needs(upper=True)),
        (FILE.format('principal == Workload::"a"'), Needs(principal=True)),
        (FILE.format('principal.name like "a*"'), Needs(principal=True)),
        (
            FILE.format(
                'resource has upper && resource.upper == context.labels.contains("secret")'
            ),
            Needs(upper=True, labels=frozenset(["secret"])),
        ),
        (
            FILE.format("context.labels.isEmpty()"),
            Needs(labels=frozenset(["secret", "private", "untrusted"])),
        ),
        (FILE.format('context.labels.contains("pii")'), Needs()),
        (
            HOST.format('resource.name like "*.de"'),
            Needs(names=frozenset(["x.de"]), hosts=frozenset(["/**.de"])),
        ),
        (ADDRESS.format("resource.port == 70000"), Needs()),
        (
            SOCKET.format('resource.path == "/var/run/docker.sock"'),
            Needs(frozenset(["/run/docker.sock", "/var/run/docker.sock"])),
        ),
        (SOCKET.format('resource.path like "@x*"'), Needs(frozenset(["//x**"]))),
        (ADDRESS.format('resource.ip.isInRange(ip("::ffff:a00:0/104"))'), Needs()),
    ],
)
def test_what_is_told_apart(policy: str, needed: Needs):
    assert of(policy) == needed


def test_a_policy_of_files_and_hosts_tells_both_apart():
    found = of(
        'forbid (principal, action in [Action::"exec", Action::"connect"], resource)'
        ' when { resource has name && resource.name == "10.0.0.1" };'
    )
    assert found.paths == {"10.0.0.1"} and {str(one) for one in found.networks} == {"10.0.0.1/32"}
