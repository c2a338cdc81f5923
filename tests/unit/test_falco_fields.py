"""Every field that Falco documents is there, or is refused by name with the reason."""

from __future__ import annotations

import errno
import re
from pathlib import Path

import pytest

from hullwatch.detect.accounts import HostAccounts
from hullwatch.detect.engine import Engine
from hullwatch.detect.ruleset import load_texts
from hullwatch.detect.scene import Scene
from hullwatch.sensor.wire import Class
from support.falco_fields import Answer, answers, table
from support.rowwise import meets

DOCS = Path(__file__).resolve().parents[2] / "docs" / "falco.md"
EVERY = [one for found in answers().values() for one in found]


def rule(name: str, output: str = "o") -> str:
    return (
        f"- rule: r\n  desc: d\n  priority: INFO\n  output: '{output}'\n"
        f"  condition: evt.type in (openat, execve, connect) and {name} exists\n"
    )


@pytest.mark.parametrize("asked", EVERY, ids=lambda one: one.name)
def test_documented_field_is_there_or_refused_by_name(asked: Answer) -> None:
    for text in (rule(asked.name), rule("evt.num", f"x %{asked.name} y")):
        rules = load_texts([(text, "r.yaml")])
        said = " ".join(error.message for error in rules.errors)
        if asked.error:
            assert asked.name.partition("[")[0] in f"{said} {asked.error}"
            assert "unknown field" not in said, said
            assert len(rules.errors) == 1 and rules.errors[0].place.line
        else:
            # Some belong to events of other types, or never have a value: that is said so.
            assert not said or "never matches" in said, said


def test_most_of_them_are_there() -> None:
    supported = sum(not one.error for one in EVERY)
    assert (supported, len(EVERY)) >= (175, 300)


def test_the_page_says_so() -> None:
    """docs/falco.md holds support.falco_fields.table() as it is now."""
    found = re.search(r"<!-- fields -->\n(.*?)\n<!-- end -->", DOCS.read_text(), re.S)
    assert found and found[1].strip() == table()


def scene() -> Scene:
    """nginx, leader of its group, starts sh, which acts; a failed connect, a rename, an open."""
    made = Scene()
    pod = made.container(
        image="a/b:1",
        pod_uid="12-34",
        sandbox_id="ab" * 32,
        labels={"x": "1", "a": "2"},
        role="sandbox",
    )
    leader = made.process("nginx", workload=pod, pid=50, pgid=50)
    shell = made.process("sh", parent=leader, pid=51, pgid=50, workload=pod)
    flags = 2 << 16 | 1 << 8 | 6
    made.event(
        Class.CONNECT,
        shell,
        call="connect",
        obj=made.address("9.9.9.9:1"),
        flags=flags,
        ret=-errno.ECONNREFUSED,
    )
    made.event(
        Class.RENAME, shell, call="renameat2", obj=made.string("/a/x"), obj2=made.string("/b/y")
    )
    made.event(Class.OPEN, leader, call="openat", obj=made.string("/etc/x"), ret=-errno.ENOENT)
    return made


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("evt.type.is.connect = 1", 1),
        ("evt.type.is[renameat2] = 0", 2),
        ("evt.count.error = 1", 2),
        ("evt.count.error.net = 1", 1),
        ("evt.count.error.file = 1", 1),
        ("evt.count.error.memory = 1 or evt.count.error.other = 1", 0),
        ("evt.count.exit = 1", 3),
        ("evt.is_async = false", 3),
        ("evt.hostname = node-7", 3),
        ("evt.hostname = node-8", 0),
        ("evt.abspath = /b/y", 1),
        ("evt.abspath.src = /a/x", 1),
        ("evt.abspath.dst startswith /b", 1),
        ("proc.pgid.name = nginx", 3),
        ("proc.pgid.exepath = /usr/bin/nginx and proc.pgid.exe = nginx", 3),
        ("proc.is_pgid_leader = true", 1),
        ("container.is_pod_sandbox = true", 3),
        ("container.labels = 'a:2,x:1'", 3),
        ("k8s.pod.id = 12-34", 3),
        ("k8s.pod.sandbox_id = abababababab", 3),
    ],
)
def test_fields_that_few_rules_use(
    condition: str, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FALCO_HOSTNAME", "node-7")
    text = rule("evt.num").replace(
        "evt.type in (openat, execve, connect) and evt.num exists", f'"{condition}"'
    )
    rules = load_texts([(text, "r.yaml")])
    assert not rules.errors, rules.errors
    engine, enriched = Engine(rules, HostAccounts()), scene().enriched()
    plain = [
        meets(rules.rules[0].condition, engine.row(enriched, at), engine.env) for at in (0, 1, 2)
    ]
    assert sum(match.count for match in engine.match(enriched)) == sum(plain) == expected
